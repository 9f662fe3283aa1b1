"""How the files in golden/ were made, and the digests that the tests compare.

Each file has a small network, drawn from seed 7, that was trained for a step on noise. Training gives different bits on
different machines, but the files load to the same bits everywhere. ``golden/version_2/`` has the files of version 2 of
the format, and ``golden/version_4/`` one with tasks. ``python tests/subnet_file/golden_files.py`` writes the files and
their digests for a new version, whose folder ``FOLDER`` then has to name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_subnets import NAMED, WITH_NORMS, Transformer, batches, small, train_, with_norms
from torch import nn

import lightning_subnets as ls
from lightning_subnets.masking import is_masked
from lightning_subnets.masking.masked_weight import scores_names
from lightning_subnets.masking.method import Method
from lightning_subnets.subnet_file import save_subnet

GOLDEN = Path(__file__).parent / "golden"
FOLDER = GOLDEN / "version_2"
TASKS = GOLDEN / "version_4" / "tasks.subnet"

# The method and the distribution of each file. Its network is small(), with_norms() if the name begins with norms, or
# Transformer() if the name begins with transformer.
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
    "transformer": (lambda: ls.EdgePopup(density=0.3), "scaled_kaiming_normal"),  # dense, own densities
    "transformer_trained": (lambda: ls.Random(density=0.5), "kaiming_normal"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "transformer": {"keep_dense": ["head"], "also_mask": ["kinds"], "densities": {"encoder.linear*": 0.6}}
}


def given(name: str) -> nn.Module | None:
    """Return the network to load a file into, or None if the file names its builder."""
    return Transformer() if name.startswith("transformer") else None


def digest_of(network: nn.Module) -> str:
    """Return the SHA-256 of each tensor's name, dtype, shape and bytes, with masks instead of scores."""
    scores = scores_names(network)
    tensors = {key: each for key, each in network.state_dict().items() if key not in scores}
    if is_masked(network):
        tensors |= {f"{name.removesuffix('.weight')}.mask": mask for name, mask in ls.masks(network).items()}
    digest = hashlib.sha256()
    for key, each in sorted(tensors.items()):
        digest.update(f"{key} {each.dtype} {tuple(each.shape)}\n".encode())
        digest.update(each.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def make_tasks() -> None:
    """Write a file with tasks: masks that flip and multiply, frozen edges, running statistics and trained norms."""
    method = ls.Multicoated(0.5, signed=True, frozen=0.3)
    tasks = ls.SupSup(ls.mask_(with_norms(), method, weights="kaiming_normal", seed=7, norms="trained"))
    for name in ("one", "two"):
        train_(tasks.net, len(tasks) + 1, (3, 8, 8))
        tasks.add(name, accuracy=0.5)
    TASKS.parent.mkdir(exist_ok=True)
    tasks.save(TASKS, network=WITH_NORMS, force=True)
    digests = {name: digest_of(ls.load_subnet(TASKS, task=name)) for name in tasks.names}
    TASKS.with_name("digests.json").write_text(json.dumps(digests, indent=2) + "\n")


def make_all() -> None:
    FOLDER.mkdir(parents=True)  # an error if it exists, because files of an older version cannot be made again
    digests = {}
    for name, (method, weights) in MADE.items():
        torch.manual_seed(0)
        network, shape, builder = given(name) or small(), (1, 8, 8), "tests.Transformer" if given(name) else NAMED
        if name.startswith("norms"):
            network, shape, builder = with_norms(), (3, 8, 8), WITH_NORMS
        if name == "norms_float64":
            network.double()
        ls.mask_(network, method(), weights=weights, seed=7, batches=batches(shape), **OPTIONS.get(name, {}))
        train_(network, 1, shape)
        path = FOLDER / f"{name}.subnet"
        save_subnet(network, path, network=builder, force=True)
        plain = ls.load_subnet(path, network=given(name))
        masked = ls.load_subnet(path, masked=True, network=given(name))
        digests[name] = {"plain": digest_of(plain), "masked": digest_of(masked)}
    (FOLDER / "digests.json").write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    make_all()
    make_tasks()
