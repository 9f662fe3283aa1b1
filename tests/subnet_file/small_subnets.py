"""What these tests share: small masked networks, and files that are written anew with something in them changed."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

import lightning_subnets as ls
from lightning_subnets.masking import masked_layers
from lightning_subnets.masking.method import Method
from lightning_subnets.networks import Conv2, ResNet20
from lightning_subnets.subnet_file import container, load_subnet, save_subnet
from lightning_subnets.subnet_file.container import Container

SMALL: dict[str, Any] = {"width_multiplier": 0.1, "image_size": 8, "in_channels": 1}
NAMED: dict[str, Any] = {"class_path": "lightning_subnets.networks.Conv2", "init_args": SMALL}
WITH_NORMS: dict[str, Any] = {
    "class_path": "lightning_subnets.networks.ResNet20",
    "init_args": {"width_multiplier": 0.125},
}


def small() -> nn.Module:
    """For images (1, 8, 8): two convolutions and three linear layers with biases, 3,653 weights."""
    return Conv2(**SMALL)


def with_norms() -> nn.Module:
    """For images (3, any, any): 20 layers, 19 batch norms, 4,324 weights."""
    return ResNet20(width_multiplier=0.125)


def batches(shape: tuple[int, ...] = (1, 8, 8)) -> list[tuple[Tensor, Tensor]]:
    images = torch.randn(2, 20, *shape, generator=torch.Generator().manual_seed(0))
    return [(each, torch.arange(20) % 10) for each in images]


def train_(network: nn.Module, steps: int = 2, shape: tuple[int, ...] = (1, 8, 8)) -> float:
    """A few steps of what its method trains; the last loss."""
    method, loss = masked_layers(network)[0][1].method, torch.tensor(0.0)
    optimizer = torch.optim.SGD([each for each in network.parameters() if each.requires_grad], lr=0.1)
    network.train()
    for step in range(1, steps + 1):
        images, labels = batches(shape)[0]
        loss = functional.cross_entropy(network(images.to(next(network.parameters()).dtype)), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        method.after_step_(network, step, images=128)
    return float(loss.detach())


def masked(method: Method | None = None, *, weights: str | None = "kaiming_normal", steps: int = 2) -> nn.Module:
    """``small``, masked and trained for some steps."""
    network = ls.mask_(small(), method or ls.EdgePopup(density=0.3), weights=weights, seed=3, batches=batches())
    train_(network, steps)
    return network


def masked_with_norms(method: Method | None = None, *, weights: str | None = "signed_constant") -> nn.Module:
    images = batches((3, 8, 8))
    network = ls.mask_(with_norms(), method or ls.EdgePopup(density=0.3), weights=weights, seed=3, batches=images)
    train_(network, 1, (3, 8, 8))
    return network


def saved(path: Path, net: nn.Module | None = None, **options: Any) -> Path:
    """A file of a small network; of ``masked()`` where none is given."""
    save_subnet(net or masked(), path, **({"network": NAMED} | options))
    return path


def unmasked(network: nn.Module) -> nn.Module:
    """What ``unmask_`` makes of it, as a copy."""
    return ls.unmask_(copy.deepcopy(network)).eval()


def differing(one: nn.Module, other: nn.Module) -> list[str]:
    """The names in two networks' state dicts that are not in both, or whose tensors are not the same to the bit."""
    here, there = one.state_dict(), other.state_dict()
    return [
        key
        for key in dict.fromkeys((*here, *there))
        if key not in here
        or key not in there
        or here[key].dtype != there[key].dtype
        or not torch.equal(here[key], there[key])
    ]


def reloaded(net: nn.Module, path: Path, *, masked: bool = False, **options: Any) -> nn.Module:
    save_subnet(net, path, **options)
    return load_subnet(path, masked=masked)


def content(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header as JSON has it, and the tensors."""
    return dataclasses.asdict(Container(path).header), load_file(path)


class Raw:
    """A header that is written as it is, whatever it says."""

    def __init__(self, text: Callable[[str], str]) -> None:
        self.text = text

    def to_json(self, sha256: str) -> str:
        return self.text(sha256)


def write_anew(path: Path, header: dict[str, Any], tensors: dict[str, Tensor], text: str | None = None) -> Path:
    """A file whose digest is right, with this header, which anybody can write.

    Args:
        text: of the header, with SHA256 for the digest, where it cannot be made of a dictionary.
    """

    def json_of(sha256: str) -> str:
        if text is not None:
            return text.replace("SHA256", sha256)
        first = json.dumps({"version": 1, "sha256": sha256}, separators=(",", ":"))[:-1]
        rest = json.dumps(header, separators=(",", ":"))[1:]  # which may say both once more
        return f"{first},{rest}" if header else first + rest

    container.write(path, Raw(json_of), tensors)  # type: ignore[arg-type]
    return path


def digest_in(whole: bytes) -> bytes:
    place = whole.index(b'\\"sha256\\":\\"') + len('\\"sha256\\":\\"')
    return whole[place : place + 64]


def resealed(whole: bytes, old: str, new: str) -> bytes:
    """The bytes of a file with the JSON of safetensors changed, and the digest made anew."""
    length = int.from_bytes(whole[:8], "little")
    beginning = whole[8 : 8 + length].replace(digest_in(whole), b"0" * 64).replace(old.encode(), new.encode(), 1)
    beginning += b" " * (-len(beginning) % 8)
    whole = len(beginning).to_bytes(8, "little") + beginning + whole[8 + length :]
    return whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1)


@contextmanager
def changed(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """A file's header and tensors, to change; it is then written anew, with a digest that is right."""
    header, tensors = content(path)
    yield header, tensors
    write_anew(path, header, tensors)
