from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from repository import ROOT

from lightning_subnets import masking
from lightning_subnets.commands.cli import main
from lightning_subnets.graph.diagnostics import diagnose, log10_path_kernel_trace
from lightning_subnets.run_files.saved_run import SavedRun
from lightning_subnets.training.module import SubnetModule

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
SHORT = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu"]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_leaves_checkpoints_metrics_config_summary_and_pictures(finished_run: Path) -> None:
    assert {str(path.relative_to(finished_run)) for path in finished_run.rglob("*") if path.is_file()} == {
        ".lock",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/last.subnet",
        "metrics.csv",
        "config.yaml",
        "summary.json",
        "curves.png",
        "layers.png",
        "widths.png",
    }
    for picture in finished_run.glob("*.png"):
        with Image.open(picture) as image:
            image.verify()
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    assert (config["seed_everything"], config["name"]) == (0, "quickstart")
    arguments = {"density": 0.5, "allocation": "uniform", "absolute": True}
    assert config["model"]["method"] == {"class_path": "lightning_subnets.EdgePopup", "init_args": arguments}


@pytest.mark.thorough
def test_a_limit_of_one_batch_stays_an_integer() -> None:
    # In a process of its own, because it depends on what was imported first.
    command = [str(Path(sys.executable).parent / "lightning"), "fit", "-c", QUICKSTART, "--print_config"]
    options = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1.0"]
    said = subprocess.run([*command, *options], capture_output=True, text=True)
    assert "limit_train_batches: 1\n" in said.stdout
    assert "limit_val_batches: 1.0\n" in said.stdout


def test_the_summary_counts_what_the_checkpoint_holds(finished_run: Path) -> None:
    summary = json.loads((finished_run / "summary.json").read_text())
    state = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    total = sum(value.numel() for key, value in state.items() if key.endswith(".scores"))
    assert summary["total"] == total
    assert summary["kept"] == sum((v.numel() + 1) // 2 for k, v in state.items() if k.endswith(".scores"))
    assert summary["density"] == summary["kept"] / total
    assert summary["weights_unchanged"] is True
    assert summary["seconds"] > 0
    assert summary["device"].startswith("CPU, ")
    saved = SavedRun(str(finished_run / "checkpoints" / "last.ckpt"))
    found = diagnose(saved.module().network, saved.data().image_shape)
    assert summary["log10_paths"] == found.log10_paths
    assert summary["units_on_paths"] == {name: layer.alive for name, layer in found.layers.items()}
    network = saved.module().network
    masks = masking.masks(network)
    assert summary["log10_trace"] == pytest.approx(log10_path_kernel_trace(network, masks, (1, 8, 8)))
    with (finished_run / "metrics.csv").open(newline="") as file:
        accuracies = [float(row["val/accuracy"]) for row in csv.DictReader(file) if row["val/accuracy"]]
    assert summary["test_accuracy"] == pytest.approx(accuracies[-1], abs=1e-6)
    assert summary["best_val_accuracy"] == max(accuracies)
    assert summary["best_epoch"] == 1 + accuracies.index(max(accuracies))
    assert summary["validated_on"] == "test set"
    best = torch.load(finished_run / "checkpoints" / "best.ckpt", weights_only=True)
    assert summary["best_epoch"] == 1 + best["epoch"]


@pytest.mark.thorough
def test_the_summary_of_a_dense_run_says_that_weights_changed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "-c", QUICKSTART, *SHORT, "--model.method=Dense", "--model.optimizer.lr=0.01", "--name=dense"])
    summary = json.loads(Path("runs/dense/version_0/summary.json").read_text())
    assert summary["weights_unchanged"] is False
    assert summary["kept"] == summary["total"]
    assert summary["file_bytes"] is None
    assert not Path("runs/dense/version_0/layers.png").exists()
    assert not Path("runs/dense/version_0/checkpoints/last.subnet").exists()
    assert "by this method" in capsys.readouterr().out


