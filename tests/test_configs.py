"""The shipped configs: each trains, and each changes what it names and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from repository import ROOT

from lightning_subnets import methods
from lightning_subnets.commands.cli import main

CONFIGS = ROOT / "configs"
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("figures", "continual"))
EXPERIMENTS = [path for path in FILES if not path.stem.endswith("base")]
SMALL = ["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu", "--data.batch_size=2"]

PHOTOGRAPHS = [
    "--data.root={photographs}",
    "--data.loader=folder",
    "--data.image_size=64",
    "--data.num_workers=0",
    "--model.network.num_classes=3",
]

# Drawing a large network takes longer than a step of training, so a small network replaces it, except in one config.
SMALL_NETWORK = ["--model.network=torchvision.models.squeezenet1_1"]
WITH_OWN_NETWORK = "rn50_signed.yaml"

# Options that keep experiments small, by their folder, their base, or a part of their name.
KEPT_SMALL = {
    "imagenet_base.yaml": PHOTOGRAPHS,
    "methods/rn50_": PHOTOGRAPHS,
    "tiny_imagenet": ["--data.root={tiny_imagenet}", "--model.network.num_classes=3"],
    "cifar10": ["--data.root={cifar}", "--model.network.width_multiplier=0.25"],
    "imagenet/fast_rn50": PHOTOGRAPHS,
    "digits/supermask": ["--model.network.width_multiplier=0.25"],
    "methods/vgg16_": ["--data.root={cifar}", "--model.network.width_multiplier=0.125"],
    "_snip": ["--model.method.samples_per_class=2"],
    "rn50_trained_norms": ["--model.network=torchvision.models.resnet18"],  # has norms
    "rn50_phew": ["--model.method.density=0.05"],
}

# make test runs one config of each family, and make test-all the others.
FAMILIES = [
    "cifar10/conv2_dense_adam.yaml",
    "cifar10/lottery_ticket.yaml",
    "digits/supermask.yaml",
    "methods/vgg16_snip.yaml",
    "rn50_signed_fast.yaml",
    "tiny_imagenet/rn18_signed.yaml",
]


# These differ from a config beside them only in the network, so make test-long runs their trial runs.
OTHER_NETWORKS = re.compile(r"cifar10/conv[468]_(dense|kaiming)|^rn(34|101)_|^wrn50_|tiny_imagenet/(rn50|wrn50)_")


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def in_tiers(paths: list[Path]) -> list[Any]:
    """Return the configs as parameters of a test, marked as thorough unless they stand for their family."""
    names = [name_of(path) for path in paths]
    assert set(FAMILIES) <= set(names)
    return [
        pytest.param(path, id=name, marks=() if name in FAMILIES else pytest.mark.thorough)
        for path, name in zip(paths, names, strict=True)
    ]


@pytest.fixture(scope="session")
def tiny_imagenet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory like Tiny ImageNet's, with 2 training and 2 test images in each of 3 classes."""
    root = tmp_path_factory.mktemp("tiny_imagenet")
    annotations = []
    for label in range(3):
        for index in range(2):
            name = f"val_{label}_{index}.JPEG"
            annotations.append(f"{name}\tclass_{label}\t0\t0\t63\t63\n")
            for path in (root / f"train/class_{label}/images/{index}.JPEG", root / "val/images" / name):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (64, 64), (80 * label, 100, 100 * index)).save(path)
    (root / "wnids.txt").write_text("class_0\nclass_1\nclass_2\n")
    (root / "val/val_annotations.txt").write_text("".join(annotations))
    return root


@pytest.fixture
def folders(photographs: Path, cifar_folder: Path, tiny_imagenet_folder: Path) -> dict[str, Path]:
    return {"photographs": photographs, "cifar": cifar_folder, "tiny_imagenet": tiny_imagenet_folder}


def trial_runs() -> list[Any]:
    """Return the experiments as parameters, marked as long if they differ from another one only in the network."""
    others = [path for path in EXPERIMENTS if OTHER_NETWORKS.search(name_of(path))]
    long = [pytest.param(path, id=name_of(path), marks=pytest.mark.long) for path in others]
    return in_tiers([path for path in EXPERIMENTS if path not in others]) + long


