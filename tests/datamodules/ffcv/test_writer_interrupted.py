"""A writer may be killed or interrupted at any moment: a file under its own name is whole, and can be written again."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from apart import run_apart
from contents import noise_files

from lightning_subnets.commands.prepare_images import main
from lightning_subnets.datamodules.ffcv import writer
from lightning_subnets.datamodules.ffcv.beton import verify
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.preparation import prepare

pytestmark = pytest.mark.skipif(not installed(), reason="FFCV is not installed: data/install_ffcv.sh")


SMALL_PAGE = 1 << 14


def at_line(number: int, act: Callable[[], object]) -> None:
    """Call ``act`` before the writer's line of this number, in the order of execution."""
    left = number

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != writer.__file__ or frame.f_code.co_name not in ("write", "_write", "_locked"):
            return None
        if event == "line":
            if not left:
                act()
            left -= 1
        return trace

    sys.settrace(trace)


def end_at_every_line(source: Path, root: Path, sent: signal.Signals, step: int) -> None:
    """Run the command in a process for each line, or each of a few, and send it a signal before that line.

    Directory, standard error and exit code of a run have the number of its line. The last run gets no signal.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background of a shell ignores it
    writer.PAGE = SMALL_PAGE
    sys.argv = [
        "prepare_imagenet.py",
        f"--source={source}",
        "--num_workers=2",
        "--image_size=32",
        f"--out={root / 'whole'}",
    ]
    main()  # the forks share its imports
    for line in count(0, step):
        process = os.fork()
        if not process:
            try:
                os.dup2(os.open(root / f"{line}.err", os.O_CREAT | os.O_WRONLY), 2)
                sys.argv[-1] = f"--out={root / str(line)}"
                at_line(line, lambda: os.kill(os.getpid(), sent))
                main()
            except SystemExit as end:
                os._exit(int(end.code or 0))
            except BaseException:
                os._exit(99)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        (root / f"{line}.code").write_text(str(code))
        if not code:
            break


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("sent", "code", "step"),
    [
        pytest.param(signal.SIGKILL, -signal.SIGKILL, 3, marks=pytest.mark.thorough),
        pytest.param(signal.SIGINT, 130, 3, marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, 1, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, 130, 1, marks=pytest.mark.long),
    ],
)
def test_a_command_that_ends_before_any_line_leaves_whole_files_and_can_run_again(
    sent: signal.Signals, code: int, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "images"
    for folder in ("train/cat", "val/cat"):
        noise_files(source / folder, 2)
    assert run_apart(end_at_every_line, source, tmp_path, sent, step) == 0
    monkeypatch.setattr(writer, "PAGE", SMALL_PAGE)
    codes = sorted(tmp_path.glob("*.code"), key=lambda path: int(path.stem))
    assert [int(path.read_text()) for path in codes] == [code] * (len(codes) - 1) + [0]
    finished = []
    train, val = {"train.beton", "train.beton.json"}, {"val.beton", "val.beton.json"}
    for path in codes:
        directory, error = path.with_suffix(""), path.with_suffix(".err").read_text()
        assert "Traceback" not in error
        if sent == signal.SIGINT and path != codes[-1]:
            assert error.splitlines()[-1] == "stopped by Ctrl-C"
            # An empty file remains if the interrupt comes between opening and locking it.
            left = {file.name for file in directory.iterdir() if file.suffix != ".partial" or file.stat().st_size}
            assert left in (set(), train, train | val)
        whole = list(directory.glob("*.beton"))
        for file in whole:
            verify(file)
        finished.append(len(whole))
        prepare(directory, source, image_size=32, num_workers=2)
        assert contents(directory) == contents(tmp_path / "whole")
    assert sorted(finished) == finished
    assert set(finished) == {0, 1, 2}
