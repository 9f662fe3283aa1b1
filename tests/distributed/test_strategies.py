"""Several devices or nodes train with this package's DDP options by default."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, Strategy
from rank_processes import on_ranks, trainer
from repository import ROOT
from small_runs import conv_module, quiet_trainer
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import lightning_subnets as ls
from lightning_subnets.commands import cli
from lightning_subnets.datamodules import Digits
from lightning_subnets.training import preflight
from lightning_subnets.training.module import SubnetModule

pytestmark = pytest.mark.thorough

QUICKSTART = ROOT / "configs" / "quickstart.yaml"


class Watch(Callback):
    """Looks at what trains the network."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = trainer.strategy.model
        assert isinstance(model, DistributedDataParallel)
        assert not model.broadcast_buffers
        assert model.gradient_as_bucket_view
        assert not model.find_unused_parameters
        print("by DDP")


def run_by_command(nodes: int) -> str:
    devices = 2 // nodes
    if nodes > 1:
        os.environ |= {"NODE_RANK": os.environ["LOCAL_RANK"], "LOCAL_RANK": "0"}
    said = io.StringIO()
    arguments = ["fit", "-c", str(QUICKSTART), "--trainer.accelerator=cpu", "--trainer.fast_dev_run=2"]
    arguments += [f"--trainer.devices={devices}", f"--trainer.num_nodes={nodes}"]
    arguments.append("--trainer.callbacks+=test_strategies.Watch")
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        cli.main(arguments)
    return said.getvalue()


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_command_uses_these_options_on_one_node_and_on_two(nodes: int) -> None:
    first, second = on_ranks(run_by_command, nodes)
    assert "2 processes: " in first
    assert "by DDP" in first
    assert second == "by DDP\n"


def fit_by_own_strategy(name: str | None) -> None:
    strategy = name or DDPStrategy(find_unused_parameters=False, static_graph=True)
    fit = quiet_trainer(devices=2, max_steps=2, strategy=strategy, callbacks=[Watch()])
    fit.fit(conv_module(), datamodule=Digits())


@pytest.mark.parametrize("name", [None, "ddp", "ddp_find_unused_parameters_false"])
def test_a_strategy_of_the_user_has_these_options_too(name: str | None) -> None:
    on_ranks(fit_by_own_strategy, name)


class WithAnAuxiliaryClassifier(nn.Sequential):
    """Has parameters without a gradient, as GoogLeNet has."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.auxiliary = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self[1](self[0](images))
        return logits


def fit_in_part(strategy: str) -> str:
    module = SubnetModule(WithAnAuxiliaryClassifier(), ls.EdgePopup(0.5))
    try:
        trainer(max_steps=3, strategy=strategy).fit(module, datamodule=Digits())
    except RuntimeError as error:
        return str(error)
    return "trained"


def test_parameters_without_a_gradient_need_a_strategy_that_the_error_names() -> None:
    assert all("ddp_find_unused_parameters_true" in error for error in on_ranks(fit_in_part, "auto"))
    assert on_ranks(fit_in_part, "ddp_find_unused_parameters_true") == ["trained", "trained"]


@pytest.mark.parametrize("strategy", [FSDPStrategy, DeepSpeedStrategy])
def test_strategies_that_share_out_a_weight_are_refused(
    strategy: type[Strategy], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = quiet_trainer()
    monkeypatch.setattr(fit._accelerator_connector, "strategy", object.__new__(strategy))  # they need GPUs
    with pytest.raises(ls.UserError, match=f"{strategy.__name__} gives each process a part of a weight.*strategy=ddp"):
        preflight.check(conv_module(), fit, None)


@pytest.fixture
def _one_process(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", f"file://{tmp_path}/processes", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def forward_sharded(network: nn.Module, part: str) -> None:
    fully_shard(network.get_submodule(part), mesh=init_device_mesh("cpu", (1,)))
    network(torch.ones(1, 4))


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("part", ["", "0"])
def test_fully_shard_in_an_own_loop_is_refused(part: str) -> None:
    network = ls.mask_(nn.Sequential(nn.Linear(4, 4)), ls.EdgePopup(0.5))
    with pytest.raises(ls.UserError, match=r"fully_shard gives each process a part of a weight.*DistributedData"):
        forward_sharded(network, part)