@pytest.mark.parametrize("config", trial_runs())
def test_an_experiment_trains_validates_and_writes_nothing_in_a_trial_run(
    config: Path, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = yaml.safe_load(config.read_text()).get("config", "")
    kinds = [kind for kind in KEPT_SMALL if kind in (config.parent.name, base) or kind in name_of(config)]
    options = dict.fromkeys(option for kind in kinds for option in KEPT_SMALL[kind])
    if "num_classes=3" in "".join(options) and name_of(config) != WITH_OWN_NETWORK:
        options = dict.fromkeys([*SMALL_NETWORK, *options])
    small = [option.format(**folders) for option in options]
    main(["fit", "-c", str(config), *SMALL, *small])
    assert list(tmp_path.iterdir()) == []


def resolved(config: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as exit_info:
        main(["fit", "-c", str(config), "--print_config"])
    assert exit_info.value.code == 0
    values: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return values


def leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return every value of a nested mapping, by its dotted key."""
    if not isinstance(values, dict):
        return {prefix: values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= leaves(value, f"{prefix}.{key}" if prefix else key)
    return found


@pytest.mark.parametrize("config", in_tiers([path for path in FILES if "config" in yaml.safe_load(path.read_text())]))
def test_an_experiment_changes_what_it_names_and_loses_nothing_of_its_base(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = yaml.safe_load(config.read_text())
    base = leaves(yaml.safe_load((config.parent / own.pop("config")).read_text()))
    base.pop("config", None)  # a base is compared with its own base in its own case
    found = leaves(resolved(config, capsys))
    replaced = tuple(key for key in own if key.count(".") == 1)  # whole classes, such as model.optimizer
    for key, value in leaves(own).items():
        assert _same(value, _of(found, key)), key
    lost = {
        key: (value, _of(found, key))
        for key, value in base.items()
        if not key.startswith(replaced) and key not in leaves(own) and not _same(value, _of(found, key))
    }
    assert lost == {}


def _of(found: dict[str, Any], key: str) -> Any:
    """Return a value; if only the name of a class was given, its path."""
    return found.get(key, found.get(f"{key}.class_path"))


def _same(value: Any, found: Any) -> bool:
    """Return whether a value is found; in a list of classes, only named arguments are compared."""
    if isinstance(value, list) and len(value) == len(found or ()):
        return all(_same(*pair) for pair in zip(value, found, strict=True))
    if isinstance(value, dict):
        return all(key in found and _same(each, found[key]) for key, each in value.items())
    return bool(found == value) or str(found).endswith(f".{value}")


@pytest.mark.parametrize("config", [pytest.param(path, id=name_of(path)) for path in FILES])
def test_a_method_that_trains_weights_names_what_they_are_drawn_from(config: Path) -> None:
    values = merged(config)
    method = values.get("model.method.class_path") or values["model.method"]
    if getattr(methods, method).trainable == "weights":
        assert "model.weights" in values


def merged(config: Path) -> dict[str, Any]:
    """Return the values of a config and of its bases, by their dotted keys."""
    own = yaml.safe_load(config.read_text())
    base = merged(config.parent / own.pop("config")) if "config" in own else {}
    replaced = tuple(key for key in own if key.count(".") == 1)
    return {key: value for key, value in base.items() if not key.startswith(replaced)} | leaves(own)


def test_the_headline_run_is_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    paper = {
        "model.network.class_path": "torchvision.models.wide_resnet50_2",
        "model.weights": "signed_constant",
        "model.method.init_args.density": 0.3,
        "model.optimizer.init_args.lr": 0.256,
        "model.lr_batch_size": 256,
        "model.optimizer.init_args.momentum": 0.875,
        "model.optimizer.init_args.weight_decay": 2**-15,
        "model.warmup_epochs": 5,
        "model.schedule": "cosine",
        "model.label_smoothing": 0.1,
        "model.channels_last": True,
        "trainer.max_epochs": 100,
        "trainer.precision": "bf16-mixed",
    }
    config = leaves(resolved(CONFIGS / "wrn50_signed.yaml", capsys))
    assert {key: config[key] for key in paper} == paper


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(0, marks=pytest.mark.thorough),
        *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 6)),
    ],
)
def test_the_quickstart_finds_a_good_subnetwork(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "-c", str(CONFIGS / "quickstart.yaml"), "--trainer.accelerator=cpu", f"--seed_everything={seed}"])
    summary = json.loads(Path("runs/quickstart/version_0/summary.json").read_text())
    assert summary["seed"] == seed
    assert summary["test_accuracy"] >= 0.985
    assert summary["weights_unchanged"] is True
    assert summary["density"] == 0.5
    if seed == 0:
        assert f"sha256 {summary['weights_digest'][:16]}…" in (ROOT / "docs" / "start.md").read_text()