def test_a_second_run_leaves_the_first_alone_and_finds_the_same(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "runs" / "quickstart" / "version_0")
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    main(["fit", "-c", str(finished_run / "config.yaml"), "--trainer.default_root_dir=runs"])  # the saved config
    assert (tmp_path / "runs" / "quickstart" / "version_1" / "summary.json").is_file()
    assert all(path.read_bytes() == content for path, content in before.items())
    states = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (finished_run, Path("runs/quickstart/version_1"))
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("verb", [pytest.param("validate", marks=pytest.mark.thorough), "test"])
def test_a_checkpoint_is_evaluated_without_naming_its_config(
    verb: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([verb, "--ckpt_path", str(finished_run / "checkpoints" / "last.ckpt")])
    accuracy = json.loads((finished_run / "summary.json").read_text())["test_accuracy"]
    assert str(accuracy)[:8] in capsys.readouterr().out
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("callback", "logger"),
    [
        ("LearningRateMonitor", []),
        (
            "lightning_subnets.training.callbacks.ScoreHistograms",
            ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=runs"],
        ),
    ],
)
def test_fast_dev_run_tries_a_callback_that_needs_a_logger_and_writes_nothing(
    callback: str, logger: list[str], tmp_path: Path
) -> None:
    main(["fit", "-c", QUICKSTART, f"--trainer.callbacks+={callback}", *logger, "--trainer.fast_dev_run=2", *SHORT])
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_a_hidden_config_has_a_visible_name() -> None:
    Path(".mine.yaml").write_text("config: quickstart\ntrainer.limit_train_batches: 2\n")
    main(["fit", "-c", ".mine.yaml", *SHORT, "--trainer.max_epochs=1"])
    assert Path("runs/mine/version_0/summary.json").is_file()


