"""Names beside points, kept apart from each other and from the lines as far as there is room."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

# Where a label may stand, from its point in points of type, the nearest first.
OFFSETS = [(x * far, y * far) for far in (6, 12, 20) for y in (1, -1, 0) for x in (0, 1, -1) if x or y]


class PointLabel(NamedTuple):
    axes: Axes
    x: float
    y: float
    text: str
    colour: str


def place(figure: Figure, labels: Iterable[PointLabel]) -> None:
    """Write the labels, each where it covers least; the figure has its final size and limits by then."""
    figure.draw_without_rendering()
    ink: dict[Axes, NDArray[np.float64]] = {}
    taken: dict[Axes, list[Bbox]] = {}
    for axes, x, y, text, colour in labels:
        if axes not in ink:
            ink[axes], taken[axes] = _ink(axes), []
        note = axes.annotate(
            text,
            (x, y),
            textcoords="offset points",
            xytext=(0, 0),
            color=colour,
            fontsize=8,
            zorder=5,
            in_layout=False,
            parse_math=False,
        )
        costs = [
            _cost(_moved(note, offset), axes.bbox, taken[axes], ink[axes]) + math.hypot(*offset) for offset in OFFSETS
        ]
        taken[axes].append(_moved(note, OFFSETS[int(np.argmin(costs))]))


def _moved(note: Annotation, offset: tuple[int, int]) -> Bbox:
    """The box of a note that has been moved there, so that it grows away from its point."""
    x, y = offset
    note.set_position(offset)
    note.set_horizontalalignment("center" if x == 0 else "left" if x > 0 else "right")
    note.set_verticalalignment("center" if y == 0 else "bottom" if y > 0 else "top")
    return note.get_window_extent()


def _cost(box: Bbox, inside: Bbox, taken: Iterable[Bbox], ink: NDArray[np.float64]) -> float:
    """What a label there covers, in shares of its own size: of what is outside, of other labels, of lines."""
    size = box.width * box.height
    covered = sum(_common(box, other) for other in taken) + size - _common(box, inside)
    crossed = np.count_nonzero(((ink > box.min) & (ink < box.max)).all(axis=1))
    return float(100 * covered / size + crossed)


def _common(one: Bbox, other: Bbox) -> float:
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else float(shared.width * shared.height)


def _ink(axes: Axes) -> NDArray[np.float64]:
    """Positions on the lines of a panel, a few pixels apart."""
    dense = [np.empty((0, 2))]
    for line in axes.lines:
        points = line.get_transform().transform(np.asarray(line.get_xydata(), dtype=float))
        if len(points) == 0:
            continue
        steps = np.arange(len(points))
        fine = np.linspace(0, len(points) - 1, 200)
        dense.append(np.stack([np.interp(fine, steps, points[:, axis]) for axis in (0, 1)], axis=1))
    return np.concatenate(dense)
