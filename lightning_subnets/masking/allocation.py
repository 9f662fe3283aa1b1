"""The number of weights that each layer keeps at a given density."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from lightning_subnets.errors import UserError, unknown


def check_density(density: float) -> float:
    """Return a density in (0, 1], and refuse any other."""
    if not 0.0 < density <= 1.0:
        raise UserError(
            f"density = {density} is outside (0, 1]: it is the fraction of weights kept, 0.3 for the paper's 30 %"
        )
    return density


def check_allocation(allocation: str, known: tuple[str, ...]) -> str:
    """Return a known allocation, and refuse any other."""
    if allocation not in known:
        raise unknown("allocation", allocation, known)
    return allocation


def num_kept(total: int, density: float) -> int:
    """Return how many of ``total`` weights are kept: n - int((1 - density) * n).

    Source: Ramanujan et al. 2020, Algorithm 1.
    """
    return total - int((1 - density) * total)


def uniform(shapes: Mapping[str, torch.Size], density: float) -> dict[str, int]:
    """Return the number of weights kept in each layer if all layers have the same density."""
    return {name: num_kept(total, density) for name, total in _totals(shapes).items()}


def erk(shapes: Mapping[str, torch.Size], density: float) -> dict[str, int]:
    """Return the number of weights kept in each layer by Erdos-Renyi-Kernel, which keeps more of small layers.

    The density of a layer is d_l = min(1, e (n_in + n_out + kh + kw) / (n_in n_out kh kw)), with e such that
    sum_l d_l n_l = density sum_l n_l. The layers that lose most by rounding down get the remaining weights, so that
    ``num_kept`` of all weights are kept.

    Args:
        shapes: of the weights, (out, in) or (out, in / groups, height, width), by layer.
        density: fraction kept of all weights.
    Source: Evci et al. 2020, "Rigging the Lottery", section 3.
    """
    # d_l n_l is proportional to the sum of the shape.
    totals = _totals(shapes)
    return _in_proportion({name: sum(shape) for name, shape in shapes.items()}, totals, _of_all(totals, density))


def equal(shapes: Mapping[str, torch.Size], density: float) -> dict[str, int]:
    """Return the number of weights kept in each layer if all layers keep equally many, or all they have.

    Arguments and rounding are those of ``erk``.

    Source: Price and Tanner 2021, "Dense for the Price of Sparse", "equal per layer".
    """
    totals = _totals(shapes)
    return _in_proportion(dict.fromkeys(shapes, 1), totals, _of_all(totals, density))


def smart_ratio(shapes: Mapping[str, torch.Size], density: float) -> dict[str, int]:
    """Return the number of weights kept in each layer by smart ratio, which keeps more of the first layers.

    The density of layer l of L is d_l = min(1, e ((L - l + 1)^2 + (L - l + 1))), but that of the last layer is 0.3, or
    more if the others are full. Arguments and rounding are those of ``erk``; layers have the order of ``shapes``.

    The last layer is the classifier in the paper, which masks every layer. Here it is the last one that is masked: with
    a dense classifier (``keep_dense``) the 0.3 go to the layer before, often a large one; ``erk`` has no such layer.

    Raises:
        ValueError: if 0.3 of the last layer is more than is kept in all.
    Source: Su et al. 2020, "Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot".
    """
    totals = _totals(shapes)
    wanted = _of_all(totals, density)
    *_, last = totals
    in_last = totals.pop(last)
    kept = max(num_kept(in_last, _LAST_LAYER), wanted - sum(totals.values()))
    if kept > wanted:
        raise UserError(
            f"allocation = 'smart_ratio' keeps {_LAST_LAYER} of the last masked layer, {kept} weights of {last!r}, and "
            f"density = {density} keeps {wanted} of all: take a larger density, or allocation erk; and mask the "
            "classifier too, if keep_dense names it, because it is the layer that smart_ratio means"
        )
    ranks = {name: len(totals) + 1 - number for number, name in enumerate(totals)}  # L - l + 1
    parts = {name: totals[name] * (rank * rank + rank) for name, rank in ranks.items()}
    return {**_in_proportion(parts, totals, wanted - kept), last: kept}


_LAST_LAYER = 0.3
BY_SHAPES = {"uniform": uniform, "erk": erk, "equal": equal, "smart_ratio": smart_ratio}


def _totals(shapes: Mapping[str, torch.Size]) -> dict[str, int]:
    return {name: shape.numel() for name, shape in shapes.items()}


def _of_all(totals: Mapping[str, int], density: float) -> int:
    return num_kept(sum(totals.values()), density)


def _in_proportion(parts: Mapping[str, int], totals: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Return the numbers kept in proportion to the parts, of each layer at most all; see ``erk`` for the rounding."""
    full: set[str] = set()
    while True:
        shares = {name: float(part) for name, part in parts.items() if name not in full}
        left = wanted - sum(totals[name] for name in full)
        exact = {name: left * share / sum(shares.values()) for name, share in shares.items()}
        over = {name for name, count in exact.items() if count > totals[name]}
        if not over:
            break
        full |= over
    counts = {name: totals[name] if name in full else math.floor(exact[name]) for name in totals}
    by_loss = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_loss[: wanted - sum(counts.values())]:
        counts[name] += 1
    return counts