def test_predictions_are_written_and_never_overwritten(finished_run: Path, mistake: Callable[..., str]) -> None:
    arguments = ["predict", f"--ckpt_path={finished_run}/checkpoints/last.ckpt", "--predictions.path=found.csv"]
    main(arguments)
    with open("found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    assert [row["sample"] for row in rows] == [str(sample) for sample in range(360)]
    assert right == pytest.approx(json.loads((finished_run / "summary.json").read_text())["test_accuracy"])
    before = Path("found.csv").read_bytes()
    assert "found.csv exists" in mistake(arguments)
    assert Path("found.csv").read_bytes() == before
    assert "nowhere is not a directory" in mistake([*arguments, "--predictions.path=nowhere/found.csv"])


def test_a_resumed_run_starts_where_its_checkpoint_ended(finished_run: Path) -> None:
    checkpoint = str(finished_run / "checkpoints" / "last.ckpt")
    main(["fit", "--ckpt_path", checkpoint, "--trainer.max_epochs=3", "--trainer.default_root_dir=runs"])
    with open("runs/quickstart/version_0/metrics.csv", newline="") as file:
        assert {row["epoch"] for row in csv.DictReader(file) if row["train/loss"]} == {"2"}


def test_a_run_resumed_with_another_config_keeps_the_old_config(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path("runs/quickstart/again")
    shutil.copytree(finished_run, run)
    (run / "summary.json").unlink()
    before = (run / "config.yaml").read_bytes()
    main(["fit", "-c", QUICKSTART, *SHORT, "--trainer.max_epochs=3", "--version=again"])
    assert "trainer.max_epochs = 3 instead of 2" in capsys.readouterr().err
    assert (run / "config_0.yaml").read_bytes() == before
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 3
    assert json.loads((run / "summary.json").read_text())["epochs"] == 3


@pytest.mark.thorough
def test_without_an_api_key_weights_and_biases_goes_offline_and_says_how_to_sync(
    no_account: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "false")  # restored afterwards, because the run sets it
    monkeypatch.setenv("WANDB_MODE", "online")
    main(["fit", "-c", QUICKSTART, *SHORT, "--trainer.logger=WandbLogger"])
    said = [line for line in capsys.readouterr().err.splitlines() if "wandb" in line.lower()]
    assert said == [
        "W&B: no API key on this machine, so the run is logged offline; "
        "later: wandb sync runs/quickstart/version_0/wandb/offline-run-*"
    ]
    assert list(Path("runs/quickstart/version_0/wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["timm.create_model", "model_name=resnet10t"],
        pytest.param(["timm.models.test_mambaout"], marks=pytest.mark.thorough),  # does not say what it returns
    ],
    ids=["by its name", "without annotation"],
)
def test_a_network_is_named_by_its_class_path(arguments: list[str]) -> None:
    data = ["--data.batch_size=16", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    arguments += ["dict_kwargs.in_chans=1", "dict_kwargs.num_classes=10"]
    options = [f"--model.network={arguments[0]}", *(f"--model.network.{argument}" for argument in arguments[1:])]
    main(["fit", "-c", QUICKSTART, *options, *data, "--trainer.max_epochs=1", "--trainer.accelerator=cpu"])
    summary = json.loads(Path("runs/quickstart/version_0/summary.json").read_text())
    assert summary["density"] == pytest.approx(0.5, abs=1e-3)
    assert summary["weights_unchanged"] is True
    assert SavedRun("runs/quickstart/version_0/checkpoints/last.ckpt").module().identity["method"] == "EdgePopup"


def not_a_network(num_classes: int = 10):  # type: ignore[no-untyped-def]
    return {"classes": num_classes}


def test_a_function_that_builds_no_network_is_a_mistake(mistake: Callable[..., str]) -> None:
    error = mistake(["fit", "-c", QUICKSTART, "--model.network=test_cli.not_a_network"])
    assert "'dict' object has no attribute" in error


def test_an_interrupted_run_says_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: SubnetModule, batch: object, batch_idx: int) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SubnetModule, "on_train_batch_start", interrupt)
        with pytest.raises(SystemExit):
            main(["fit", "-c", QUICKSTART, *SHORT])
    said = capsys.readouterr().err
    command = re.search(r"to resume: lightning (.*)", said)
    assert command is not None, said
    main(command[1].split())
    assert "under another config" not in capsys.readouterr().err
    assert json.loads(Path("runs/quickstart/version_0/summary.json").read_text())["epochs"] == 2
    assert [path.name for path in Path("runs/quickstart").iterdir()] == ["version_0"]


@pytest.mark.thorough
def test_a_run_that_its_time_limit_stops_is_resumed_by_the_same_command(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.max_time=00:00:00:00"]
    command = ["fit", "-c", QUICKSTART, *options, "--trainer.accelerator=cpu", "--version=timed"]
    summary = Path("runs/quickstart/timed/summary.json")
    for step in (1, 2):
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 75
        said = capsys.readouterr().err
        assert f"stopped by trainer.max_time at step {step}; to resume: lightning fit -c {summary.parent}" in said
        assert not summary.exists()
        begun = "training" if step == 1 else "resuming in epoch 1, after step 1"
        assert f"{begun}; everything goes into {summary.parent}\n" in said
    main(command)
    assert json.loads(summary.read_text())["steps"] == 2


@pytest.mark.thorough
@pytest.mark.parametrize("length", ["max_epochs=1", "max_steps=3"])
def test_a_run_that_was_killed_before_its_test_is_tested_with_its_averaged_weights(length: str) -> None:
    options = [f"--trainer.{length}", "--trainer.limit_train_batches=2", "--trainer.callbacks+=EMAWeightAveraging"]
    command = ["fit", "-c", QUICKSTART, "--trainer.max_epochs=-1", *options, "--trainer.accelerator=cpu"]
    summaries = []
    for _ in range(2):
        main([*command, "--version=averaged", "--trainer.callbacks.decay=0.5"])
        path = Path("runs/quickstart/averaged/summary.json")
        summaries.append({k: v for k, v in json.loads(path.read_text()).items() if k not in ("seconds", "finished")})
        path.unlink()
    assert summaries[0] == summaries[1]


@pytest.mark.thorough
def test_a_run_with_its_own_seed_can_be_resumed_and_tested(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fit", "-c", QUICKSTART, *SHORT, "--version=named", "--seed_everything=3"]
    main(command)
    checkpoint = "runs/quickstart/named/checkpoints/last.ckpt"
    main(["test", "--ckpt_path", checkpoint])
    Path("runs/quickstart/named/summary.json").unlink()
    main([*command, "--trainer.max_epochs=3"])
    summary = json.loads(Path("runs/quickstart/named/summary.json").read_text())
    assert (summary["seed"], summary["epochs"]) == (3, 3)
