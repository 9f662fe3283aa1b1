"""The words and directories that name a checkpoint, in every command that takes one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from repository import ROOT

from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.errors import UserError
from lightning_subnets.run_files.naming_checkpoints import checkpoint_named, run_of

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
Mistake = Callable[..., str]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(name: str, seconds: int, checkpoints: tuple[str, ...] = ("last", "best")) -> Path:
    folder = Path("runs", name)
    (folder / "checkpoints").mkdir(parents=True)
    for checkpoint in checkpoints:
        path = folder / "checkpoints" / f"{checkpoint}.ckpt"
        path.touch()
        os.utime(path, (seconds, seconds))
    return folder


def test_a_word_names_a_checkpoint_of_the_newest_run(capsys: pytest.CaptureFixture[str]) -> None:
    run("[a]/version_0", seconds=3)
    run("[a]/version_1", seconds=2)
    run("sweep/b/version_0", seconds=4, checkpoints=("last",))
    assert checkpoint_named("last") == "runs/sweep/b/version_0/checkpoints/last.ckpt"
    assert checkpoint_named("last", name="[a]") == "runs/[a]/version_0/checkpoints/last.ckpt"
    assert checkpoint_named("best", name="[a]") == "runs/[a]/version_0/checkpoints/best.ckpt"
    assert "best checkpoint: runs/[a]/version_0/checkpoints/best.ckpt" in capsys.readouterr().err
    assert checkpoint_named("runs/[a]/version_1") == "runs/[a]/version_1/checkpoints/last.ckpt"
    for unchanged in ("nowhere.ckpt", "hf://user/name/file.subnet", "runs/[a]/version_1/checkpoints/best.ckpt"):
        assert checkpoint_named(unchanged) == unchanged


def test_a_word_or_a_directory_without_a_checkpoint_is_an_error() -> None:
    with pytest.raises(UserError, match=r"no run in runs/a has a checkpoint, so 'best' names none: train one"):
        checkpoint_named("best", name="a")
    run("a/version_0", seconds=1, checkpoints=("last",))
    for given, path in (("best", "runs/a/version_0/checkpoints/best.ckpt"), ("runs/a", "runs/a/checkpoints/last.ckpt")):
        with pytest.raises(UserError, match=f"{path} does not exist: name a checkpoint, or the directory of a run"):
            checkpoint_named(given)


@pytest.mark.parametrize("verb", ["test", "validate", "predict"])
def test_an_evaluation_without_a_checkpoint_names_the_last_run(verb: str, mistake: Mistake) -> None:
    for config in ([], ["-c", QUICKSTART]):
        assert f"{verb} needs a checkpoint, and runs has none yet: train" in mistake([verb, *config])
    run("quickstart/version_0", seconds=1)
    run("other/first try", seconds=2)
    assert f"{verb} needs a checkpoint: add --ckpt_path='runs/other/first try' " in mistake([verb])
    assert "add --ckpt_path=runs/quickstart/version_0 " in mistake([verb, "-c", QUICKSTART])
    assert "add --ckpt_path='runs/other/first try' " in mistake([verb, "-c", QUICKSTART, "--name=new"])
    assert not Path("predictions.csv").exists()


def test_a_fit_from_a_subnet_file_names_the_options_that_train_under_its_mask(mistake: Mistake) -> None:
    said = mistake(["fit", "-c", QUICKSTART, "--ckpt_path=my mask.subnet"])
    assert "with --model.method=FixedMask --model.method.masks='my mask.subnet'" in said


def test_a_checkpoint_of_the_current_directory_has_the_config_of_its_run(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished_run / "checkpoints")
    lightning(["test", "--ckpt_path=last.ckpt", "--trainer.accelerator=cpu"])
    assert "test/accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("link", ["store/last.ckpt", "run/checkpoints"])
def test_a_checkpoint_behind_a_link_is_of_the_run_that_has_a_config(link: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    if link == "run/checkpoints":
        (tmp_path / "store").mkdir()
        (tmp_path / link).symlink_to(tmp_path / "store")
        named = tmp_path / "run" / "checkpoints" / "last.ckpt"
    else:
        named = tmp_path / link
        named.parent.mkdir()
        named.symlink_to(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert run_of(named).resolve() == (tmp_path / "run").resolve()


def test_every_command_takes_the_words_and_a_directory(
    finished_run: Path, capsys: pytest.CaptureFixture[str], mistake: Mistake
) -> None:
    root = ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={finished_run.parents[1]}"]
    lightning(["test", "--ckpt_path=last", *root])
    assert "test/accuracy" in capsys.readouterr().out
    shutil.copytree(finished_run, "runs/quickstart/version_0")
    lightning(["predict", "-c", QUICKSTART, "--ckpt_path", "best", "--trainer.accelerator=cpu"])
    assert Path("runs/quickstart/version_0/predictions.csv").is_file()
    subnets(["inspect", "last", "--against", "runs/quickstart/version_0"])
    assert "100.00% of the weights" in " ".join(capsys.readouterr().out.split())
    subnets(["export", "runs/quickstart/version_0", "a.pt"])
    subnets(["check", "best", "--seeds=1", "--images=64", "--batches=1"])
    subnets(["report", "last"])
    assert Path("runs/quickstart/version_0/report/index.html").is_file()
    assert "has finished all 2 epochs" in mistake(["fit", "--ckpt_path=last"])
