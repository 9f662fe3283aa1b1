"""The weights that a run masks: named in its config, kept in its checkpoints, and checked before training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import QUICKSTART
from small_runs import quiet_trainer
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.commands.cli import main
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking.choice import Choice
from lightning_subnets.run_files.saved_run import SavedRun
from lightning_subnets.training import checkpoint
from lightning_subnets.training.module import SubnetModule
from lightning_subnets.training.run_masks import read_masks
from lightning_subnets.training.trial_pass import weights_without_gradient

SMALL = {
    "trainer.accelerator": "cpu",
    "trainer.limit_train_batches": 2,
    "trainer.limit_val_batches": 1,
    "trainer.enable_progress_bar": False,
}
VIT = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 10, "embed_dim": 24, "depth": 1}
BLOCK = [f"blocks.0.{layer}.weight" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
NAMES = ["patch_embed.proj.weight", *BLOCK, "head.weight"]


@pytest.mark.parametrize(
    ("key", "value", "densities"),
    [
        ("keep_dense", ["patch_embed.*"], dict.fromkeys(NAMES[1:], 0.5)),
        ("also_mask", ["pos_embed"], dict.fromkeys(["pos_embed", *NAMES], 0.5)),
        ("densities", {"*": 0.3, "head": 1.0}, dict.fromkeys(NAMES, 0.3) | {"head.weight": 1.0}),
    ],
)
def test_a_choice_is_the_same_in_fit_resume_test_and_export(
    key: str, value: Any, densities: dict[str, float], tmp_path: Path, mistake: Callable[..., str]
) -> None:
    config, network_key = tmp_path / "run.yaml", {"class_path": "timm.models.vit_tiny_patch16_224", "dict_kwargs": VIT}
    values = {
        "config": str(QUICKSTART),
        "model.network": network_key,
        "trainer.default_root_dir": str(tmp_path),
    } | SMALL
    config.write_text(yaml.safe_dump({**values, f"model.{key}": value}))
    main(["fit", "-c", str(config), "--trainer.max_epochs=1"])
    first = str(tmp_path / "run/version_0/checkpoints/last.ckpt")
    main(["fit", "-c", str(config), "--trainer.max_epochs=2", f"--ckpt_path={first}"])
    last, subnet = str(tmp_path / "run/version_1/checkpoints/last.ckpt"), str(tmp_path / "run.subnet")
    content = checkpoint.read(last)
    assert {name: each for name, each in content["subnet"].items() if name in Choice._fields} == {key: value}
    main(["test", f"--ckpt_path={last}"])
    network = SavedRun(last).module().network
    assert ls.density(network, per_weight=True) == pytest.approx(densities, abs=3e-3)
    subnets(["export", last, subnet])
    plain = ls.unmask_(copy.deepcopy(network))
    assert_equal(ls.load_subnet(subnet).state_dict(), plain.state_dict())
    for path in (last, subnet):
        assert_equal(read_masks(path, plain), ls.masks(network))
    config.write_text(yaml.safe_dump(values))
    error = mistake(["fit", "-c", str(config), "--trainer.max_epochs=3", f"--ckpt_path={last}"])
    assert f"has {key} = {value} and this run has {key} = None: run it with the config.yaml" in error


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert {name: torch.equal(value, expected[name]) for name, value in found.items()} == dict.fromkeys(expected, True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("keep_dense", "features.0"),
        ("also_mask", [1]),
        ("densities", {"features.0": "all"}),
        ("densities", {"features.0": 0.0}),
        ("densities", [0.3]),
    ],
)
def test_a_damaged_choice_in_a_checkpoint_is_named(key: str, value: Any, finished_run: Path, tmp_path: Path) -> None:
    content = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)
    content["subnet"][key] = value
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ls.UserError, match=rf"damaged or of another version: 'subnet\.{key}"):
        checkpoint.read(tmp_path / "last.ckpt")


def trained(module: SubnetModule) -> dict[str, Tensor]:
    quiet_trainer(max_steps=1).fit(module, datamodule=Digits())
    return module.state_dict()


class Headed(nn.Module):
    """A network with a head, and perhaps a second one that only its own loss would train."""

    def __init__(self, auxiliary: bool = False) -> None:
        super().__init__()
        self.body, self.norm = nn.Linear(64, 16), nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 10)
        self.auxiliary = nn.Linear(16, 10) if auxiliary else None

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.body(images.flatten(1))).relu())
        return logits


def headed(method: ls.Method | None = None, *, auxiliary: bool = False, **options: Any) -> SubnetModule:
    return SubnetModule(Headed(auxiliary), method or ls.EdgePopup(0.5), weights="kaiming_normal", **options)


def test_a_layer_that_is_added_after_masking_is_an_error_before_training() -> None:
    for keep_dense in ([], ["body"]):
        module = headed(keep_dense=keep_dense)
        module.network.head = nn.Linear(16, 10)
        with pytest.raises(ls.UserError, match=r"head\.weight of Headed would be dense.*keep_dense=\['head\.weight'\]"):
            trained(module)
    module = headed(auxiliary=True, keep_dense=["head", "auxiliary"])
    module.network.head = nn.Linear(16, 10)
    module.network.register_module("auxiliary", None)
    trained(module)


@pytest.mark.parametrize("method", [ls.Magnitude(0.5), ls.SNIP(0.5), ls.SynFlow(0.5), ls.PHEW(0.5)], ids=repr)
def test_a_run_prunes_only_the_weights_that_it_masks(method: ls.Method) -> None:
    module = headed(method, keep_dense=["head"])
    trained(module)
    assert ls.density(module.network, per_weight=True) == {"body.weight": 0.5}


@pytest.mark.parametrize("method", [ls.EdgePopup(0.5), ls.Supermask(0.5), ls.Magnitude(0.5)])
def test_weights_that_training_never_reads_are_named(method: ls.Method, capsys: pytest.CaptureFixture[str]) -> None:
    trained(headed(method))
    assert "gradient" not in capsys.readouterr().err
    trained(headed(method, auxiliary=True))
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "gradient" in line]
    assert said == "no gradient reaches auxiliary.weight, because training never reads them"


def test_the_search_for_weights_that_are_never_read_changes_nothing() -> None:
    module = headed(auxiliary=True)
    module.network.norm = nn.Sequential(module.network.norm, nn.Dropout())  # type: ignore[arg-type]
    state, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    modes = [each.training for each in module.eval().modules()]
    assert weights_without_gradient(module, torch.ones(1, 1, 8, 8)) == ["auxiliary.weight"]
    assert_equal(module.state_dict(), state)
    assert torch.equal(torch.get_rng_state(), random)
    assert [each.training for each in module.modules()] == modes
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_tied_weight_that_stays_dense_can_be_trained() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 10))
    network[3].weight = network[1].weight
    trained(SubnetModule(network, ls.EdgePopup(0.5), keep_dense=["1"]))


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [((ls.EdgePopup(0.5), nn.Linear(4, 2)), "a Linear"), ((nn.Linear(4, 2), ls.EdgePopup), "EdgePopup'>")],
)
def test_a_module_names_the_argument_that_is_not_a_method(arguments: tuple[Any, Any], shown: str) -> None:
    with pytest.raises(ls.UserError, match=f"{shown} is not a method: pass the network first"):
        SubnetModule(*arguments)
