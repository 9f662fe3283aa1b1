"""The layout and the style of a sweep's figure: a title, panels, and below them one legend and notes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from lightning_subnets.errors import printable
from lightning_subnets.run_files.drawing import (
    EVALUATION,
    TRAIN,
    WIDTH,
    new_figure,
    shortened,
)

COLUMNS = 2  # of panels, at most
DPI = 150  # of a figure as PNG
PANEL_HEIGHT = {1: 3.0, 2: 2.3}  # in inches, by columns of panels
TITLE, TEXT = 12, 10  # font sizes in points
LETTERS = {"title": 200, "panel": 60, "line": 40, "x": 18, "point": 18}  # of names in a figure, at most
LINE_HEIGHT = 1.45 / 72  # in inches per point of font size
WARNING = "#9C2A00"

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow, which is faint on white.
COLOURS = (TRAIN, EVALUATION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
# Fewer by one than the colours of the lines after the first, so that two lines of one colour differ in their dashes.
DASHES = ((0, (5, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (1, 1.2)), (0, (2.5, 1.2)), (0, (3, 1, 1, 1, 1, 1)))
LINES = len(COLOURS)  # in one panel at most, so that each has its own colour
Style = dict[str, Any]


def styles(lines: Iterable[str]) -> dict[str, Style]:
    """Return matplotlib's arguments for each line of a figure, which depend on the line's place in it only.

    So a line looks the same in all plots and at all scales. Only the first, to which the others are compared, is solid
    and of the first colour.
    """
    first, *others = COLOURS
    return {
        line: {
            "color": others[(place - 1) % len(others)] if place else first,
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": DASHES[(place - 1) % len(DASHES)] if place else "solid",
        }
        for place, line in enumerate(lines)
    }


class FigureLayout:
    """A figure of equal panels, as wide as every picture.

    Args:
        panels: the number of panels.
        x_names: the names on the x axis of each panel; they are slanted if they do not fit side by side.
        columns: the number of panels side by side, at most.
        extra_height: inches to add to each row of panels, for other long labels under it.
        share_x: whether all panels have the same x axis.
    """

    def __init__(
        self,
        panels: int,
        *,
        x_names: Sequence[str] = (),
        extra_height: float = 0.0,
        share_x: bool = True,
        columns: int = COLUMNS,
    ) -> None:
        self._rows = math.ceil(panels / columns)
        self._columns = math.ceil(panels / self._rows)
        longest = max((len(shortened(name, LETTERS["x"])) for name in x_names), default=0)
        self.slanted = 0.105 * longest * len(x_names) > (WIDTH - 0.8) / self._columns
        extra_height += 0.06 * longest if self.slanted else 0
        self._height = self._rows * (PANEL_HEIGHT[self._columns] + extra_height)
        self.figure = new_figure(self._height)
        grid = self.figure.subplots(self._rows, self._columns, sharex=share_x, sharey=True, squeeze=False)
        self.axes: list[Axes] = list(grid.flat[:panels])
        for unused in grid.flat[panels:]:
            unused.remove()
        for axes in self.axes:
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(labelsize=TEXT, labelbottom=True)

    def label(self, x: str, y: str) -> None:
        """Label x under the last panel of each column, and y beside the first of each row."""
        for place, axes in enumerate(self.axes):
            if place + self._columns >= len(self.axes):
                axes.set_xlabel(_wrapped(x, WIDTH / self._columns - 0.5, TEXT), fontsize=TEXT, parse_math=False)
            if place % self._columns == 0:
                axes.set_ylabel(_wrapped(y, PANEL_HEIGHT[self._columns], TEXT), fontsize=TEXT, parse_math=False)

    def entitle(self, axes: Axes, title: str) -> None:
        """Set the title of a panel."""
        text = _wrapped(shortened(title, LETTERS["panel"]), WIDTH / self._columns - 0.5, TEXT)
        axes.set_title(text, fontsize=TEXT, parse_math=False)

    def finish(self, title: str, notes: Sequence[str], warnings: Sequence[str], handles: Sequence[Artist]) -> None:
        """Add the title, the legend and the notes above it, in red if there are warnings, and the height they need."""
        wrapped = _wrapped(shortened(title, LETTERS["title"]), WIDTH - 0.4, TITLE)
        said = "\n".join(_wrapped(printable(note), WIDTH - 0.4, TEXT) for note in [*notes, *warnings])
        for handle in handles:
            handle.set_label(shortened(str(handle.get_label()), LETTERS["line"]))
        longest = max((len(str(handle.get_label())) for handle in handles), default=0)
        rows = math.ceil(len(handles) / max(1, int((WIDTH - 0.4) / (0.65 + 0.075 * longest))))
        columns = math.ceil(len(handles) / max(1, rows))
        lines = ((wrapped, TITLE, 1), (said, TEXT, 1), ("", TEXT, rows))
        heights = [(text.count("\n") + count) * size * LINE_HEIGHT for text, size, count in lines]
        self.figure.set_size_inches(WIDTH, self._height + sum(heights) + 0.3)
        self.figure.suptitle(wrapped, x=0.02, ha="left", size=TITLE, weight="bold", parse_math=False)
        legend = self.figure.legend(
            handles=handles,
            loc="outside lower left",
            ncols=max(1, columns),
            frameon=False,
            fontsize=TEXT,
            handlelength=2.6,
            columnspacing=1,
            title=said,
            title_fontsize=TEXT,
            alignment="left",
        )
        legend.get_title().set_color(WARNING if warnings else "#333333")
        for text in (legend.get_title(), *legend.get_texts()):
            text.set_parse_math(False)


def _wrapped(text: str, inches: float, size: int) -> str:
    letter = 0.6 * size / 72  # inches of a wide letter of DejaVu Sans, bold
    return textwrap.fill(text, int(inches / letter))
