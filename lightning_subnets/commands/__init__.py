"""The commands ``lightning`` and ``subnets``: parsing, run directories, and errors in one line.

This room may import every other room. Start reading in ``cli.py`` (``lightning``) or ``subnets.py`` (``subnets``).
``subnets.py`` and ``failures.py`` import torch inside functions only, so that ``subnets --help`` is quick.
"""
