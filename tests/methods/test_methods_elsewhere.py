"""On another device than the CPU, each method computes there, its steps do not wait for it, and it finds the same."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from another_device import DEVICE, another_device, differences, state_of
from table import EVERY, Row, batches
from test_table import each_of
from torch import Tensor, nn

from lightning_subnets import PHEW, GemMiner, load_subnet, mask_, masked_weights, masks, save_subnet
from lightning_subnets.networks import Conv4


def batches_on(device: torch.device | str) -> list[tuple[Tensor, Tensor]]:
    return [(images[:, :, ::2, ::2].to(device), labels.to(device)) for images, labels in batches()]


def train_(network: nn.Module, data: list[tuple[Tensor, Tensor]], waits: list[str]) -> None:
    method = next((each.method for each in masked_weights(network).values()), None)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    torch.manual_seed(0)
    for step, (images, labels) in enumerate(data, 1):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(network(images), labels))
        optimizer.step()
        if method is not None:
            method.after_step_(network, step, 10)
        if step == 1:
            waits.clear()  # the first step may copy to the device what stays there


# PHEW follows the units of a network by torch.export, which does not take such tensors.
@each_of([row for row in EVERY if row.kind is not PHEW])
def test_a_method_chooses_and_trains_the_same(row: Row, tmp_path: Path) -> None:
    def network_on(device: torch.device | str) -> nn.Module:
        network = Conv4(width_multiplier=0.25).to(device)
        return mask_(network, row(), weights="kaiming_normal", batches=batches_on(device))

    expected = network_on("cpu")
    begin = state_of(copy.deepcopy(expected))
    train_(expected, batches_on("cpu"), [])
    named = {"class_path": "lightning_subnets.networks.Conv4", "init_args": {"width_multiplier": 0.25}}
    save_subnet(expected, tmp_path / "cpu.subnet", network=named)
    with another_device() as waits:
        network = network_on(DEVICE)
        assert differences(state_of(network), begin) == []
        data = batches_on(DEVICE)
        train_(network, data, waits)
        if row.kind is not GemMiner:  # which counts at the end of a round, so in each step of this test
            assert waits == []
        assert {each.device for each in [*network.state_dict().values(), *masks(network).values()]} == {DEVICE}
        assert differences(state_of(network), state_of(expected)) == []
        save_subnet(network, tmp_path / "elsewhere.subnet", network=named)
        assert (tmp_path / "elsewhere.subnet").read_bytes() == (tmp_path / "cpu.subnet").read_bytes()
        images, _ = data[0]
        copy.deepcopy(network)(images)
        load_subnet(tmp_path / "cpu.subnet", masked=True).to(DEVICE)(images)
        network.load_state_dict(expected.state_dict())
        network.cpu()(images.cpu())
