"""A ~/ after an = is the home directory in every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_subnets.commands.arguments import with_home
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main as subnets


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")


def test_only_a_leading_tilde_of_a_value_is_the_home_directory(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    for given, expected in (
        ("--out=~/", f"--out={home}/"),
        ("--trainer.logger=~", "--trainer.logger=~"),  # null
        ("--out=~/a=b", f"--out={home}/a=b"),
        ("--out=a~/b", "--out=a~/b"),
        ("--out", "--out"),
        ("~/x=~/y", "~/x=~/y"),
        ("--x=", "--x="),
    ):
        assert with_home([given]) == [expected]


def test_no_command_makes_a_directory_named_tilde(
    tmp_path: Path, finished_run: Path, mistake: Callable[..., str]
) -> None:
    subnets(["report", str(finished_run.parent), "--out=~/report"])
    assert (tmp_path / "home" / "report" / "index.html").is_file()
    assert f"{tmp_path}/home/runs has none yet" in mistake(["test", "--trainer.default_root_dir=~/runs"], lightning)
    assert not list((tmp_path / "here").iterdir())
