"""How the files in golden/ were made, once; and what a test needs to look at one.

Each is of a network of this package, drawn from seed 7, its method trained for a step on noise; what follows from that
differs from machine to machine, and what stands in the files does not. ``python tests/subnet_file/golden_files.py``
makes them and their digests anew: for a new version of the format alone, beside those of the old one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from small_subnets import NAMED, WITH_NORMS, batches, small, train_, with_norms
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.masking.method import Method
from lightning_subnets.subnet_file import save_subnet

FOLDER = Path(__file__).parent / "golden"
DIGESTS = FOLDER / "digests.json"

# The file, the method and the distribution; small() unless the name begins with norms.
MADE: dict[str, tuple[Callable[[], Method], str | None]] = {
    "kaiming_normal": (lambda: ls.EdgePopup(density=0.3), "kaiming_normal"),  # drawn, packed and coded
    "signed_constant": (lambda: ls.EdgePopup(density=0.5), "signed_constant"),
    "kaiming_uniform": (lambda: ls.EdgePopup(density=0.02), "kaiming_uniform"),  # gaps
    "xavier_normal": (lambda: ls.EdgePopup(density=0.9, allocation="global"), "xavier_normal"),  # inverse gaps
    "xavier_signed_constant": (lambda: ls.EdgePopup(density=0.4, absolute=False), "xavier_signed_constant"),
    "scaled_kaiming_normal": (lambda: ls.Supermask(density=0.3, dynamic_scaling=True), "scaled_kaiming_normal"),  # gain
    "biprop": (lambda: ls.Biprop(density=0.3), "kaiming_normal"),  # gain by sign
    "values": (lambda: ls.Random(density=0.1), "kaiming_normal"),  # trained
    "signs": (lambda: ls.IteRand(density=0.3, every=1, absolute=True), "signed_constant"),
    "norms_frozen": (lambda: ls.EdgePopup(density=0.5), "signed_constant"),  # with statistics
    "norms_trained": (lambda: ls.Random(density=0.1), "kaiming_normal"),
    "norms_float64": (lambda: ls.LinearProbe(), "scaled_xavier_signed_constant"),
    "norms_from_elsewhere": (lambda: ls.EdgePopup(density=0.2), None),
}


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """All that has to be the same to the bit: scores need not, but the masks that they give."""
    found = {key: each for key, each in network.state_dict().items() if key.rpartition(".")[2] != "scores"}
    if any(isinstance(module, ls.masking.MaskedLayer) for module in network.modules()):
        found |= {f"{name}.mask": layer.mask() for name, layer in ls.masked_layers(network)}
    return found


def digest_of(network: nn.Module) -> str:
    """SHA-256 of the name, the type, the shape and the bytes of each tensor, in little-endian and logical order."""
    digest = hashlib.sha256()
    for key, each in sorted(tensors_of(network).items()):
        digest.update(f"{key} {each.dtype} {tuple(each.shape)}\n".encode())
        digest.update(each.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def make_all() -> None:
    FOLDER.mkdir(exist_ok=True)
    digests = {}
    for name, (method, weights) in MADE.items():
        with_batch_norm = name.startswith("norms")
        torch.manual_seed(0)
        network = with_norms() if with_batch_norm else small()
        shape = (3, 8, 8) if with_batch_norm else (1, 8, 8)
        if name == "norms_float64":
            network.double()
        ls.mask_(network, method(), weights=weights, seed=7, batches=batches(shape))
        train_(network, 1, shape)
        path = FOLDER / f"{name}.subnet"
        save_subnet(network, path, network=WITH_NORMS if with_batch_norm else NAMED, force=True)
        plain, masked = ls.load_subnet(path), ls.load_subnet(path, masked=True)
        digests[name] = {"plain": digest_of(plain), "masked": digest_of(masked)}
    DIGESTS.write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    make_all()
