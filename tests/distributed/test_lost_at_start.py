"""The ranks that rank 0 has started end soon after it and not before it, and say why."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fit_process import COMMAND
from fork_server import CONTEXT
from rank_processes import free_port
from torch import distributed

from lightning_subnets.commands import lost_ranks
from lightning_subnets.commands.lost_ranks import end_on_sigterm, ending_with_launcher

_SUBREAPER = 36  # of linux/prctl.h


@pytest.fixture(autouse=True)
def _parent_of_orphans() -> Iterator[None]:
    """A process whose parent has ended becomes a child of this one, which sees how it ends."""
    system = ctypes.CDLL(None)
    assert system.prctl(_SUBREAPER, 1) == 0
    yield
    system.prctl(_SUBREAPER, 0)


def exit_code(process: int, limit: float) -> int:
    """Return how an orphan ends."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            ended, status = os.waitpid(process, os.WNOHANG)
        except ChildProcessError:  # its parent is still about to end
            ended = 0
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    raise AssertionError(f"rank 1 has not come to an end in {limit} seconds")


def exit_codes(rank_0: Callable[..., None], folder: Path, *arguments: Any) -> tuple[int | None, int]:
    """Return how a rank 0 ends, and how the rank 1 that it starts does."""
    process = CONTEXT.Process(target=rank_0, args=(folder, *arguments))
    process.start()
    process.join()
    return process.exitcode, exit_code(int((folder / "process").read_text()), limit=20)


def start_rank_1_and_die(folder: Path, port: int, importing: bool) -> None:
    rank_0 = os.getpid()
    with ending_with_launcher():
        rank_1 = os.fork()
        if rank_1:
            (folder / "process").write_text(str(rank_1))
            time.sleep(0.0 if importing else 0.5)
            os.kill(rank_0, signal.SIGKILL)
        os.dup2(os.open(folder / "said", os.O_WRONLY | os.O_CREAT), 2)
        os.environ["LOCAL_RANK"] = "1"
        while importing and os.getppid() == rank_0:
            time.sleep(0.01)
        with ending_with_launcher():
            distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=1, world_size=2)
        os._exit(9)


@pytest.mark.parametrize(
    "importing",
    [
        pytest.param(True, id="while it imports", marks=pytest.mark.thorough),
        pytest.param(False, id="while it waits"),
    ],
)
def test_a_rank_that_rank_0_has_started_ends_when_rank_0_is_killed(importing: bool, tmp_path: Path) -> None:
    assert exit_codes(start_rank_1_and_die, tmp_path, free_port(), importing) == (-signal.SIGKILL, 1)
    assert (tmp_path / "said").read_text() == (
        "error: rank 1 ends because rank 0, which started it, was killed or has ended\n"
    )


def start_rank_1_and_get_sigterm(folder: Path) -> None:
    def told(kill: Callable[[int], None] | None) -> Any:
        launcher = SimpleNamespace(kill=kill) if kill else None
        return SimpleNamespace(strategy=SimpleNamespace(launcher=launcher), _signal_connector=SimpleNamespace())

    with ending_with_launcher():
        rank_1 = os.fork()
        if rank_1:
            end_on_sigterm(told(lambda number: os.kill(rank_1, number)))
            (folder / "process").write_text(str(rank_1))
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGTERM)
        os.environ["LOCAL_RANK"] = "1"
        try:
            with ending_with_launcher():
                end_on_sigterm(told(None))
                time.sleep(60.0)
        except SystemExit as end:
            os._exit(int(str(end.code)))
        os._exit(9)


def test_sigterm_to_rank_0_ends_the_rank_that_it_has_started(tmp_path: Path) -> None:
    assert exit_codes(start_rank_1_and_get_sigterm, tmp_path) == (143, 143)


def start_rank_1_with_nccl_and_die(folder: Path) -> None:
    with ending_with_launcher():
        rank_1 = os.fork()
        if rank_1:
            (folder / "process").write_text(str(rank_1))
            time.sleep(0.5)
            os._exit(1)
        os.environ["LOCAL_RANK"] = "1"
        lost_ranks.GRACE = 0.5
        distributed.is_initialized = lambda: True
        distributed.get_backend = lambda group=None: distributed.Backend("nccl")
        with ending_with_launcher():
            time.sleep(60)  # as in a kernel of NCCL that waits for rank 0
        os._exit(9)


def test_a_rank_that_waits_in_nccl_ends_soon_after_rank_0(tmp_path: Path) -> None:
    assert exit_codes(start_rank_1_with_nccl_and_die, tmp_path) == (1, 1)


def fail_on_both_ranks(folder: Path) -> None:
    with ending_with_launcher():
        rank_1 = os.fork()
        if rank_1:
            (folder / "process").write_text(str(rank_1))
            time.sleep(1)
            lost, _ = os.waitpid(rank_1, os.WNOHANG)
            os._exit(lost)
        os.environ["LOCAL_RANK"] = "1"
        try:
            with ending_with_launcher():
                raise SystemExit(2)
        finally:
            os._exit(2)


def test_a_rank_that_fails_together_with_rank_0_ends_after_it(tmp_path: Path) -> None:
    assert exit_codes(fail_on_both_ranks, tmp_path) == (0, 2)


def started_ranks(process: int) -> list[int]:
    """Return the ranks that a process has started; importing its libraries may start other programs for a moment."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ranks = []
    for child in children:
        with suppress(OSError):
            if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                ranks.append(int(child))
    return ranks


@pytest.mark.long
@pytest.mark.parametrize("seconds", [0, 2, 4, 6, 8, 10, 12, 15])
@pytest.mark.parametrize("killed", [0, 1])
def test_a_run_ends_in_under_a_minute_when_a_rank_is_killed_while_it_starts(
    killed: int, seconds: float, tmp_path: Path
) -> None:
    with (tmp_path / "said").open("w") as said:
        options = ["--trainer.devices=2", "--trainer.max_epochs=200"]
        rank_0 = subprocess.Popen([*COMMAND, *options], cwd=tmp_path, stdout=said, stderr=said)
        while not (ranks := started_ranks(rank_0.pid)):
            time.sleep(0.05)
        time.sleep(seconds)
        if killed == 0:
            rank_0.kill()
            rank_0.wait()
            assert exit_code(ranks[0], limit=60) == 1
        else:
            os.kill(ranks[0], signal.SIGKILL)
            assert rank_0.wait(60) != 0
    lines = (tmp_path / "said").read_text()
    assert "Traceback" not in lines
    assert len([line for line in lines.splitlines() if "error: " in line or "terminated with code" in line]) == 1, lines
