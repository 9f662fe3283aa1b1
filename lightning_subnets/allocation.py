"""How a density becomes a number of weights kept in each layer."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_subnets.errors import UserError


def check_density(density: float) -> float:
    """The density itself.

    Raises:
        ValueError: if it is outside (0, 1].
    """
    if not 0.0 < density <= 1.0:
        raise UserError(
            f"density = {density} is outside (0, 1]: it is the fraction of weights kept, 0.3 for the paper's 30 %"
        )
    return density


def num_kept(total: int, density: float) -> int:
    """Weights kept of ``total``: n - int((1 - density) * n).

    Source: Ramanujan et al. 2020, Algorithm 1.
    """
    return total - int((1 - density) * total)


def uniform(totals: Mapping[str, int], density: float) -> dict[str, int]:
    """Every layer at the same density, the first and the last included.

    Args:
        totals: the number of weights of each layer, by its name.
    """
    return {name: num_kept(total, density) for name, total in totals.items()}
