from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning_subnets import run_directory


def test_runs_started_at_once_get_a_directory_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: run_directory.claim(tmp_path, "experiment"), range(40)))
    assert sorted(int(path.name.removeprefix("version_")) for path in claimed) == list(range(40))


def test_an_unused_directory_is_given_back_and_a_used_one_kept(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    used, unused = run_directory.claim(root, "experiment"), run_directory.claim(root, "experiment")
    (used / "metrics.csv").touch()
    run_directory.give_back(unused)
    run_directory.give_back(used)
    assert [path.name for path in (root / "experiment").iterdir()] == ["version_0"]


def test_nothing_remains_of_a_first_run_that_wrote_nothing(tmp_path: Path) -> None:
    run_directory.give_back(run_directory.claim(tmp_path / "runs", "experiment"))
    assert not (tmp_path / "runs").exists()
