"""Golden files load to the same bits for ever, whatever changes in the format or in the generator."""

from __future__ import annotations

import json

import pytest
import torch
from golden_files import FOLDER, MADE, TASKS, digest_of, given
from small_subnets import content

from lightning_subnets import SupSup
from lightning_subnets.subnet_file import load_subnet

DIGESTS = json.loads((FOLDER / "digests.json").read_text())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", DIGESTS)
def test_a_golden_file_loads_to_the_same_bits(name: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for kind in ("plain", "masked"):
            network = load_subnet(FOLDER / f"{name}.subnet", masked=kind == "masked", network=given(name))
            assert digest_of(network) == DIGESTS[name][kind]
    finally:
        torch.set_num_threads(before)


def test_a_golden_file_with_tasks_loads_to_the_same_bits() -> None:
    digests, tasks = json.loads(TASKS.with_name("digests.json").read_text()), SupSup.load(TASKS)
    assert tasks.names == [*digests]
    for name, digest in digests.items():
        assert digest_of(tasks.network(name)) == digest_of(load_subnet(TASKS, task=name)) == digest


def test_the_golden_files_cover_the_format() -> None:
    files = {path.stem: path for path in FOLDER.glob("*.subnet")}
    assert files.keys() == DIGESTS.keys() == MADE.keys()
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
    assert any(layer["density"] is not None and layer["num_kept"] is not None for layer in layers)
    assert any(header["dense"] for header in headers)
