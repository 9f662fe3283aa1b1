"""Many runs for one figure of a paper: ``sweep`` plans and runs them, ``report`` draws and tabulates what they found.

This room may import every room except ``commands``. Start reading in ``sweep/figure.py``, the file format of a figure,
then ``sweep/plan.py``, ``sweep/running.py``, and ``report/__init__.py``. ``sanity.py`` tests what a mask depends on.
"""
