"""A config means the same in every form that people write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_subnets.commands.cli import main
from lightning_subnets.run_files.config_text import complete

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


def test_a_config_that_names_no_other_keeps_its_mappings() -> None:
    whole = {"trainer": {"max_epochs": 3}, "model": {"method": {"init_args": {"density": 0.3}}}, "seed_everything": 1}
    assert complete(whole) == whole
    assert complete({"model.method": "SNIP", "model.method.density": 0.3}) == {
        "model.method": {"class_path": "SNIP", "init_args": {"density": 0.3}}
    }
