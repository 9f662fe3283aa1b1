"""The files of a run: its directory, its config, its summary and its pictures.

Start with ``run_directory.py`` and ``saved_run.py``. This room may import everything except ``commands`` and
``experiments``.
"""
