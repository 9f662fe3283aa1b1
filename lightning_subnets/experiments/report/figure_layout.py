"""A picture's sheet: a title, panels, one legend for all of them, and notes, none of which covers another."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMNS = 4  # of panels, at most
WIDTHS = {1: 6.4, 2: 7.6, 3: 9.6, 4: 11.0}  # of the sheet in inches, by columns
PANEL_HEIGHT = {1: 3.4, 2: 2.7, 3: 2.6, 4: 2.5}
TITLE, NOTE, LABEL, TICK = 12, 9, 10, 9  # sizes of type in points
WARNING = "#9C2A00"
LINE_HEIGHT = 1.45 / 72  # in inches a point of type
MARGIN = 0.12


class FigureLayout:
    """
    Args:
        panels: how many; they are wrapped to rows of much the same length.
        room: inches that each row of panels needs more, as for long names under it.
    """

    def __init__(self, panels: int, *, room: float = 0.0, share_x: bool = True) -> None:
        self._rows = math.ceil(panels / COLUMNS)
        self._columns = math.ceil(panels / self._rows)
        self.panel_width = (WIDTHS[self._columns] - 0.8) / self._columns
        self._panels_height = self._rows * (PANEL_HEIGHT[self._columns] + room)
        self.figure = Figure(figsize=(WIDTHS[self._columns], self._panels_height), layout="constrained")
        FigureCanvasAgg(self.figure)  # without pyplot: no window system, no state shared with the user's own figures
        grid = self.figure.subplots(self._rows, self._columns, sharex=share_x, sharey=True, squeeze=False)
        self.axes: list[Axes] = list(grid.flat[:panels])
        for unused in grid.flat[panels:]:
            unused.remove()
        for axes in self.axes:
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(labelsize=TICK, labelbottom=True)

    def label(self, x: str, y: str) -> None:
        """Name the axes once a column and once a row."""
        for place, axes in enumerate(self.axes):
            if place + self._columns >= len(self.axes):
                axes.set_xlabel(x, fontsize=LABEL, parse_math=False)
            if place % self._columns == 0:
                axes.set_ylabel(y, fontsize=LABEL, parse_math=False)

    def finish(self, title: str, notes: Sequence[tuple[str, bool]], handles: Sequence[Artist]) -> None:
        """Add what stands around the panels, and room for it.

        Args:
            notes: under the panels, each with whether it is a warning.
            handles: of the legend.
        """
        title = self._wrapped(title, TITLE)
        wrapped = [(self._wrapped(note, NOTE), warns) for note, warns in notes]
        title_height = _height(title, TITLE) + MARGIN
        notes_height = sum(_height(note, NOTE) for note, _ in wrapped) + MARGIN
        legend_height = self._legend(handles) + MARGIN
        width, panels = self.figure.get_size_inches()[0], self._panels_height
        height = title_height + panels + legend_height + notes_height
        self.figure.set_size_inches(width, height)
        bottom = (notes_height + legend_height) / height
        self.figure.set_layout_engine("constrained", rect=(0, bottom, 1 - MARGIN / width, panels / height))
        for legend in self.figure.legends:
            legend.set_bbox_to_anchor((0.5, notes_height / height), transform=self.figure.transFigure)
        left = MARGIN / width
        self.figure.text(left, 1 - MARGIN / height, title, size=TITLE, weight="bold", va="top", parse_math=False)
        y = notes_height
        for note, warns in wrapped:
            colour, weight = (WARNING, "bold") if warns else ("#333333", "normal")
            self.figure.text(left, y / height, note, size=NOTE, color=colour, weight=weight, va="top", parse_math=False)
            y -= _height(note, NOTE)
        for text in self.figure.texts:
            text.set_in_layout(False)

    def _legend(self, handles: Sequence[Artist]) -> float:
        """In as many columns as fit. Returns: its height in inches."""
        if not handles:
            return 0.0
        width = self.figure.get_size_inches()[0] - 2 * MARGIN
        rows_of = {math.ceil(len(handles) / columns) for columns in range(1, min(len(handles), 6) + 1)}
        for columns in (math.ceil(len(handles) / rows) for rows in sorted(rows_of)):
            legend = self.figure.legend(
                handles=handles, loc="lower center", ncols=columns, frameon=False, fontsize=LABEL, handlelength=3.2
            )
            legend.set_in_layout(False)
            for text in legend.get_texts():
                text.set_parse_math(False)
            box = legend.get_window_extent()
            if box.width / self.figure.dpi <= width or columns == 1:
                return float(box.height / self.figure.dpi)
            legend.remove()
        raise AssertionError("one column is always taken")

    def _wrapped(self, text: str, size: int) -> str:
        inches = 0.6 * size / 72  # a wide letter of DejaVu Sans, bold
        return textwrap.fill(text, int((self.figure.get_size_inches()[0] - 2 * MARGIN) / inches))


def _height(text: str, size: int) -> float:
    return (text.count("\n") + 1) * size * LINE_HEIGHT


def as_bytes(figure: Figure, form: str) -> bytes:
    """A figure as a file, ``png`` or ``pdf``; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format=form, dpi=150, metadata={"CreationDate": None} if form == "pdf" else None)
    return file.getvalue()
