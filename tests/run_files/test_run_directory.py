from __future__ import annotations

import fcntl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lightning_subnets.errors import UserError
from lightning_subnets.run_files.run_directory import RunDirectory, in_use, why_unfinished


def test_runs_that_start_at_once_get_different_directories(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: RunDirectory.claim(tmp_path, "experiment"), range(40)))
    assert sorted(int(run.path.name.removeprefix("version_")) for run in claimed) == list(range(40))


def test_the_reason_of_a_failed_run_is_kept_until_it_is_resumed(tmp_path: Path) -> None:
    run = RunDirectory.claim(tmp_path, "experiment")
    run.start()
    (run.path / "metrics.csv").touch()
    assert why_unfinished(run.path) == "is still running"
    run.release(ValueError("out of memory:\nTried 5 GB"))
    assert why_unfinished(run.path) == "failed: ValueError: out of memory: Tried 5 GB"
    RunDirectory.claim(tmp_path, "experiment", "version_0").release(UserError("lr = -1 is below 0"))
    assert why_unfinished(run.path).startswith("failed: ValueError")
    run = RunDirectory.claim(tmp_path, "experiment", "version_0")
    run.start()
    run.release(SystemExit(75))
    assert why_unfinished(run.path).startswith("was stopped or killed")
    RunDirectory.claim(tmp_path, "mistaken").release(UserError("lr = -1 is below 0"))
    assert not (tmp_path / "mistaken").exists()


def test_release_removes_only_what_was_created_for_a_run_that_wrote_nothing(tmp_path: Path) -> None:
    root = tmp_path / "all" / "runs"
    RunDirectory.claim(root, "experiment").release()
    assert list(tmp_path.iterdir()) == []
    root.mkdir(parents=True)
    RunDirectory.claim(root, "experiment").release()
    assert list(tmp_path.rglob("*")) == [tmp_path / "all", root]
    used, unused = RunDirectory.claim(root, "experiment"), RunDirectory.claim(root, "experiment")
    (used.path / "metrics.csv").touch()
    unused.release()
    used.release()
    assert [path.name for path in (root / "experiment").iterdir()] == ["version_0"]


@pytest.mark.parametrize("others", [[], ["metrics.csv"]], ids=["removed", "kept"])
def test_a_directory_has_one_owner_if_another_leaves_it_at_that_moment(
    others: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, flock = RunDirectory.claim(tmp_path, "experiment", "run"), fcntl.flock
    for name in others:
        (first.path / name).touch()

    def after_the_first_has_left(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.release()
        flock(descriptor, operation)

    # The second run opens the lock file before the first one leaves, and locks it afterwards.
    monkeypatch.setattr(fcntl, "flock", after_the_first_has_left)
    second = RunDirectory.claim(tmp_path, "experiment", "run")
    assert in_use(second.path)
    with pytest.raises(UserError, match="is being used by another process"):
        RunDirectory.claim(tmp_path, "experiment", "run")
    first.release()  # its closed descriptor may have the number of the second's
    assert in_use(second.path)
    second.release()
    assert not in_use(second.path)


def test_a_question_about_a_lock_keeps_no_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "experiment" / "run"
    run.mkdir(parents=True)
    (run / ".lock").touch()
    flock, asking, claiming, answers = fcntl.flock, threading.Event(), threading.Event(), list[bool]()

    def in_turn(descriptor: int, operation: int) -> None:
        if threading.current_thread() is threading.main_thread():
            try:
                flock(descriptor, operation)
            finally:
                claiming.set()
        else:
            flock(descriptor, operation)
            asking.set()
            claiming.wait(60)

    monkeypatch.setattr(fcntl, "flock", in_turn)
    thread = threading.Thread(target=lambda: answers.append(in_use(run)))
    thread.start()
    asking.wait(60)
    RunDirectory.claim(tmp_path, "experiment", "run")
    thread.join()
    assert answers == [False]


def test_a_question_about_a_lock_leaves_no_trace(tmp_path: Path) -> None:
    assert not in_use(tmp_path)
    assert list(tmp_path.iterdir()) == []
