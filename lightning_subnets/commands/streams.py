"""Standard output and standard error that cannot end a run."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress


class _Lossy(io.FileIO):
    """A file descriptor that drops bytes it cannot write, on a full disk or into a pipe that nobody reads."""

    def write(self, content: object, /) -> int:
        assert isinstance(content, bytes | bytearray | memoryview)
        try:
            return super().write(content) or len(content)  # None if the write would block
        except OSError:
            return len(content)


def make_lossy() -> None:
    """Make standard output and standard error drop what cannot be written, and escape what the encoding lacks.

    A closed descriptor is opened on ``/dev/null``; otherwise the next opened file would get its number and the
    messages. A stream that has been replaced stays as it is.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # its descriptor was closed when Python began
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
            continue
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue
        with suppress(OSError):
            stream.flush()
        raw = _Lossy(stream.fileno(), "w", closefd=False)
        lossy = io.TextIOWrapper(
            raw if stream.write_through else io.BufferedWriter(raw),  # as Python itself does
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, lossy)
