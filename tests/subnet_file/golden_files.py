"""How the files in golden/ were made, and the digests that the tests compare.

Each file has a network of this package, drawn from seed 7, whose method was trained for a step on noise. Training gives
different bits on different machines, but what the files hold loads to the same bits everywhere.
``python tests/subnet_file/golden_files.py`` writes the files and their digests again. Run it only for a new version of
the format, and keep the files of the old version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from small_subnets import NAMED, WITH_NORMS, batches, small, train_, with_norms
from torch import nn

import lightning_subnets as ls
from lightning_subnets.masking.method import Method
from lightning_subnets.subnet_file import save_subnet

FOLDER = Path(__file__).parent / "golden"
DIGESTS = FOLDER / "digests.json"

# The method and the distribution of each file; its network is small(), or with_norms() if the name begins with norms.
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


def digest_of(network: nn.Module) -> str:
    """Return the SHA-256 of each tensor's name, dtype, shape and bytes, with masks instead of scores."""
    tensors = {key: each for key, each in network.state_dict().items() if key.rpartition(".")[2] != "scores"}
    if any(isinstance(module, ls.masking.MaskedLayer) for module in network.modules()):
        tensors |= {f"{name}.mask": mask for name, mask in ls.masks(network).items()}
    digest = hashlib.sha256()
    for key, each in sorted(tensors.items()):
        digest.update(f"{key} {each.dtype} {tuple(each.shape)}\n".encode())
        digest.update(each.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def make_all() -> None:
    FOLDER.mkdir(exist_ok=True)
    digests = {}
    for name, (method, weights) in MADE.items():
        torch.manual_seed(0)
        network, shape, builder = small(), (1, 8, 8), NAMED
        if name.startswith("norms"):
            network, shape, builder = with_norms(), (3, 8, 8), WITH_NORMS
        if name == "norms_float64":
            network.double()
        ls.mask_(network, method(), weights=weights, seed=7, batches=batches(shape))
        train_(network, 1, shape)
        path = FOLDER / f"{name}.subnet"
        save_subnet(network, path, network=builder, force=True)
        plain, masked = ls.load_subnet(path), ls.load_subnet(path, masked=True)
        digests[name] = {"plain": digest_of(plain), "masked": digest_of(masked)}
    DIGESTS.write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    make_all()
