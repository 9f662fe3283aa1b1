"""Tables as CSV, in which no text is a formula to a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

Cell = str | float | None
Row = dict[str, Cell]

# A spreadsheet that opens the file computes texts that begin like this, =HYPERLINK("http://...") for instance.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def table(rows: Sequence[Mapping[str, Cell]]) -> str:
    """Return rows as CSV with the column names of the first row, and ``escape`` all cells."""
    text, columns = io.StringIO(newline=""), list(rows[0]) if rows else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(escape, columns))
    writer.writerows([escape(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows that ``table`` was given, with numbers as text.

    Raises:
        ValueError: if the file is not CSV, or a row has more or fewer cells than there are columns.
    """
    with path.open(newline="") as file:
        try:
            header, *others = [[_unescape(cell) for cell in row] for row in csv.reader(file)] or [[]]
        except csv.Error as error:
            raise ValueError(str(error)) from error
    return [dict(zip(header, row, strict=True)) for row in others]


def escape(cell: Cell) -> Cell:
    """Put an apostrophe in front of a text that would be a formula, and return any other cell unchanged."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _unescape(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
