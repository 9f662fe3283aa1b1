"""The wheel holds what a new user needs, and works in an empty directory."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

pytestmark = pytest.mark.thorough


def run(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command, and return its standard output."""
    done = subprocess.run(arguments, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the source distribution and the wheel of a commit with the tag v9.8.7."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source)
    for name in ("lightning_subnets", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    author = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    for command in (["init"], ["add", "."], [*author, "commit", "-m", "all"], ["tag", "v9.8.7"]):
        run("git", *command, cwd=source)
    out = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=source)  # the wheel from the source's
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the installed wheel, without the packages that it needs."""
    site = tmp_path_factory.mktemp("site")
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target")
    run(sys.executable, *install, site, *built.glob("*.whl"), cwd=site)
    return site


def test_the_version_is_the_tag_and_the_index_accepts_the_files(built: Path, installed: Path, tmp_path: Path) -> None:
    assert {path.name for path in built.iterdir()} == {
        "lightning_subnets-9.8.7.tar.gz",
        "lightning_subnets-9.8.7-py3-none-any.whl",
    }
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), cwd=tmp_path)
    shown = run(installed / "bin" / "lightning", "--version", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "lightning-subnets 9.8.7, torch" in shown


def test_the_wheel_holds_every_config_and_nothing_beside_the_package(installed: Path) -> None:
    configs = installed / "lightning_subnets" / "configs"
    shipped = {path.relative_to(configs) for path in configs.rglob("*") if path.is_file()}
    assert shipped == {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert {path.name for path in installed.iterdir()} == {
        "bin",
        "lightning_subnets",
        "lightning_subnets-9.8.7.dist-info",
    }


def test_a_run_and_a_sweep_by_name_work_in_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    def shell(command: str) -> str:
        name, *arguments = command.split()
        return run(installed / "bin" / name, *arguments, cwd=tmp_path, PYTHONPATH=str(installed))

    short = "--trainer.accelerator=cpu --trainer.max_epochs=1 --trainer.limit_train_batches=2"
    assert "quickstart: EdgePopup" in shell(f"lightning fit -c quickstart {short}")
    assert (tmp_path / "runs/quickstart/version_0/checkpoints/last.ckpt").is_file()
    assert "16 not submitted" in shell("subnets sweep figure3 --status")
    with (tmp_path / "runs/figures/figure3-smoke/results.csv").open(newline="") as file:
        configs = {row["command"].split()[3] for row in csv.DictReader(file)}
    assert configs == {"digits/base", "digits/dense_sgd_base", "digits/dense_adam_base"}
    assert "cifar10/conv4_signed " in shell("subnets configs")


def test_constraints_name_no_editable_package_which_pip_refuses() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith(("-e", "--editable"))] == []
    assert "pip freeze --exclude-editable" in (ROOT / "CONTRIBUTING.md").read_text()
