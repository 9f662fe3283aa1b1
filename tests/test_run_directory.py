from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning_subnets.run_directory import RunDirectory


def test_runs_started_at_once_get_a_directory_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: RunDirectory.claim(tmp_path, "experiment"), range(40)))
    assert sorted(int(run.path.name.removeprefix("version_")) for run in claimed) == list(range(40))


def test_an_unused_directory_is_given_back_and_a_used_one_kept(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    used, unused = RunDirectory.claim(root, "experiment"), RunDirectory.claim(root, "experiment")
    (used.path / "metrics.csv").touch()
    unused.give_back()
    used.give_back()
    assert [path.name for path in (root / "experiment").iterdir()] == ["version_0"]


def test_nothing_remains_of_a_first_run_that_wrote_nothing(tmp_path: Path) -> None:
    RunDirectory.claim(tmp_path / "all" / "runs", "experiment").give_back()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    RunDirectory.claim(tmp_path / "runs", "experiment").give_back()
    assert list((tmp_path / "runs").iterdir()) == []
