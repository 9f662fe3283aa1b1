"""``metrics.csv``: every metric of a run, whatever happens to the run."""

from __future__ import annotations

import csv
import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from lightning_subnets.atomic_file import replacing

NAME = "metrics.csv"


class MetricsFile(Logger):
    """Writes ``metrics.csv``: a row for each time metrics are logged, a column for each metric, sorted by name.

    Rows are appended, and on disk when ``save`` returns. A new column needs a new file, which takes the place of the
    old one when it is complete. Where a write fails, as on a full disk, that is said once and the rows are kept in
    memory until one succeeds.

    Args:
        save_dir: the run's directory.
        step: the optimizer steps done when the run goes on, for which rows from this step on are dropped, for they
            will come again, and so is a last line that a kill left unfinished; None begins a new file.
    """

    def __init__(self, save_dir: str, step: int | None = None) -> None:
        super().__init__()
        self._path = Path(save_dir, NAME)
        self._step = step
        self._columns: list[str] = []  # those of the file
        self._size = 0  # of the file, in bytes, up to the end of its last row
        self._rows: list[dict[str, Any]] = []  # those that are not in the file yet
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
        """Nothing: ``config.yaml`` stands beside the file."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {**metrics, "step": step}
        if row != self._last:  # which comes again where a checkpoint has asked for it beforehand
            self._rows.append(row)
        self._last = row

    @rank_zero_only
    def save(self) -> None:
        try:
            self._write()
        except OSError as error:
            if not self._failed:
                print(f"{self._path} cannot be written now: {error.strerror}; the rows are kept", file=sys.stderr)
            self._failed = True

    def _write(self) -> None:
        if self._step is not None:
            self._go_on_from(self._step)
            self._step = None
        if not self._rows:
            return
        columns = sorted({*self._columns, *(name for row in self._rows for name in row)})
        if columns == self._columns:
            self._append(_lines(self._rows, columns))
        else:
            before = _table(self._path.read_bytes()) if self._columns else []
            self._replace(_lines([dict(zip(columns, columns, strict=True)), *before, *self._rows], columns))
            self._columns = columns
        self._rows.clear()

    def _go_on_from(self, step: int) -> None:
        content = self._path.read_bytes() if self._path.exists() else b""
        kept = _before(content, step)
        if kept != content:
            self._replace(kept)
        self._columns, self._size = _fields(kept.partition(b"\n")[0]), len(kept)

    def _append(self, rows: bytes) -> None:
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._size)
            if file.write(rows) < len(rows):
                file.truncate(self._size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(rows)

    def _replace(self, content: bytes) -> None:
        with replacing(self._path) as file:
            file.write(content)
        self._size = len(content)


def rows_before(run: Path, step: int) -> Iterator[tuple[int, dict[str, float]]]:
    """The rows of a run's file that were logged before a step: each one's step, and its metrics by name."""
    path = run / NAME
    for row in _table(_before(path.read_bytes(), step)) if path.exists() else []:
        yield int(row.pop("step")), {name: float(value) for name, value in row.items() if value}


def _before(content: bytes, step: int) -> bytes:
    """The header and the complete rows that were logged before a step, as they stand there."""
    header, *rows = content.splitlines(keepends=True) or [b""]
    columns = _fields(header)
    return header + b"".join(row for row in rows if _is_before(row, columns, step)) if header.endswith(b"\n") else b""


def _is_before(row: bytes, columns: list[str], step: int) -> bool:
    try:
        values = dict(zip(columns, _fields(row), strict=True))
        return row.endswith(b"\n") and int(values["step"]) < step
    except ValueError:  # what a machine that lost power has left of a row
        return False


def _fields(line: bytes) -> list[str]:
    return next(csv.reader([line.decode()]), [])


def _table(content: bytes) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def _lines(rows: Iterable[dict[str, Any]], columns: list[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns).writerows(rows)
    return text.getvalue().encode()
