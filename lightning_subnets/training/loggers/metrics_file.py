"""``metrics.csv``: every metric of a run, whatever happens to the run."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from lightning_subnets import atomic_file

NAME = "metrics.csv"


class MetricsFile(Logger):
    """Writes ``metrics.csv``: a row for each time metrics are logged, a column for each metric, sorted by name.

    Rows are appended, and are in the file when ``save`` returns; ``sync`` puts them on the disk. A new column replaces
    the file by a complete new one. If a write fails, on a full disk for instance, a message says so once, and the rows
    are written as soon as a write succeeds. If another program deletes or shortens the file, it is written again.

    If a resumed run finds lines that it cannot read, the file is kept as ``metrics_damaged_N.csv``, and ``metrics.csv``
    continues with the other lines.

    Args:
        save_dir: the run's directory.
        step: the optimizer steps done when the run is resumed. Rows from this step on are dropped, because the run
            logs them again, and so is a last line that a kill left unfinished. None begins a new file.
    """

    def __init__(self, save_dir: str, step: int | None = None) -> None:
        super().__init__()
        self._path = Path(save_dir, NAME)
        self._step = step
        self._rows: list[Mapping[str, Any]] = []  # all rows of the run
        self._written = 0  # the number of rows in the file
        self._columns: list[str] = []  # those of the file
        self._size = 0  # of the file, in bytes
        self._last: dict[str, Any] = {}
        self._failed = False

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._path.parent)

    root_dir = log_dir = save_dir

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing, because the run's directory has a ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {**metrics, "step": self._last.get("step", 0) if step is None else step}
        # Lightning logs a row again that LastCheckpoint has logged early. As text, because NaN does not equal itself.
        if sorted(map(str, row.items())) != sorted(map(str, self._last.items())):
            self._rows.append(row)
        self._last = row

    @rank_zero_only
    def save(self) -> None:
        self._attempt(self._write)

    @rank_zero_only
    def sync(self) -> None:
        """Put all rows on the disk, so that a checkpoint can rely on them even if the machine loses power."""
        self._attempt(self._sync)

    def _attempt(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if not self._failed:
                print(
                    f"{self._path} cannot be written now: {error.strerror}; make room, and the rows are written later",
                    file=sys.stderr,
                )
            self._failed = True

    def _sync(self) -> None:
        self._write()
        if self._written:
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def _write(self) -> None:
        if self._step is not None:
            self._resume(self._step)
            self._step = None
        if self._written == len(self._rows):
            return
        new = self._rows[self._written :]
        columns = sorted({*self._columns, *(name for row in new for name in row)})
        if columns == self._columns and self._path.exists() and self._path.stat().st_size == self._size:
            self._append(_lines(new, columns))
        else:
            # A full disk may have room for the file as it was, but not for the new rows.
            self._replace(_lines([dict(zip(columns, columns, strict=True)), *self._rows[: self._written]], columns))
            self._columns = columns
            self._append(_lines(new, columns))
        self._written = len(self._rows)

    def _resume(self, step: int) -> None:
        """Read the file, keep a damaged one under another name, and drop the rows from a step on."""
        if not self._path.exists():
            if step > 0:
                print(
                    f"there is no {self._path}: no row was logged before step {step}, or it is lost; a new one begins",
                    file=sys.stderr,
                )
            return
        there = self._path.read_bytes()
        content = ParsedMetrics(there)
        kept = _set_aside(there, self._path) if content.damaged else None
        before = [row for row in content.rows if row.step < step]
        complete = content.header + b"".join(row.line for row in before)
        if complete != there:
            self._replace(complete)
        self._rows = [*(row.cells for row in before), *self._rows]
        self._written, self._columns, self._size = len(before), content.columns, len(complete)
        if kept is not None:
            what = f"{content.damaged} of its lines" if content.columns else "its header"
            print(
                f"{self._path} is damaged: {what} cannot be read. The whole file is kept as {kept.name}, and {NAME} "
                f"continues with the {len(content.rows)} rows that can be read",
                file=sys.stderr,
            )

    def _append(self, rows: bytes) -> None:
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._size)
            if file.write(rows) < len(rows):
                file.truncate(self._size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(rows)

    def _replace(self, content: bytes) -> None:
        atomic_file.write(self._path, content)
        self._size = len(content)


class Row(NamedTuple):
    """A row of the file: its bytes, its optimizer step, and the text of its numbers by column."""

    line: bytes
    step: int
    cells: dict[str, str]


class ParsedMetrics:
    """The header and the rows that can be read from the bytes of a file.

    Attributes:
        header: the first line; empty if it is not a header.
        columns: the names in the header.
        rows: the lines that are complete, with a number or nothing under each name.
        damaged: the number of other lines. A last line that a kill left unfinished does not count. Without a header all
            lines are damaged.
    """

    def __init__(self, content: bytes) -> None:
        self.header, *lines = content.splitlines(keepends=True) or [b""]
        self.columns = _columns(self.header)
        self.rows: list[Row] = []
        self.damaged = 0
        if content and not self.columns:
            self.header, self.damaged = b"", 1 + len(lines)
            return
        for number, line in enumerate(lines, start=1):
            unfinished = number == len(lines) and not line.endswith(b"\n")
            if not unfinished and (row := _row(line, self.columns)):
                self.rows.append(row)
            elif line.strip() and (not unfinished or b"\0" in line):  # a loss of power leaves zeros
                self.damaged += 1


def _columns(line: bytes) -> list[str]:
    """Return the names in a header; none if the line is not a header that this module writes."""
    try:
        names = _fields(line)
    except (ValueError, csv.Error):
        return []
    as_written = names == sorted({*names}) and "step" in names and "" not in names and "".join(names).isprintable()
    return names if as_written and line.endswith(b"\n") else []


def _row(line: bytes, columns: list[str]) -> Row | None:
    try:
        cells = {name: cell for name, cell in zip(columns, _fields(line), strict=True) if cell}
        for cell in cells.values():
            float(cell)
        int(float(cells.get("epoch", 0)))
        return Row(line, int(cells["step"]), cells)
    except (ValueError, OverflowError, KeyError, csv.Error):  # an epoch may be nan or inf
        return None


def _fields(line: bytes) -> list[str]:
    return next(csv.reader([line.decode()], strict=True), [])


def _lines(rows: Iterable[Mapping[str, Any]], columns: list[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns).writerows(rows)
    return text.getvalue().encode()


def _set_aside(content: bytes, path: Path) -> Path:
    """Keep a damaged file under a free name, unless it is kept already: after a full disk it is read again."""
    names = (path.with_name(f"{path.stem}_damaged_{number}{path.suffix}") for number in itertools.count())
    kept = next(each for each in names if not each.exists() or each.read_bytes() == content)
    if not kept.exists():
        atomic_file.write(kept, content)
    return kept
