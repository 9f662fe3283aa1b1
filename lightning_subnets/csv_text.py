"""Tables as CSV of which a spreadsheet takes no text for a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

Cell = str | float | None

# What begins so is computed when the file is opened: =HYPERLINK("http://...") for instance.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def table(rows: Sequence[Mapping[str, Cell]]) -> str:
    """The rows under the names of the first one's columns. Texts that would be formulas begin with an apostrophe."""
    text, columns = io.StringIO(newline=""), list(rows[0]) if rows else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(written, columns))
    writer.writerows([written(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def rows(lines: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a ``table``, each text as it was.

    Raises:
        ValueError: if a row has more or fewer cells than there are columns.
        csv.Error: if it is no CSV.
    """
    header, *others = [[_as_it_was(cell) for cell in row] for row in csv.reader(lines)] or [[]]
    return [dict(zip(header, row, strict=True)) for row in others]


def written(cell: Cell) -> Cell:
    """A cell as it stands in the file; numbers stay as they are."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _as_it_was(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
