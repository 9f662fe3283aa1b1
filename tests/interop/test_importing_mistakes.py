"""A file that cannot be imported is one clear error, and the network stays unchanged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_network import Small, masks, scores, state
from torch import nn

import lightning_subnets as ls
from lightning_subnets.interop.importing import import_subnet_

NAN = torch.full((4, 3, 3, 3), torch.nan)


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (state(), {}, r"neither scores nor masks \(conv1.scores or conv1.mask\): its network is dense"),
        (state() | scores(), {}, "do not say how many weights are kept: set density"),
        (state() | scores(), {"density": 1.5}, r"density = 1.5 is outside \(0, 1\]"),
        (state() | scores(), {"density": 0.3, "weights": "kaiming_normal"}, "leave out weights = 'kaiming_normal'"),
        (scores(), {"density": 0.3}, "no weights: name a distribution .* weights = 'signed_constant'"),
        (masks(), {"weights": "signed_constnt"}, "Did you mean 'signed_constant'"),
        (masks() | {"fc": torch.ones(2, 3)}, {}, r"fc.mask has shape \(2, 3\) there and \(2, 4\) here"),
        (masks(), {"weights": "signed_constant", "density": 0.3}, "leave out density = 0.3"),
        (masks() | {"conv1": torch.full((4, 3, 3, 3), 0.5)}, {"weights": "signed_constant"}, "conv1 has numbers other"),
        (masks() | scores(), {}, r"scores \(of conv1\) and masks \(of conv1\): remove one kind"),
        (masks() | {"fc.mask": masks()["fc"]}, {}, "fc.mask is in the file under another name too"),
        (masks() | {"conv2": torch.ones(4)}, {}, r"network: conv2 has shape \(4,\) there and none here"),
        (masks() | {"conv1.weight": torch.ones(4, 3, 3, 3)}, {}, "the file lacks fc.weight"),
        (masks() | {"fc.bias": torch.ones(2)}, {}, "lacks bn1.running_mean: save the whole state dict"),
        (state() | scores() | {"conv1.scores": NAN}, {"density": 0.3}, "scores of conv1 contain NaN"),
        (state() | scores() | {"conv1.weight": NAN}, {"density": 0.3}, "conv1.weight contains NaN"),
        (state() | {"conv1.scores": NAN}, {"density": 0.3}, "no scores of fc: if that layer was dense"),
        (state() | scores() | {"conv1.scores": NAN.double()}, {"density": 0.3}, "float64 and would be rounded"),
        (state() | masks() | {"fc.bias": torch.ones(2).int()}, {}, "fc.bias is torch.int32 in the file"),
        (state() | {"fc.bias": None}, {}, "holds 'fc.bias', which is not an ordinary tensor"),
        (state() | {"fc.bias": torch.ones(2).to_sparse()}, {}, "holds more than tensors and plain values"),
        (masks() | {"conv1": torch._neg_view(torch.ones(4, 3, 3, 3))}, {}, "holds 'conv1', which is not an ordinary"),
        (state() | {7: torch.ones(2)}, {}, "holds 7, which is not an ordinary tensor"),
        (state() | {"\x1b[2J": torch.ones(2)}, {}, r"holds '\\x1b\[2J', which is not an ordinary tensor"),
        (torch.ones(3), {}, "holds no state dict"),
        ({"state_dict": {}, "epoch": 3}, {}, "holds no state dict"),
        ({"subnet": {}, "state_dict": state()}, {}, "of lightning-subnets already: use subnets export"),
        ({"epoch": 3}, {}, "holds 'epoch', which is not an ordinary tensor"),
        (Small(), {}, r"than tensors and plain values \(small_network.Small\): .*weights_only=False"),
    ],
)  # fmt: skip
def test_the_error_names_the_mistake_and_the_network_is_unchanged(
    content: Any, arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "file.pt")
    network = Small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ls.UserError) as error:
        import_subnet_(tmp_path / "file.pt", network, **arguments)
    assert re.search(message, str(error.value)), error.value
    assert type(network.conv1) is nn.Conv2d
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_path_without_a_file_of_tensors_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    with pytest.raises(ls.UserError, match=r"file\.pt cannot be read \(No such file or directory\)"):
        import_subnet_(path, Small())
    with pytest.raises(ls.UserError, match=r"cannot be read \(Is a directory\)"):
        import_subnet_(tmp_path, Small())
    for content in (b"", b"\x80\x02", b"12345678{", b"PK\x03\x04" + bytes(200)):
        path.write_bytes(content)
        with pytest.raises(ls.UserError, match="truncated, damaged, or neither a torch file nor a safetensors file"):
            import_subnet_(path, Small())


def test_a_masked_network_is_refused(tmp_path: Path) -> None:
    torch.save(masks(), tmp_path / "masks.pt")
    network = ls.mask_(Small(), ls.EdgePopup(0.5))
    with pytest.raises(ls.UserError, match="cannot be masked"):
        import_subnet_(tmp_path / "masks.pt", network, weights="signed_constant")
