"""How the lines of a figure are told apart: by colour, and in grey by marker and dashes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

# Okabe and Ito's colours, told apart by colour-blind readers too; without the yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
# One fewer than colours, so that two lines of one colour differ in dashes.
DASHES = ("solid", (0, (5, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (1, 1.2)), (0, (2.5, 1.2)), (0, (3, 1, 1, 1, 1, 1)))


class Style(NamedTuple):
    colour: str
    marker: str
    dashes: Literal["solid"] | tuple[int, tuple[float, ...]]


def styles(lines: Iterable[str]) -> dict[str, Style]:
    """Of each line of a figure by its place there, so that it looks the same in all pictures and at all scales."""
    return {
        name: Style(*(kinds[place % len(kinds)] for kinds in (COLOURS, MARKERS, DASHES)))  # type: ignore[arg-type]
        for place, name in enumerate(lines)
    }
