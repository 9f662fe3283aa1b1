"""The commands ``lightning`` and ``subnets``."""
