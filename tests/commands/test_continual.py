"""``subnets continual``: every task is remembered, a stopped run resumes, and mistakes are found before training."""

from __future__ import annotations

import csv
import itertools
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lightning_subnets import SupSup
from lightning_subnets.commands.continual import TaskCLI
from lightning_subnets.commands.subnets import main
from lightning_subnets.errors import UserError
from lightning_subnets.subnet_file.container import Container
from lightning_subnets.training.module import SubnetModule

QUICK = """
config: digits/permuted
trainer.max_epochs: 2
data.init_args.batch_size: 128
model.network.init_args.width_multiplier: 0.5
trainer.accelerator: cpu
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "quick.yaml").write_text(QUICK)
    path = tmp_path / "two.yaml"
    path.write_text("config: quick.yaml\noption: data.init_args.permutation\ntasks: 2\n")
    return path


def test_all_tasks_are_remembered_told_apart_and_drawn_and_a_stopped_run_goes_on(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["continual", str(experiment), "--out", str(tmp_path / "whole")])
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "2 on one seed, 2 different answers",
        "task inferred 100.0% by one",
        "2 of 2, bit for bit",
        "kB a task",
    ):
        assert part in said
    with (tmp_path / "whole" / "results.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [row["task"] for row in rows] == [row["inferred_from_64"] for row in rows] == ["0", "1"]
    assert {row["unchanged"] for row in rows} == {"true"}
    assert min(float(row["test_accuracy"]) for row in rows) > 0.6
    assert SupSup.load(tmp_path / "whole" / "tasks.subnet").names == ["0", "1"]
    assert Container(tmp_path / "whole" / "tasks.subnet", whole=True).header.classes == [*"0123456789"]
    with Image.open(tmp_path / "whole" / "tasks.png") as picture:
        assert picture.width > 1000

    handler, epochs = signal.getsignal(signal.SIGINT), itertools.count(1)

    def interrupt(module: SubnetModule) -> None:
        if next(epochs) == 3:  # the first epoch of the second task
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SubnetModule, "on_train_epoch_end", interrupt)
        with pytest.raises(SystemExit) as exit_info:
            main(["continual", str(experiment), "--out", str(tmp_path / "stopped")])
    signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
    assert exit_info.value.code == 130
    assert "stopped after 1 of 2 tasks; the same command resumes" in capsys.readouterr().err
    main(["continual", str(experiment), "--out", str(tmp_path / "stopped")])
    for name in ("tasks.subnet", "results.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("option", ["model.channels_last: true", "trainer.precision: 64-true"])
def test_answers_stay_to_the_bit_in_any_memory_format_and_precision(
    option: str, experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = "model.network: {class_path: Conv2, init_args: {in_channels: 1, image_size: 8, width_multiplier: 0.5}}"
    text = QUICK.replace("model.network.init_args.width_multiplier: 0.5", network)
    (tmp_path / "quick.yaml").write_text(text.replace("max_epochs: 2", "max_epochs: 1") + option)
    main(["continual", str(experiment), "--out", str(tmp_path / "out")])
    assert "2 of 2, bit for bit" in " ".join(capsys.readouterr().out.split())


def test_a_network_of_your_own_is_learned_and_tested_by_one_process(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_net.py").write_text(
        "from lightning_subnets.networks import MLP\n\n\nclass TheirNet(MLP):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    network = "{class_path: their_net.TheirNet, init_args: {in_channels: 1, image_size: 8, spare_outputs: 90}}"
    text = QUICK.replace("model.network.init_args.width_multiplier: 0.5", f"model.network: {network}")
    (tmp_path / "quick.yaml").write_text(text.replace("max_epochs: 2", "max_epochs: 1") + "trainer.devices: 2")
    main(["continual", str(experiment), "--out", str(tmp_path / "out")])
    assert "2 of 2, bit for bit" in " ".join(capsys.readouterr().out.split())


def test_a_file_has_names_for_the_classes_of_all_tasks_or_none(
    tmp_path: Path, cifar_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for task in "012":
        shutil.copytree(cifar_folder, task)
    for part in ("train", "test"):
        renamed = min(Path("1", part).iterdir())
        renamed.rename(renamed.with_name("zebra"))
    Path("quick.yaml").write_text(
        "config: digits/permuted\ntrainer.accelerator: cpu\ntrainer.max_epochs: 1\n"
        "model.network.init_args: {in_channels: 3, image_size: 32, width_multiplier: 0.1, spare_outputs: 20}\n"
        'data: {class_path: CIFAR10, init_args: {root: "0", batch_size: 4}}\n'
    )
    named = []
    for tasks in (2, 3):  # the second call resumes with a task of the first one's classes
        Path("roots.yaml").write_text(f"config: quick.yaml\noption: data.init_args.root\ntasks: {tasks}\n")
        main(["continual", "roots.yaml", "--out", "out"])
        named.append(Container("out/tasks.subnet", whole=True).header.classes)
    assert named == [[], []]


def test_mistakes_are_found_before_training(
    experiment: Path,
    tmp_path: Path,
    cifar_folder: Path,
    mistake: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("this trains")

    monkeypatch.setattr(SubnetModule, "training_step", fail)
    text, out = experiment.read_text(), tmp_path / "out"

    def said(old: str, new: str) -> str:
        experiment.write_text(text.replace(old, new))
        return mistake(["continual", str(experiment), "--out", str(out)], main)

    assert "expected 2 or more" in said("tasks: 2", "tasks: 1")
    assert "is not a continual experiment" in said("tasks", "task")
    assert "none.yaml is missing" in said("quick.yaml", "none.yaml")
    assert "tasks share network and method" in said("data.init_args.permutation", "model.network.init_args.depth")
    assert "Did you mean --data.init_args.permutation?" in said("permutation", "permutatoin")
    assert "Did you mean continual/permuted_digits?" in mistake(["continual", "permuted_digit"], main)
    (tmp_path / "quick.yaml").write_text(
        QUICK + "model.method: {class_path: DNW, init_args: {density: 0.5}}\nmodel.weights: kaiming_normal\n"
    )
    assert "DNW changes weights" in said("", "")
    shutil.copytree(cifar_folder, tmp_path / "own")
    (tmp_path / "own" / "test").rename(tmp_path / "own" / "val")
    folder = f"data: {{class_path: ImageFolder, init_args: {{root: {tmp_path}/own, batch_size: 4, image_size: 8}}}}\n"
    classes = len(list((cifar_folder / "train").iterdir()))
    network = f"model.network.init_args: {{in_channels: 3, image_size: 8, num_classes: {classes}}}\n"
    (tmp_path / "quick.yaml").write_text(QUICK.replace("data.init_args.batch_size: 128\n", "") + folder + network)
    assert "task 0 has no test images" in said("permutation", "validation_fraction")
    assert not (out / "tasks.subnet").exists()


def test_each_task_needs_test_images_before_it_is_trained(
    tmp_path: Path, cifar_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(cifar_folder, "0")
    shutil.copytree(cifar_folder / "train", "1/train")
    Path("quick.yaml").write_text(
        "config: digits/permuted\ntrainer.accelerator: cpu\nmodel.network.init_args: {in_channels: 3, image_size: 8}\n"
        'data: {class_path: ImageFolder, init_args: {root: "0", batch_size: 4, image_size: 8}}\n'
    )
    cli = TaskCLI(Path("quick.yaml"), "data.init_args.root")
    cli.build(0)
    with pytest.raises(UserError, match="task 1 has no test images"):
        cli.build(1)


def test_files_of_something_else_are_not_replaced(
    experiment: Path, tmp_path: Path, mistake: Callable[..., str]
) -> None:
    table = tmp_path / "results.csv"
    table.write_text("a table of somebody\n")
    said = mistake(["continual", str(experiment), "--out", str(tmp_path)], main)
    assert "results.csv was not written by subnets continual, which would replace it: name another --out" in said
    assert table.read_text() == "a table of somebody\n"


def test_a_config_can_be_corrected_before_the_first_task(
    experiment: Path, tmp_path: Path, mistake: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    config, command = tmp_path / "quick.yaml", ["continual", str(experiment), "--out", str(tmp_path / "out")]
    config.write_text(
        QUICK + "model.method: {class_path: DNW, init_args: {density: 0.5}}\nmodel.weights: kaiming_normal\n"
    )
    assert "DNW changes weights" in mistake(command, main)
    config.write_text(QUICK)
    experiment.write_text(experiment.read_text().replace("init_args.", ""))  # as a command line may
    main(command)
    assert "2 of 2, bit for bit" in capsys.readouterr().out
    config.write_text(QUICK + "seed_everything: 1\n")
    assert "has tasks of another config" in mistake(command, main)


def test_the_answers_of_a_method_that_samples_masks_are_those_of_its_file(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quick.yaml").write_text(
        QUICK + "model.method: Supermask\nmodel.optimizer: {class_path: torch.optim.SGD, init_args: {lr: 200}}\n"
    )
    main(["continual", str(experiment), "--out", str(tmp_path / "out")])
    assert "2 of 2, bit for bit" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_in_the_tests_says_that_the_same_command_resumes(
    number: signal.Signals,
    code: int,
    experiment: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(SupSup, "slopes", lambda *_: signal.raise_signal(number))
    with pytest.raises(SystemExit) as exit_info:
        main(["continual", str(experiment), "--out", str(tmp_path / "out")])
    signal.signal(signal.SIGTERM, before)
    assert exit_info.value.code == code
    assert "stopped after 2 of 2 tasks; the same command resumes" in capsys.readouterr().err
