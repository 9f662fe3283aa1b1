"""Small masked networks, and files that are rewritten after a change."""

from __future__ import annotations

import copy
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
from lightning_subnets.masking import is_masked
from lightning_subnets.masking.method import Method
from lightning_subnets.networks import Conv2, ResNet20
from lightning_subnets.subnet_file import container, load_subnet, masks_in, save_subnet
from lightning_subnets.subnet_file.container import Container
from lightning_subnets.subnet_file.header import VERSION

SMALL: dict[str, Any] = {"width_multiplier": 0.1, "image_size": 8, "in_channels": 1}
NAMED: dict[str, Any] = {"class_path": "lightning_subnets.networks.Conv2", "init_args": SMALL}
WITH_NORMS: dict[str, Any] = {
    "class_path": "lightning_subnets.networks.ResNet20",
    "init_args": {"width_multiplier": 0.125},
}


def small() -> nn.Module:
    """Return a network for images (1, 8, 8): two convolutions and three linear layers with biases, 3,653 weights."""
    return Conv2(**SMALL)


def with_norms() -> nn.Module:
    """Return a network for images (3, any, any): 20 layers and 19 batch norms, 4,324 weights."""
    return ResNet20(width_multiplier=0.125)


class Transformer(nn.Module):
    """A classifier of images (1, 8, 8): patches, a class token, a position table, attention, layer scale and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, kernel_size=4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.0, batch_first=True)
        self.layer_scale = nn.Parameter(torch.full((8,), 1e-6))
        self.kinds = nn.Embedding(3, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).mT + self.kinds.weight[0]
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.pos_embed
        logits: Tensor = self.head(tokens[:, 0] + self.layer_scale * self.encoder(tokens)[:, 0])
        return logits


def batches(shape: tuple[int, ...] = (1, 8, 8)) -> list[tuple[Tensor, Tensor]]:
    images = torch.randn(2, 20, *shape, generator=torch.Generator().manual_seed(0))
    return [(each, torch.arange(20) % 10) for each in images]


def train_(network: nn.Module, steps: int = 2, shape: tuple[int, ...] = (1, 8, 8)) -> float:
    """Train for some steps, and return the last loss."""
    method, loss = next(iter(ls.masked_weights(network).values())).method, torch.tensor(0.0)
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


def masked(method: Method | None = None, *, weights: str | None = "kaiming_normal") -> nn.Module:
    network = ls.mask_(small(), method or ls.EdgePopup(density=0.3), weights=weights, seed=3, batches=batches())
    train_(network)
    return network


def masked_with_norms(method: Method | None = None, *, weights: str | None = "signed_constant") -> nn.Module:
    images = batches((3, 8, 8))
    network = ls.mask_(with_norms(), method or ls.EdgePopup(density=0.3), weights=weights, seed=3, batches=images)
    train_(network, 1, (3, 8, 8))
    return network


def saved(path: Path, net: nn.Module | None = None, **options: Any) -> Path:
    """Save a network, by default ``masked()``, and return the path."""
    save_subnet(net or masked(), path, **({"network": NAMED} | options))
    return path


def unmasked(network: nn.Module) -> nn.Module:
    return ls.unmask_(copy.deepcopy(network)).eval()


def differing(one: nn.Module, other: nn.Module) -> list[str]:
    """Return the keys of two state dicts that are not in both, or whose tensors differ in a bit or in the dtype."""
    ours, theirs = one.state_dict(), other.state_dict()
    return [
        key
        for key in ours.keys() | theirs.keys()
        if key not in ours
        or key not in theirs
        or ours[key].dtype != theirs[key].dtype
        or not torch.equal(ours[key], theirs[key])
    ]


def check_restored(
    network: nn.Module, path: Path, name: Any = NAMED, build: Callable[[], nn.Module | None] = lambda: None
) -> nn.Module:
    """Save, load plain and masked, compare, save again and compare; return the masked network.

    ``build`` gives the network to load into, if the file does not name a known builder.
    """
    save_subnet(network, path, network=name, force=True)
    plain, again = load_subnet(path, network=build()), load_subnet(path, masked=True, network=build())
    assert not differing(plain, unmasked(network))
    assert not plain.training
    assert not is_masked(plain)
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert again.training
    assert not differing(unmasked(again), plain)
    masks = masks_in(path)
    assert ls.masked_weights(network).keys() == ls.masked_weights(again).keys() == masks.keys()
    for key, one in ls.masked_weights(network).items():
        other = ls.masked_weights(again)[key]
        assert torch.equal(one.mask(), other.mask())
        assert torch.equal(one.mask(), masks[key])
        assert one.num_kept == other.num_kept
        if not one.weight.requires_grad:
            assert torch.equal(one.weight[one.mask()], other.weight[one.mask()])
    assert trainable(again) == trainable(network)
    save_subnet(again, path.with_suffix(".again"), network=name, force=True)
    (header, tensors), (header_again, tensors_again) = content(path), content(path.with_suffix(".again"))
    method = next(iter(ls.masked_weights(network).values())).method
    if not method.rerandomizes:  # its dropped weights are the first ones again
        assert header_again == header
        assert tensors_again.keys() == tensors.keys()
        assert all(torch.equal(tensors_again[key], tensors[key]) for key in tensors)
    return again


def trainable(network: nn.Module) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def content(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header, as in JSON, and the tensors of a file."""
    header = json.loads(Container(path, whole=True).header.to_json(sha256=""))
    return {key: value for key, value in header.items() if key not in ("version", "sha256")}, load_file(path)


class RawHeader:
    """A header of any JSON text, whatever it says."""

    def __init__(self, text: Callable[[str], str]) -> None:
        self.to_json = text


def rewrite(path: Path, header: dict[str, Any], tensors: dict[str, Tensor], text: str | None = None) -> Path:
    """Write a file with a valid digest, as anybody can, and with a header that may repeat the version and the digest.

    If a dictionary cannot express the header, ``text`` is its JSON with SHA256 for the digest.
    """

    def json_of(sha256: str) -> str:
        if text is not None:
            return text.replace("SHA256", sha256)
        first = json.dumps({"version": VERSION, "sha256": sha256}, separators=(",", ":"))[:-1]
        rest = json.dumps(header, separators=(",", ":"))[1:]
        return f"{first},{rest}" if header else first + rest

    container.write(path, RawHeader(json_of), tensors)  # type: ignore[arg-type]
    return path


@contextmanager
def changed(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Give a file's header and tensors to change, then rewrite the file."""
    header, tensors = content(path)
    yield header, tensors
    rewrite(path, header, tensors)


def digest_in(file: bytes) -> bytes:
    place = file.index(b'\\"sha256\\":\\"') + len('\\"sha256\\":\\"')
    return file[place : place + 64]


def resealed(file: bytes, old: str, new: str) -> bytes:
    """Return the bytes of a file after a replacement in the JSON of safetensors, with a valid digest."""
    length = int.from_bytes(file[:8], "little")
    text = file[8 : 8 + length].replace(digest_in(file), b"0" * 64).replace(old.encode(), new.encode(), 1)
    text += b" " * (-len(text) % 8)
    file = len(text).to_bytes(8, "little") + text + file[8 + length :]
    return file.replace(b"0" * 64, hashlib.sha256(file).hexdigest().encode(), 1)
