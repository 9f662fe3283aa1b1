"""The width of a network's layers."""

from __future__ import annotations

from lightning_subnets.errors import UserError


def scaled(width: int, multiplier: float, network: str) -> int:
    """Return a number of channels or units times the multiplier, rounded down; ``network`` is for the error message."""
    if not width * multiplier >= 1:
        raise UserError(f"width_multiplier = {multiplier} leaves {network} without channels: at least 1/{width}")
    return int(width * multiplier)
