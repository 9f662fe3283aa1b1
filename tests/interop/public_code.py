"""Networks that store and evaluate a subnetwork as edge-popup's public code does, written from its description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class ScoredConv(nn.Conv2d):
    """A convolution without bias that uses the fraction ``density`` of its weights with the largest |scores|."""

    density: float

    def __init__(self, inputs: int, outputs: int, kernel: Any, stride: Any = 1, padding: Any = 0) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, bias=False)
        self.scores = nn.Parameter(torch.randn_like(self.weight))

    def forward(self, input: Tensor) -> Tensor:
        order = self.scores.detach().abs().flatten().argsort()
        used = torch.ones(order.numel())
        used[order[: int((1 - self.density) * order.numel())]] = 0
        weight = self.weight * used.view_as(self.weight)
        return nn.functional.conv2d(input, weight, None, self.stride, self.padding)


class ScoredClassifier(ScoredConv):
    """A classifier written as a 1x1 convolution over images of one pixel."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input[:, :, None, None]).flatten(1)


def publicly_(network: nn.Module, density: float, *, affine: bool = False) -> nn.Module:
    """Replace the layers of a plain network by the classes above, in place, with norms that have seen images."""
    for name, module in list(network.named_modules()):
        parent, _, key = name.rpartition(".")
        new: nn.Module
        if isinstance(module, nn.Conv2d):
            sizes: tuple[Any, ...] = (module.kernel_size, module.stride, module.padding)
            new = ScoredConv(module.in_channels, module.out_channels, *sizes)
        elif isinstance(module, nn.Linear):
            new = ScoredClassifier(module.in_features, module.out_features, 1)
        elif isinstance(module, nn.BatchNorm2d):
            new = nn.BatchNorm2d(module.num_features, affine=affine)
            assert new.running_mean is not None
            assert new.running_var is not None
            new.running_mean.normal_(0, 0.1)
            new.running_var.uniform_(0.5, 2)
            for parameter in new.parameters():
                nn.init.uniform_(parameter, 0.5, 2)
        else:
            continue
        if isinstance(new, ScoredConv):
            new.density = density
            # Signed constants, like the best networks of the public code.
            new.weight.data = new.weight.data.sign() * (2 / new.weight[0].numel()) ** 0.5
        setattr(network.get_submodule(parent), key, new)
    return network.eval()


def save_checkpoint(network: nn.Module, path: Path, *, zipped: bool = False) -> None:
    """Save a checkpoint like a run on several GPUs in 2019: with more than the state dict, and not as a zip file."""
    content = {
        "epoch": 100,
        "arch": "ResNet18",
        "state_dict": nn.DataParallel(network).state_dict(),
        "best_acc1": 68.6,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "curr_acc1": "Not evaluated",
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
