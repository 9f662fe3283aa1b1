"""A file is not trusted: it is imported or is one error, no code in it runs, and it takes memory by its size."""

from __future__ import annotations

import os
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_files import Call, pickled, torch_file, view, zip_file
from safetensors.torch import save
from small_network import Small, masks, scores, state

import lightning_subnets as ls
from lightning_subnets.interop.importing import import_subnet_

WIDE = (10**6, 10**6)
SHAPE, STRIDES = (4, 3, 3, 3), (27, 9, 3, 1)
NUMBERS = np.random.default_rng(0).random(108, dtype=np.float32).tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zip_file(pickled({"conv1": Call(bytearray, 10**11)})), r"more than tensors .* \(__builtin__.bytearray\)"),
        (zip_file(pickled({"conv1": Call(torch.FloatTensor, 10**11)})), r"more than tensors .* \(torch.FloatTensor\)"),
        (zip_file(pickled({"conv1": Call(print, "run")})), r"more than tensors .* \(__builtin__.print\)"),
        (zip_file(pickled({}) + bytes(10**7), compression=zipfile.ZIP_DEFLATED), "truncated, damaged"),
        (zip_file(pickled({"conv1": view(torch.FloatStorage, 10**11, SHAPE, STRIDES)})), "truncated, damaged"),
        (zip_file(pickled({"conv1": view(torch.FloatStorage, 1, WIDE, (0, 0))}), NUMBERS[:4]), "another network"),
        (zip_file(pickled({"fc.weight": view(torch.FloatStorage, 1, WIDE, (0, 0))}), NUMBERS[:4]), "neither scores"),
        (zip_file(pickled({"conv1": view(torch.BoolStorage, 432, SHAPE, STRIDES)}), NUMBERS), "numbers other than 0"),
        (save({"conv1": torch.ones(4)})[:-1], "truncated, damaged"),
        (save({"conv1": torch.ones(SHAPE).to(torch.float8_e4m3fn)}), "'conv1', which is not an ordinary tensor"),
        (struct.pack("<Q", 10**15) + b'{"conv1":', "truncated, damaged"),
    ],
    ids=["bytearray", "tensor", "print", "zipped", "storage", "view", "weight", "bool", "short", "float8", "header"],
)  # fmt: skip
def test_a_hostile_file_is_an_error_before_it_takes_memory(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(ls.UserError, match=message):
        import_subnet_(tmp_path / "file.pt", Small(), weights="signed_constant")


def test_a_mask_that_repeats_one_number_by_its_strides_is_imported(tmp_path: Path) -> None:
    one = pickled({"conv1": view(torch.FloatStorage, 1, SHAPE, (0, 0, 0, 0))})
    (tmp_path / "file.pt").write_bytes(zip_file(one, struct.pack("<f", 1)))
    network = import_subnet_(tmp_path / "file.pt", Small(), weights="signed_constant")
    network.load_state_dict(network.state_dict())
    assert ls.density(network, per_weight=True) == {"conv1.weight": 1.0, "fc.weight": 1.0}


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"conv1": Call(os.mkdir, str(tmp_path / "cached"))}, tmp_path / "file.pt", pickle_protocol=4)
    with pytest.raises(ls.UserError, match="truncated, damaged"):
        import_subnet_(tmp_path / "file.pt", Small(), weights="signed_constant")
    assert not (tmp_path / "cached").exists()


def test_a_dict_with_attributes_named_like_its_methods_is_read_as_a_dict(tmp_path: Path) -> None:
    wanted = masks()
    torch.save(Call(OrderedDict, then=({"items": 5, "keys": 5}, None, iter(wanted.items()))), tmp_path / "file.pt")
    network = import_subnet_(tmp_path / "file.pt", Small(), weights="signed_constant")
    found = ls.masks(network)
    assert all(torch.equal(found[f"{layer}.weight"], mask) for layer, mask in wanted.items())


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with a few bytes changed, removed, inserted or moved, or with its end cut off."""
    for _ in range(rng.integers(1, 4)):
        start, end = sorted(rng.integers(0, len(content) + 1, 2).tolist())
        end = min(end, start + int(rng.integers(1, 64)))
        new = [
            bytes(byte ^ (1 << int(rng.integers(8))) for byte in content[start : start + 1]),
            rng.bytes(end - start),
            b"",
            content[start:end] * 2,
            rng.choice(np.array([b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x01" * 8])).tobytes(),
        ]
        kind = int(rng.integers(len(new) + 1))
        content = content[:start] if kind == len(new) else content[:start] + new[kind] + content[max(end, start + 1) :]
    return content


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["zip", "pickle", "legacy", "safetensors"])
def test_a_tampered_file_is_one_error_or_another_network(kind: str, count: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    public = {f"module.{key}": value for key, value in (state() | scores()).items()}
    files: dict[str, tuple[bytes, dict[str, Any]]] = {
        "zip": (torch_file({"epoch": 3, "state_dict": public}), {"density": 0.3}),
        "pickle": (pickled({"conv1": view(torch.FloatStorage, 108, SHAPE, STRIDES)}), {"weights": "signed_constant"}),
        "legacy": (torch_file({"epoch": 3, "state_dict": public}, zipped=False), {"density": 0.3}),
        "safetensors": (save(state() | {f"{name}.mask": mask for name, mask in masks().items()}), {}),
    }
    whole, arguments = files[kind]
    path, refused = tmp_path / "file.pt", 0
    for content in (whole, *(mutated(whole, rng) for _ in range(count))):
        path.write_bytes(zip_file(content, np.ones(108, np.float32).tobytes()) if kind == "pickle" else content)
        try:
            import_subnet_(path, Small(), **arguments)
        except ls.UserError:
            refused += 1
            assert content != whole
    assert refused > count // 5
