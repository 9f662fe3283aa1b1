"""The examples run, and the one that explains the idea does what the package does."""

from __future__ import annotations

import runpy
import subprocess
import sys

import torch
from repository import ROOT
from torch import nn

from lightning_subnets import EdgePopup, mask_, masked_layers

EXAMPLES = ROOT / "examples"
FROM_SCRATCH = EXAMPLES / "edge_popup_from_scratch.py"


def test_edge_popup_from_scratch_and_the_package_give_the_same_losses_and_masks_to_the_bit() -> None:
    example = runpy.run_path(str(FROM_SCRATCH))
    layer, densities = example["SubnetLinear"], (0.5, 0.5)
    plain = nn.Sequential(layer(64, 40, densities[0]), nn.ReLU(), layer(40, 10, densities[1]))
    masked = nn.Sequential(nn.Linear(64, 40, bias=False), nn.ReLU(), nn.Linear(40, 10, bias=False))
    mask_(masked, EdgePopup(density=0.5))
    masked.load_state_dict(plain.state_dict())  # the same weights and scores, under the same names
    images, labels = torch.randn(200, 64), torch.randint(10, (200,))
    losses = [example["train"](network, images, labels, epochs=3) for network in (plain, masked)]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    for name, package in masked_layers(masked):
        mask = example["TopK"].apply(plain.get_parameter(f"{name}.scores").abs(), 0.5)
        assert torch.equal(mask.bool(), package.mask())


def test_edge_popup_from_scratch_is_short_and_finds_a_subnetwork() -> None:
    assert len(FROM_SCRATCH.read_text().splitlines()) <= 60
    ended = subprocess.run([sys.executable, str(FROM_SCRATCH)], capture_output=True, text=True, check=True)
    accuracy = float(ended.stdout.split("classifies ")[1].split("%")[0])
    assert accuracy > 95
