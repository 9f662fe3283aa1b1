"""How wide a network's layers are."""

from __future__ import annotations

from lightning_subnets.errors import UserError


def scaled(width: int, multiplier: float, network: str) -> int:
    """A number of channels or units times the multiplier, rounded down.

    Args:
        network: the name for the error.

    Raises:
        ValueError: if none is left.
    """
    if not width * multiplier >= 1:
        raise UserError(f"width_multiplier = {multiplier} leaves {network} without channels: at least 1/{width}")
    return int(width * multiplier)
