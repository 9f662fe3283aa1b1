"""A config means the same in every form that people write."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import get_loader
from torch import nn

from lightning_subnets.commands.cli import main
from lightning_subnets.run_files.config_text import complete, completed

Printed = dict[str, Any]


def printed(text: str, capsys: pytest.CaptureFixture[str], *options: str) -> Printed:
    """Return the config of a run whose own config has this text."""
    Path("own.yaml").write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", "own.yaml", *options, "--print_config"])
    assert end.value.code == 0
    found: Printed = yaml.safe_load(capsys.readouterr().out)
    return found


FORMS = {
    "a group": ("trainer.max_epochs: 3\ntrainer.precision: 64-true", "trainer:\n  max_epochs: 3\n  precision: 64-true"),
    "two groups": (
        "model.weights: kaiming_normal\nmodel.method.init_args.density: 0.1",
        "model: {weights: kaiming_normal, method: {init_args: {density: 0.1}}}",
    ),
    "a class in a group": (
        "model.method: {class_path: IteRand, init_args: {density: 0.1}}",
        "model: {method: {class_path: IteRand, init_args: {density: 0.1}}}",
    ),
    "arguments by their short names": ("data.init_args.batch_size: 9", "data.batch_size: 9"),
    "arguments in a mapping": ("data.init_args.batch_size: 9", "data: {batch_size: 9}"),
    "arguments in two mappings": ("data.init_args.batch_size: 9", "data: {init_args: {batch_size: 9}}"),
    "a class and its arguments": (
        "model.method: {class_path: IteRand, init_args: {density: 0.1, every: 5}}",
        "model.method: IteRand\nmodel.method.init_args.density: 0.1\nmodel.method.every: 5",
    ),
    "arguments and their class": (
        "model.network: {class_path: lightning_subnets.networks.Conv4, init_args: {in_channels: 1, image_size: 8}}",
        "model.network.in_channels: 1\nmodel.network.init_args.image_size: 8\n"
        "model.network: {class_path: lightning_subnets.networks.Conv4}",
    ),
    "an optimizer": (
        "model.optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.5, fused: true}}",
        "model.optimizer: torch.optim.AdamW\nmodel.optimizer.lr: 0.5\nmodel.optimizer.fused: true",
    ),
    "a mapping that is a value": ("model.densities: {fc: 0.5}", "model: {densities: {fc: 0.5}}"),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_changes_what_it_names_and_nothing_else(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    dotted, other = FORMS[form]
    base = printed("config: quickstart\n", capsys)
    expected, found = (printed(f"config: quickstart\n{text}\n", capsys) for text in (dotted, other))
    assert found == expected != base
    assert printed(f"{other}\nconfig: quickstart\n", capsys) == expected


class MyNet(nn.Linear):
    def __init__(self, config: str, model: dict[str, int], data: dict[str, float]) -> None:
        super().__init__(64, 10)


def test_values_that_look_like_a_config_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = {"config": "mine", "model": {"depth": 3}, "data": {"x": math.inf}}
    network = {"class_path": "test_config_text.MyNet", "init_args": own}
    text = {"config": "quickstart", "trainer": {"max_epochs": 3}, "model.network": network}
    found = printed(yaml.safe_dump(text, default_style='"'), capsys, '--model.densities={"data.weight": 0.5}')
    assert found["model"]["network"]["init_args"] == own
    assert found["model"]["densities"] == {"data.weight": 0.5}
    assert found["trainer"]["max_epochs"] == 3


def test_a_key_that_is_a_number_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("config: quickstart\nmodel.method: IteRand\n1: 2\n")
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", "own.yaml"])
    assert end.value.code == 2
    assert "Key must be a string, got: 1" in capsys.readouterr().err


def test_a_config_that_names_no_other_keeps_its_mappings() -> None:
    whole = {"trainer": {"max_epochs": 3}, "model": {"method": {"init_args": {"density": 0.3}}}, "seed_everything": 1}
    assert complete(whole) == whole
    assert complete({"model.method": "SNIP", "model.method.density": 0.3}) == {
        "model.method": {"class_path": "SNIP", "init_args": {"density": 0.3}}
    }


def test_values_keep_their_types_and_other_text_its_form() -> None:
    text = "config: a\ntrainer: {x: '1e-3', y: 1e-3, z: .inf, u: 'null', v: null, w: 'yes', t: yes, s: [1, '1']}\n"
    expected = {"x": "1e-3", "y": 1e-3, "z": math.inf, "u": "null", "v": None, "w": "yes", "t": True, "s": [1, "1"]}
    found = get_loader("yaml")(completed(text))
    assert found == {"config": "a"} | {f"trainer.{key}": value for key, value in expected.items()}
    for other in ("a: 1  # as it is\n", "- 1\n", "a", "a: ["):
        assert completed(other) == other
