"""The table of all methods; a new method adds a row."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torchvision
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_subnets import (
    DNW,
    PHEW,
    SNIP,
    Biprop,
    Dense,
    EdgePopup,
    GemMiner,
    GraSP,
    IteRand,
    LinearProbe,
    Magnitude,
    Method,
    Multicoated,
    PartiallyFrozen,
    Random,
    SignedSupermask,
    Supermask,
    SynFlow,
    SynFlowL2,
    mask_,
)
from lightning_subnets.networks import Conv4, ResNet20


class Row(NamedTuple):
    kind: type[Method]
    arguments: dict[str, Any]
    by_layer: bool = True  # whether each layer has the density, or only all layers together

    def __call__(self, **others: Any) -> Method:
        return self.kind(**(self.arguments | others))

    def __str__(self) -> str:
        return " ".join([self.kind.__name__, *(f"{key}={value}" for key, value in self.arguments.items())])


SCORES_TRAINED = [
    Row(EdgePopup, {"density": 0.3}),
    Row(EdgePopup, {"density": 0.5, "absolute": False}),
    Row(EdgePopup, {"density": 0.8, "allocation": "global"}, by_layer=False),
    Row(EdgePopup, {"density": 0.3, "allocation": "erk"}, by_layer=False),
    Row(EdgePopup, {"density": 0.3, "allocation": "equal"}, by_layer=False),
    Row(EdgePopup, {"density": 0.3, "allocation": "smart_ratio"}, by_layer=False),
    Row(Biprop, {"density": 0.3}),
    Row(PartiallyFrozen, {"density": 0.3, "frozen": 0.7}),
    Row(Multicoated, {"density": 0.3}),
    Row(Multicoated, {"density": 0.3, "signed": True, "frozen": 0.7}),
    Row(IteRand, {"density": 0.3, "every": 1}),
]
CHOSEN = [
    Row(SNIP, {"density": 0.3}, by_layer=False),
    Row(GraSP, {"density": 0.3}, by_layer=False),
    Row(SynFlow, {"density": 0.3, "rounds": 5}, by_layer=False),
    Row(SynFlowL2, {"density": 0.3, "rounds": 5}, by_layer=False),
    Row(PHEW, {"density": 0.3}, by_layer=False),
    Row(Random, {"density": 0.3}),
    Row(Random, {"density": 0.3, "allocation": "erk"}, by_layer=False),
    Row(Random, {"density": 0.3, "allocation": "smart_ratio"}, by_layer=False),
    Row(Magnitude, {"density": 0.3}, by_layer=False),
    Row(Magnitude, {"density": 0.3, "allocation": "uniform"}),
]
OF_A_DENSITY = [*SCORES_TRAINED, Row(DNW, {"density": 0.3}), *CHOSEN]
EXACT = [*OF_A_DENSITY, Row(Dense, {}), Row(LinearProbe, {})]
EVERY = [
    *EXACT,
    Row(SignedSupermask, {"density": 0.3}),
    Row(GemMiner, {"density": 0.3, "every": 1}),
    Row(Supermask, {"density": 0.3}),
]


def shuffle_net() -> nn.Module:
    """Return a small network with grouped convolutions, strides and batch norm."""
    network: nn.Module = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    return network


def batches() -> list[tuple[Tensor, Tensor]]:
    """Return two batches of noise, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 10, 3, 64, 64, generator=generator)
    return [(each, torch.arange(10)) for each in images]


def masked(method: Method, **options: Any) -> nn.Module:
    """Return a small network masked by the method."""
    defaults = {"weights": "kaiming_normal", "batches": batches()}
    return mask_(shuffle_net(), method, **(defaults | options))


def masked_conv(method: Method) -> nn.Module:
    """Return a smaller masked network, for images of 32 pixels."""
    images = [(images[:, :, ::2, ::2], labels) for images, labels in batches()]
    return mask_(Conv4(width_multiplier=0.25), method, weights="kaiming_normal", batches=images)


def masked_norms(method: Method) -> nn.Module:
    """Return a masked network in float64 with norms and shortcuts, for images of any size."""
    images = [(images[:, :, ::4, ::4].double(), labels) for images, labels in batches()]
    return mask_(ResNet20(width_multiplier=0.125).double(), method, weights="kaiming_normal", batches=images)


def step_(network: nn.Module, lr: float = 0.1, size: int = 64) -> None:
    images, labels = torch.randn(4, 3, size, size), torch.randint(10, (4,))
    images = images.to(next(network.parameters()).dtype)
    optimizer = torch.optim.SGD([parameter for parameter in network.parameters() if parameter.requires_grad], lr=lr)
    torch.autograd.backward(nn.functional.cross_entropy(network(images), labels))
    optimizer.step()


def quiet_trainer(**options: Any) -> Trainer:
    """Return a Trainer on the CPU that writes nothing and does not validate."""
    shown = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", limit_val_batches=0, **(shown | options))
