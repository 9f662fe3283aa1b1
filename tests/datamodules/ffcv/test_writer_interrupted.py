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
from contents import CLASSES, MIXED, noise_files

from lightning_subnets.commands.prepare_images import main
from lightning_subnets.datamodules.ffcv import writer
from lightning_subnets.datamodules.ffcv.beton import description_path, verify
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.writer import write
from lightning_subnets.datamodules.image_files import Files

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


def at_every_line(begin: Callable[[Path], object], act: Callable[[], object], root: Path, step: int) -> None:
    """Run ``begin`` in a directory for each line, in its own process, and call ``act`` before that line.

    The exit codes are written beside the directories. The last run is the one that is not interrupted.
    """
    begin(root / "whole")  # the forks share its imports
    for line in count(0, step):
        process = os.fork()
        if not process:
            try:
                at_line(line, act)
                begin(root / str(line))
            except SystemExit as end:
                os._exit(int(end.code or 0))
            except BaseException:
                os._exit(99)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        (root / f"{line}.code").write_text(str(code))
        if not code:
            break


def codes(root: Path) -> dict[Path, int]:
    """Return directory and exit code of each of these runs, in the order of the lines."""
    ends = sorted(root.glob("*.code"), key=lambda path: int(path.stem))
    return {path.with_suffix(""): int(path.read_text()) for path in ends}


def be_killed(root: Path, files: Files) -> None:
    writer.PAGE = SMALL_PAGE

    def begin(directory: Path) -> None:
        directory.mkdir()
        write(directory / "a.beton", files, CLASSES, MIXED)

    at_every_line(begin, lambda: os.kill(os.getpid(), signal.SIGKILL), root, 1)


@pytest.mark.thorough
def test_a_writer_killed_before_any_line_leaves_no_incomplete_file_and_can_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PAGE", SMALL_PAGE)
    files = noise_files(tmp_path / "images", 3)
    assert run_apart(be_killed, tmp_path, files) == 0
    runs = codes(tmp_path)
    *kills, end = runs.values()
    assert len(kills) > 40
    assert set(kills) == {-signal.SIGKILL}
    assert end == 0
    states = [state(directory / "a.beton") for directory in runs]
    assert sorted(states, key=["nothing", "partial", "described", "finished"].index) == states
    assert set(states) == {"nothing", "partial", "described", "finished"}
    for directory in runs:
        write(directory / "a.beton", files, CLASSES, MIXED)
        assert contents(directory) == contents(tmp_path / "whole")


def state(path: Path) -> str:
    """Return how far a run came, after checking that a file under its own name is whole."""
    names = {file.name for file in path.parent.iterdir()}
    if path.exists():
        verify(path)
        assert names == {"a.beton", "a.beton.json"}
        return "finished"
    assert names <= {"a.beton.json", "a.beton.partial", ".a.beton.json.partial"}
    return "described" if description_path(path).exists() else "partial" if names else "nothing"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def be_interrupted(source: Path, root: Path, step: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background of a shell ignores it

    def begin(directory: Path) -> None:
        os.dup2(os.open(directory.with_suffix(".err"), os.O_CREAT | os.O_WRONLY), 2)
        sys.argv = ["prepare_imagenet.py", f"--source={source}", f"--out={directory}", "--num_workers=2"]
        main()

    at_every_line(begin, lambda: os.kill(os.getpid(), signal.SIGINT), root, step)


@pytest.fixture(
    scope="module", params=[pytest.param(5, marks=pytest.mark.thorough), pytest.param(1, marks=pytest.mark.long)]
)
def interrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, int]:
    """Return directory and exit code of commands that were interrupted before each line or each fifth."""
    root = tmp_path_factory.mktemp("interrupted")
    for folder in ("train/cat", "val/cat"):
        noise_files(root / "images" / folder, 1)
    assert run_apart(be_interrupted, root / "images", root, request.param) == 0
    return codes(root)


def test_the_command_interrupted_before_any_line_ends_with_130_and_leaves_whole_files(
    interrupted: dict[Path, int],
) -> None:
    *ends, end = interrupted.values()
    assert (set(ends), end) == ({130}, 0)
    finished = []
    for directory, code in interrupted.items():
        error = directory.with_suffix(".err").read_text()
        assert "Traceback" not in error
        assert (error.splitlines()[-1] == "interrupted; unfinished files are removed") == (code == 130)
        whole = sorted(path.name for path in directory.glob("*.beton"))
        for name in whole:
            verify(directory / name)
        finished.append(len(whole))
    assert sorted(finished) == finished
    assert set(finished) == {0, 1, 2}
    train, val = {"train.beton", "train.beton.json"}, {"val.beton", "val.beton.json"}
    for directory in interrupted:
        # An empty file remains if the interrupt comes between opening and locking it.
        left = {path.name for path in directory.iterdir() if path.suffix != ".partial" or path.stat().st_size}
        assert left in (set(), train, train | val)
