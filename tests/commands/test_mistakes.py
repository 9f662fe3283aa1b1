"""A user's mistake ends with exit code 2 and one clear error, and costs nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from repository import ROOT
from torch import nn

from lightning_subnets.run_files.run_directory import RunDirectory

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
SHORT = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu"]
CHANGES = "--trainer.callbacks.scheduling={1: 4}"
Mistake = Callable[..., str]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


MISTAKES: list[tuple[list[str], list[str]]] = [
    (["--model.method.density=1.5"], ["density = 1.5", "(0, 1]"]),
    (["--data.seed=5"], ["--data.seed would be ignored: seed_everything is the seed of weights, scores and data"]),
    (["--model.method=EdgePop"], ["EdgePop", "Did you mean lightning_subnets.methods.EdgePopup", "Dense"]),
    (["--model.lr=1"], ["--model.lr is not known. Did you mean --model.optimizer.lr?"]),  # it abbreviates lr_batch_size
    (["--model.method=FixedMask"], ["needs masks: write it after the class", "under the init_args"]),
    (["--data.batch_szie=3"], ["--data.batch_szie is not known. Did you mean --data.batch_size?"]),
    (["--model.network.num_classes=9"], ["9 outputs", "10 classes", "--model.network.num_classes=10"]),
    (["--model.optimizer.lr=-1"], ["learning rate", "-1"]),
    (["--trainer.default_root_dir=/dev/null"], ["/dev/null/quickstart", "Not a directory"]),
    (["--version=.."], ["--version is '..': it names a directory, so use a name "]),
    (["--name=../outside"], ["--name is '../outside': the run would not be below", "such as 'first'"]),
    (["--trainer.callbacks+=BatchSizeFinder"], ["BatchSizeFinder changes the batch size", "--data.batch_size"]),
]
MORE_MISTAKES: list[tuple[list[str], list[str]]] = [
    (["--model.method.densty=0.3"], ["--model.method.densty is not known. Did you mean --model.method.density?"]),
    (["--model.optimizer.lrr=1"], ["--model.optimizer.lrr is not known. Did you mean --model.optimizer.lr?"]),
    (["--model.optimzer=SGD"], ["--model.optimzer is not known. Did you mean --model.optimizer?"]),
    (["--seed=1"], ["--seed is not known. Did you mean --seed_everything?"]),
    (["--max_epochs=1"], ["--max_epochs is not known. Did you mean --trainer.max_epochs?"]),
    (
        ["--trainer.callbacks+=IterativePruning"],
        ["needs rounds, epochs_per_round: write it after the class", "under the init_args of the class"],
    ),
    (["--trainer.wings=3"], ["--trainer.wings is not known. Known: accelerator, ", "val_check_interval."]),
    (["--trainer.logger=WandbLoger"], ["--trainer.logger = 'WandbLoger'", "Did you mean WandbLogger", "CSVLogger"]),
    (["--trainer.callbacks+=EMAWeightAverging"], ["'EMAWeightAverging'", "Did you mean EMAWeightAveraging"]),
    (["--trainer.callbacks+=ScoreHistogram"], ["'ScoreHistogram'", "Did you mean ScoreHistograms"]),
    (["--model.optimizer=Adm"], ["--model.optimizer = 'Adm'", "Did you mean torch.optim.Adam"]),
    (["--model.schedule=cosin"], ["--model.schedule = 'cosin'", "Did you mean 'cosine'? Known: cosine, constant."]),
    (
        ["--model.method.allocation=unifrm"],
        ["'unifrm' is not known. Did you mean 'uniform'? Known: uniform, erk, equal, smart_ratio, global"],
    ),
    (["--model.network=mynt.MyNet"], ["No module named 'mynt'", "mynet.MyNet for mynet.py", "Conv2"]),
    (["--model.network=test_mistakes.Fragile"], ["Fragile refuses its arguments: not all arguments converted"]),
    (["--model.weights=signed_constnt"], ["'signed_constnt'", "Did you mean 'signed_constant'", "kaiming_normal"]),
    (["--model.network=torchvision.models.resnet5"], ["resnet5", "torchvision.models.resnet50", "Conv2"]),
    (["--data=Digit"], ["Digit", "lightning_subnets.datamodules.Digits", "ImageNet"]),
    (["--model.network.in_chans=1"], ["in_chans", "--model.network.dict_kwargs.in_chans=..."]),
    (["--model.network.in_channels=3"], ["Conv2 cannot take", "(1, 8, 8)"]),
    (["--trainer.precision=8"], ["--trainer.precision = '8' is not known", "Known: 64, 32, 16", "bf16-mixed"]),
    (["--config=figures/figure3"], ["figures/figure3 is not the config of a run", "subnets sweep figures/figure3"]),
    (["--trainer.precision=bf16-true"], ["bf16-true would round the weights and the scores", "take bf16-mixed"]),
    (["--trainer.devices=2", "--trainer.accelerator=gpu"], ["gpu"]),
    (
        ["--data=lightning_subnets.datamodules.ImageNet"],
        ["data/imagenet lacks train.beton and val.beton", "prepare_imagenet.py", "loader=folder"],
    ),
    (
        ["--data=lightning_subnets.datamodules.ImageNet", "--data.loader=folder"],
        ["data/imagenet/train does not exist", "data/README.md"],
    ),
    (["--seed_everything=-1"], ["seed_everything", "-1"]),
    (["--ckpt_path=missing.ckpt"], ["missing.ckpt does not exist"]),
    (
        ["--trainer.callbacks+=LearningRateFinder"],
        ["LearningRateFinder cannot set", "--model.optimizer.lr (optimizer= in Python)"],
    ),
    (["--trainer.callbacks+=BackboneFinetuning"], ["BackboneFinetuning changes which parameters", "remove this"]),
    (
        ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1"],
        ["StochasticWeightAveraging cannot be resumed", "take WeightAveraging", "update_starting_at_step"],
    ),
    (
        ["--trainer.callbacks+=WeightAveraging", "--trainer.callbacks+=EMAWeightAveraging"],
        ["WeightAveraging and EMAWeightAveraging average the network", "keep one of them"],
    ),
    (
        ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"],
        ["EarlyStopping monitors val_loss, which", "set its monitor to train/loss, train/accuracy, val/loss, val/acc"],
    ),
    (
        ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=test/loss"],
        ["ModelCheckpoint monitors test/loss, which training does not log", "val/accuracy or val/top5"],
    ),
    (
        ["--model.lr_batch_size=64", "--trainer.callbacks+=GradientAccumulationScheduler", CHANGES],
        ["GradientAccumulationScheduler changes the number of images", "set --trainer.accumulate_grad_batches"],
    ),
    (["--trainer.devices=2", "--trainer.sync_batchnorm=true"], ["--trainer.sync_batchnorm needs GPUs"]),
    (["--trainer.devices=2", "--trainer.val_check_interval=00:00:10:00"], ["to a number of batches"]),
    (["--trainer.devices=2", "--trainer.strategy=ddp_spawn"], ["ddp_spawn", "take --trainer.strategy=ddp"]),
    (
        ["--trainer.callbacks+=ModelPruning", "--trainer.callbacks.pruning_fn=l1_unstructured"],
        ["ModelPruning changes frozen weights", "IterativePruning"],
    ),
]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [*MISTAKES, *(pytest.param(*mistake, marks=pytest.mark.thorough) for mistake in MORE_MISTAKES)],
    ids=lambda value: value[-1] if value[0].startswith("--") else "",
)
def test_a_mistake_is_named_and_leaves_nothing_behind(
    arguments: list[str], parts: list[str], tmp_path: Path, mistake: Mistake
) -> None:
    if "--trainer.accelerator=gpu" in arguments and torch.cuda.is_available():
        arguments = ["--trainer.devices=99", "--trainer.accelerator=gpu"]
    error = mistake(["fit", "-c", QUICKSTART, *SHORT, *arguments])
    assert all(part in error for part in parts), error
    assert list(tmp_path.iterdir()) == []


class Fragile(nn.Module):
    def __init__(self) -> None:
        raise TypeError("not all arguments converted during string formatting")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["model.scheduel: cosine"], "line 2: model.scheduel is not known. Did you mean model.schedule?"),
        (["model.schedule: cosin"], "line 2: model.schedule = 'cosin' is not known. Did you mean 'cosine'?"),
        (["trainer:", "  max_epoch: 3"], "line 3: trainer.max_epoch is not known. Did you mean trainer.max_epochs?"),
        (
            ["model.method:", "  class_path: EdgePopup", "  init_args:", "    densty: 0.3"],
            "line 5: model.method.init_args.densty is not known. Did you mean model.method.init_args.density?",
        ),
        (
            ["trainer:", "  callbacks:", "  - class_path: EMAWeightAveraging", "    init_args: {decy: 0.1}"],
            "line 5: trainer.callbacks.init_args.decy is not known. Did you mean trainer.callbacks.init_args.decay?",
        ),
        (["model.optimizer.init_args.lr: 0.1"], "line 2: model.optimizer.init_args.lr needs the class_path of the"),
        (["model.optimizer.lr: 0.1"], "line 2: model.optimizer.lr needs the class_path of the optimizer beside it"),
        (["model.optimizer: {lr: 0.1}"], "line 2: model.optimizer.lr needs the class_path of the optimizer beside it"),
        (["trainer.logger: WandbLoger"], "line 2: trainer.logger = 'WandbLoger' names no class. Did you mean Wandb"),
        (["model.method.class_path: EdgPopup"], "line 2: model.method.class_path = 'EdgPopup' names no class. Did you"),
    ],
)
def test_a_misspelt_key_is_found_in_its_file(lines: list[str], message: str, mistake: Mistake) -> None:
    Path("configs").mkdir()
    Path("configs/base.yaml").write_text("\n".join([f"config: {QUICKSTART}", *lines]))
    Path("own.yaml").write_text("config: configs/base.yaml\n")
    assert f"error: configs/base.yaml, {message}" in mistake(["fit", "-c", "own.yaml", *SHORT])


def test_a_misspelt_class_of_ones_own_module_is_found_there(mistake: Mistake) -> None:
    Path("own_rules.py").write_text("import lightning_subnets as ls\nclass Mine(ls.EdgePopup): pass\n")
    assert "Did you mean own_rules.Mine?" in mistake(["fit", "-c", QUICKSTART, "--model.method=own_rules.mine"])


@pytest.mark.parametrize("arguments", [[], ["fti"], ["fit", "--ckpt_path"]])
def test_an_incomplete_command_line_gets_an_example(arguments: list[str], mistake: Mistake) -> None:
    error = mistake(arguments)
    assert error.startswith("error: ")
    assert "lightning fit -c quickstart " in error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(workers: int, photographs: Path, tmp_path: Path, mistake: Mistake) -> None:
    shutil.copytree(photographs, tmp_path / "photographs")
    broken = sorted((tmp_path / "photographs" / "train").rglob("*.jpg"))[0]
    content = broken.read_bytes()
    broken.unlink()  # it may be a link to the original
    broken.write_bytes(content[: len(content) // 2])
    config = str(Path(QUICKSTART).parent / "rn50_signed.yaml")
    options = ["--data.root=photographs", "--data.loader=folder", "--data.batch_size=4", "--data.image_size=64"]
    options += ["--model.network.num_classes=3", "--trainer.precision=32-true"]
    network = ["--model.network=torchvision.models.resnet18", f"--data.num_workers={workers}"]
    error = mistake(["fit", "-c", config, *SHORT, *network, *options])
    said = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert str(broken.relative_to(tmp_path)) in said[0]
    assert "is not a readable image" in said[0]


def test_a_mistake_under_two_processes_is_one_error_before_the_second_starts(
    tmp_path: Path, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("subprocess.Popen")
    ddp = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    assert mistake(["fit", "-c", QUICKSTART, *ddp, "--model.network.num_classes=9"]).splitlines() == [
        "error: Conv2 has 9 outputs and Digits has 10 classes: set --model.network.num_classes=10 "
        "(timm: --model.network.dict_kwargs.num_classes=10)"
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_not_resumed(finished_run: Path, mistake: Mistake) -> None:
    checkpoint = str(finished_run / "checkpoints" / "last.ckpt")
    assert "has finished all 2 epochs: raise --trainer.max_epochs" in mistake(["fit", "--ckpt_path", checkpoint])
    steps = ["--trainer.max_epochs=-1", "--trainer.max_steps=40"]
    assert "has finished all 46 steps: raise --trainer.max_steps" in mistake(["fit", "--ckpt_path", checkpoint, *steps])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--model.method.density=0.3"], "density = 0.5 and this run has density = 0.3"),
        (["--model.network.width_multiplier=2"], "has shape (64, 1, 3, 3)"),
        (["--model.optimizer=SGD"], "of a run with Adam and this run has SGD"),
        (["--trainer.max_epochs=1"], "is at step 46, in epoch 2, and --trainer.max_epochs=1 is before that"),
        (["--trainer.max_steps=40"], "--trainer.max_steps=40 is before that"),
    ],
)
def test_a_run_that_cannot_resume_is_left_as_it_is(
    arguments: list[str], part: str, finished_run: Path, mistake: Mistake
) -> None:
    run = Path("runs/quickstart/again")
    shutil.copytree(finished_run, run)
    (run / "summary.json").unlink()
    before = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    error = mistake(["fit", "-c", QUICKSTART, *SHORT, "--version=again", *arguments])
    assert part in error
    assert "resuming" not in error
    assert {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_of_another_process_is_left_alone(tmp_path: Path, mistake: Mistake) -> None:
    run = RunDirectory.claim(tmp_path / "runs", "quickstart", "shared")
    assert "is being used by another process" in mistake(["fit", "-c", QUICKSTART, *SHORT, "--version=shared"])
    run.release()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (torch.zeros(3), "is not a checkpoint of lightning-subnets"),
        ({"state_dict": {}, "epoch": 1}, "is not a checkpoint of lightning-subnets"),
        ({"subnet": {}, "state_dict": {}, "path": Path("runs code when unpickled")}, "cannot be read"),
    ],
)
def test_a_foreign_checkpoint_is_refused(content: object, part: str, tmp_path: Path, mistake: Mistake) -> None:
    torch.save(content, tmp_path / "foreign.ckpt")
    assert part in mistake(["test", "-c", QUICKSTART, "--ckpt_path=foreign.ckpt"])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--model.method.density=0.3"], "density = 0.5 and this run has density = 0.3"),
        (["--model.weights=kaiming_normal"], "weights = 'signed_constant'"),
        (["--seed_everything=1"], "seed = 0 and this run has seed = 1"),
        (["--model.method=Dense"], "method = 'EdgePopup'"),
        (["--model.network.width_multiplier=2"], "network.features.0.scores has shape (64, 1, 3, 3)"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    arguments: list[str], part: str, finished_run: Path, mistake: Mistake
) -> None:
    checkpoint = finished_run / "checkpoints" / "last.ckpt"
    assert part in mistake(["test", "-c", QUICKSTART, "--ckpt_path", str(checkpoint), *arguments])


@pytest.mark.parametrize("count", [2, pytest.param(500, marks=pytest.mark.long)])
def test_a_truncated_checkpoint_is_refused(count: int, finished_run: Path, tmp_path: Path, mistake: Mistake) -> None:
    whole = (finished_run / "checkpoints" / "last.ckpt").read_bytes()
    for length in (0, *torch.randint(len(whole), (count - 1,)).tolist()):
        (tmp_path / "cut.ckpt").write_bytes(whole[:length])
        assert "cut.ckpt cannot be read: it is trunc" in mistake(["test", "-c", QUICKSTART, "--ckpt_path=cut.ckpt"])


def test_a_diverged_run_stops_and_names_the_step(mistake: Mistake) -> None:
    sgd = ["--model.optimizer=SGD", "--model.optimizer.lr=1e30", "--model.optimizer.weight_decay=1e-4"]
    error = mistake(["fit", "-c", QUICKSTART, *SHORT, *sgd, "--model.optimizer.momentum=0.9"])
    assert "training diverged at step" in error
    assert "no checkpoint had been written" in error
    assert not list(Path("runs").rglob("*.ckpt"))
    assert Path("runs/quickstart/version_0/failure.txt").read_text() == error.rpartition("error: ")[2]


@pytest.mark.parametrize("line", ["model.seed: 5", "data: {init_args: {seed: 5}}", "data.seed: 5"])
def test_a_config_cannot_give_a_part_a_seed_of_its_own(line: str, tmp_path: Path, mistake: Mistake) -> None:
    (tmp_path / "own.yaml").write_text(f"config: {QUICKSTART}\n{line}\n")
    error = mistake(["fit", "-c", str(tmp_path / "own.yaml"), *SHORT])
    assert "own.yaml, line 2: " in error
    assert "would be ignored: seed_everything" in error


def test_a_config_is_based_on_one_other(tmp_path: Path, mistake: Mistake) -> None:
    (tmp_path / "own.yaml").write_text(f"config: [{QUICKSTART}, {QUICKSTART}]\n")
    assert "the key config names one config" in mistake(["fit", "-c", str(tmp_path / "own.yaml"), *SHORT])
