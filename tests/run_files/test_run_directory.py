from __future__ import annotations

import fcntl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lightning_subnets.errors import UserError
from lightning_subnets.run_files.run_directory import RunDirectory, in_use


def test_runs_started_at_once_get_a_directory_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: RunDirectory.claim(tmp_path, "experiment"), range(40)))
    assert sorted(int(run.path.name.removeprefix("version_")) for run in claimed) == list(range(40))


def test_an_unused_directory_is_given_back_and_a_used_one_kept(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    used, unused = RunDirectory.claim(root, "experiment"), RunDirectory.claim(root, "experiment")
    (used.path / "metrics.csv").touch()
    unused.release()
    used.release()
    assert [path.name for path in (root / "experiment").iterdir()] == ["version_0"]


def test_nothing_remains_of_a_first_run_that_wrote_nothing(tmp_path: Path) -> None:
    RunDirectory.claim(tmp_path / "all" / "runs", "experiment").release()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    RunDirectory.claim(tmp_path / "runs", "experiment").release()
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("others", [[], ["metrics.csv"]], ids=["removed", "kept"])
def test_a_directory_has_one_owner_when_another_leaves_it_at_that_moment(
    others: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, flock = RunDirectory.claim(tmp_path, "experiment", "run"), fcntl.flock
    for name in others:
        (first.path / name).touch()

    def after_the_first_has_left(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.release()
        flock(descriptor, operation)

    # The lock file is open when its owner leaves, and is locked after that.
    monkeypatch.setattr(fcntl, "flock", after_the_first_has_left)
    second = RunDirectory.claim(tmp_path, "experiment", "run")
    assert in_use(second.path)
    with pytest.raises(UserError, match="is being used by another process"):
        RunDirectory.claim(tmp_path, "experiment", "run")
    second.release()
    assert not in_use(second.path)


def test_a_directory_that_is_given_back_twice_is_taken_from_nobody(tmp_path: Path) -> None:
    first = RunDirectory.claim(tmp_path, "experiment", "run")
    first.release()
    second = RunDirectory.claim(tmp_path, "experiment", "run")  # its descriptor has the number of the first's
    first.release()
    assert in_use(second.path)


def test_who_asks_whether_a_directory_is_in_use_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiment" / "run").mkdir(parents=True)
    (tmp_path / "experiment" / "run" / ".lock").touch()
    flock, asking, answers = fcntl.flock, threading.Event(), list[bool]()

    def slowly(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        if threading.current_thread() is not threading.main_thread():
            asking.set()
            time.sleep(0.1)

    monkeypatch.setattr(fcntl, "flock", slowly)
    thread = threading.Thread(target=lambda: answers.append(in_use(tmp_path / "experiment" / "run")))
    thread.start()
    asking.wait()
    RunDirectory.claim(tmp_path, "experiment", "run")
    thread.join()
    assert answers == [False]


def test_to_ask_whether_a_directory_is_in_use_leaves_no_trace(tmp_path: Path) -> None:
    assert not in_use(tmp_path)
    assert list(tmp_path.iterdir()) == []
