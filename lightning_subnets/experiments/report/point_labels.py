"""Labels of points, kept apart from each other and from the lines if there is space."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from lightning_subnets.experiments.report.figure_layout import LETTERS, TEXT, FigureLayout
from lightning_subnets.run_files.drawing import legible, shortened

# Positions to try, in points from what is labelled, the nearest first.
OFFSETS = [(x * far, y * far) for far in (6, 16, 26, 36) for y in (1, -1, 0) for x in (0, 1, -1) if x or y]


def add(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    """Label a point; ``place`` moves the label once the figure has its final size."""
    axes.annotate(
        shortened(text, LETTERS["point"]),
        (x, y),
        xytext=(0, 0),
        textcoords="offset points",
        color=legible(colour),
        fontsize=TEXT,
        zorder=5,
        in_layout=False,
        parse_math=False,
    )


def place(layout: FigureLayout) -> None:
    """Move each label to the position where it covers least."""
    layout.figure.draw_without_rendering()
    for axes in layout.axes:
        labels = [text for text in axes.texts if isinstance(text, Annotation)]
        paths = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
        taken: list[Bbox] = []
        for label in labels:
            costs = [_cost(_move(label, to), axes.bbox, taken, paths) + math.hypot(*to) for to in OFFSETS]
            taken.append(_move(label, OFFSETS[int(np.argmin(costs))]))


def _move(label: Annotation, offset: tuple[int, int]) -> Bbox:
    """Move a label so that it extends away from its point, and return its bounding box."""
    x, y = offset
    label.set_position(offset)
    label.set_horizontalalignment(("center", "left", "right")[np.sign(x)])
    label.set_verticalalignment(("center", "bottom", "top")[np.sign(y)])
    return label.get_window_extent()


def _cost(box: Bbox, panel: Bbox, taken: Iterable[Bbox], paths: Iterable[Path]) -> float:
    """Return the per cent of a label that other labels or the panel's edge cover, plus 30 for each line under it."""
    size = box.width * box.height
    covered = sum(_overlap(box, other) for other in taken) + size - _overlap(box, panel)
    return float(100 * covered / size + 30 * sum(path.intersects_bbox(box, filled=False) for path in paths))


def _overlap(one: Bbox, other: Bbox) -> float:
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else float(shared.width * shared.height)
