"""Training on a GPU: a step never waits for the device, and its masks are those of a CPU."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from lightning.pytorch.callbacks import EMAWeightAveraging, LambdaCallback, ModelCheckpoint
from small_runs import conv_module, quiet_trainer, two_tasks
from torch import Tensor, nn, optim

from lightning_subnets import EdgePopup, mask_, masked_weights
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking.cached_weight import compile_, refresh_
from lightning_subnets.masking.masked_class import effective_weight
from lightning_subnets.masking.selection import top_k

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def masked_network() -> nn.Module:
    network: nn.Module = mask_(torchvision.models.resnet18(num_classes=10), EdgePopup(0.3)).cuda()
    return network.to(memory_format=torch.channels_last)


def step_(network: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    images = torch.ones(8, 3, 64, 64, device="cuda").cumsum(3).to(memory_format=torch.channels_last)
    labels = torch.arange(8, device="cuda")
    optimizer.zero_grad()
    with torch.autocast("cuda", torch.bfloat16):
        refresh_(masked_weights(network).values())
        loss = nn.functional.cross_entropy(network(images), labels)
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.detach()


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    scores = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.optim.SGD(scores, lr=0.1, momentum=0.9, fused=True)


def test_a_training_step_never_waits_for_the_gpu_and_its_masks_are_those_of_a_cpu() -> None:
    network = masked_network()
    optimizer = sgd(network)
    for _ in range(2):
        step_(network, optimizer)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step_(network, optimizer)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, layer in masked_weights(network).items():
        assert layer.scores is not None
        assert layer.num_kept is not None
        mask = top_k(layer.scores.cpu(), layer.num_kept, absolute=True)
        assert torch.equal(layer.mask().cpu(), mask), name
        with torch.autocast("cuda", torch.bfloat16):
            weight = effective_weight(layer)
        assert torch.equal(weight.cpu(), layer.weight.cpu() * mask), name  # autocast casts it where it is used
        assert weight.stride() == layer.weight.stride()


def test_a_compiled_network_has_the_losses_of_a_plain_one() -> None:
    torch.compiler.reset()
    network = masked_network()
    compiled = copy.deepcopy(network)
    compile_(compiled, list(masked_weights(compiled).values()))
    optimizers = [sgd(network), sgd(compiled)]
    for _ in range(3):
        losses = [
            step_(each, optimizer).item() for each, optimizer in zip((network, compiled), optimizers, strict=True)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which deterministic matrix products need

    def fit(folder: str, epochs: int, resume: Path | None = None) -> dict[str, Tensor]:
        module = conv_module(schedule="constant", optimizer=partial(optim.SGD, lr=0.1, momentum=0.9))
        options = {"accelerator": "gpu", "devices": 1, "deterministic": True, "max_epochs": epochs}
        checkpoints = ModelCheckpoint(tmp_path / folder, filename="last")
        quiet_trainer(**options, callbacks=[checkpoints]).fit(module, datamodule=Digits(), ckpt_path=resume)
        return module.network.state_dict()

    whole = fit("whole", epochs=2)
    fit("stopped", epochs=1)
    resumed = fit("resumed", epochs=2, resume=tmp_path / "stopped" / "last.ckpt")
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


def test_an_average_is_where_the_network_is_trained() -> None:
    average, devices = EMAWeightAveraging(decay=0.9), set[str]()

    def note(*_: object) -> None:
        assert average._average_model is not None
        devices.update(each.device.type for each in average._average_model.module.parameters())

    watch = LambdaCallback(on_train_batch_end=note)
    trainer = quiet_trainer(accelerator="gpu", devices=1, callbacks=[average, watch])
    trainer.fit(conv_module(), datamodule=Digits())
    assert devices == {"cuda"}


def test_a_task_is_inferred_where_the_network_is() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    net = mask_(layers, EdgePopup(0.5), weights="kaiming_normal")
    tasks, images = two_tasks(net), torch.randn(8, 3, 8, 8)
    there = tasks.slopes(images)
    net.cuda()
    assert tasks.slopes(images.cuda()) == pytest.approx(there, rel=1e-2, abs=1e-4)
