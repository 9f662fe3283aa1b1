"""Continual learning: a mask for each task over the weights of one seed.

Start with ``supsup.py``. This room may import the rooms of the library below it: ``subnet_file``, ``graph``,
``masking`` and ``errors``.
"""

from lightning_subnets.continual.supsup import SupSup

__all__ = ["SupSup"]
