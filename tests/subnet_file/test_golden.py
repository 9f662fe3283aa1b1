"""Golden files load to the same bits for ever, whatever changes in the format or in the generator."""

from __future__ import annotations

import json

import pytest
import torch
from golden_files import DIGESTS, FOLDER, MADE, digest_of
from small_subnets import content

from lightning_subnets.subnet_file import load_subnet

GOLDEN: dict[str, dict[str, str]] = json.loads(DIGESTS.read_text())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_file_loads_to_the_same_bits(name: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for kind in ("plain", "masked"):
            network = load_subnet(FOLDER / f"{name}.subnet", masked=kind == "masked")
            assert digest_of(network) == GOLDEN[name][kind]
    finally:
        torch.set_num_threads(before)


def test_the_golden_files_cover_the_format() -> None:
    files = {path.stem: path for path in FOLDER.glob("*.subnet")}
    assert files.keys() == GOLDEN.keys() == MADE.keys()
    headers = [content(path)[0] for path in files.values()]
    layers = [layer for header in headers for layer in header["layers"].values()]
    assert {layer["code"] for layer in layers} == {"packed", "coded", "gaps", "inverse gaps"}
    assert {(layer["weights"], layer["of"], layer["gain"] is None) for layer in layers} >= {
        ("drawn", "weight", True),
        ("drawn", "weight", False),
        ("drawn", "sign", False),
        ("signs", "weight", True),
        ("values", "weight", True),
    }
    distributions = {header["weights"]["distribution"] for header in headers}
    five = {"kaiming_normal", "signed_constant", "kaiming_uniform", "xavier_normal", "xavier_signed_constant"}
    assert distributions >= {*five, "scaled_kaiming_normal", "scaled_xavier_signed_constant", None}
    assert {header["network"]["dtype"] for header in headers} == {"float32", "float64"}
