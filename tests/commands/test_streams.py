"""A command does not fail because its output cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_subnets.commands import streams

# Without the package, whose import takes seconds.
PRINTING = """
import importlib.util, logging, sys, warnings

spec = importlib.util.spec_from_file_location("streams", sys.argv[1])
streams = importlib.util.module_from_spec(spec)
spec.loader.exec_module(streams)
streams.make_lossy()
with open(sys.argv[2], "w") as file:
    for number in range(3000):  # more than a buffer holds
        print(f"{number}: 99.5 % \\u00b1 0.1")
        print(f"{number} \\u2026", file=sys.stderr)
    warnings.warn("a warning")
    logging.error("an error")
    print(sys.stdout.isatty(), flush=True)
    file.write("whole")
"""


def printing(folder: Path, *options: str, **arguments: Any) -> subprocess.CompletedProcess[bytes]:
    ended = subprocess.run(
        [sys.executable, *options, "-c", PRINTING, streams.__file__, folder / "file"], timeout=60, **arguments
    )
    assert ended.returncode == 0
    assert (folder / "file").read_text() == "whole"
    return ended


@pytest.mark.parametrize("options", [[], ["-u"]], ids=["buffered", "unbuffered"])
def test_a_full_disk_or_a_reader_that_has_gone_fails_no_command(options: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        printing(tmp_path, *options, stdout=full, stderr=full)
    reading, writing = os.pipe()
    os.close(reading)
    printing(tmp_path, *options, stdout=writing, stderr=writing)
    os.close(writing)


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_a_closed_stream_sends_no_message_into_a_file(closed: tuple[int, ...], tmp_path: Path) -> None:
    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    ended = printing(tmp_path, preexec_fn=close, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (b"2999: " in ended.stdout) == (1 not in closed)
    assert (b"2999 " in ended.stderr) == (2 not in closed)


def test_a_character_that_the_encoding_lacks_is_written_as_its_escape(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = printing(tmp_path, env=environment, capture_output=True)
    assert b"2999: 99.5 % \\xb1 0.1\nFalse\n" in ended.stdout
    assert b"2999 \\u2026\n" in ended.stderr
    assert b"a warning" in ended.stderr
    assert b"ERROR:root:an error" in ended.stderr


def test_other_output_is_unchanged(tmp_path: Path) -> None:
    ended = printing(tmp_path, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    assert ended.stdout.decode() == "".join(f"{number}: 99.5 % ± 0.1\n" for number in range(3000)) + "False\n"


def test_replaced_streams_stay(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    streams.make_lossy()
    assert (sys.stdout, sys.stderr) == before
