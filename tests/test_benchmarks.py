"""Each benchmark prints a table, and writes its measurements into a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

SERVED = ("exported", "masked", "torch CSR", "SciPy CSR", "onnxruntime", "onnxruntime, sparse initializers")


@pytest.mark.parametrize(
    ("name", "arguments", "variants"),
    [
        ("selection", "--exponents 10 --networks resnet18", ("ours", "torch.sort", "torch.topk", "torch.kthvalue")),
        pytest.param("startup", "--variants torch package", ("torch", "package"), marks=pytest.mark.thorough),
        pytest.param(
            "step", "--networks conv4:2 --variants dense masked", ("dense", "masked"), marks=pytest.mark.thorough
        ),
        pytest.param("evaluate", "--networks conv4:2", ("dense", "masked", "sort"), marks=pytest.mark.thorough),
        pytest.param("cifar", "--samples 256 --workers 1", ("in memory", "DataLoader"), marks=pytest.mark.thorough),
        pytest.param(
            "subnet_file",
            "--networks squeezenet1_1",
            ("dense, save", "dense, load", "save", "load", "load, masked", "bytes"),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "serving",
            "--networks resnet18:1 --densities 0.3",
            ("dense", "onnxruntime, dense", *(f"{variant}, 0.3" for variant in SERVED)),
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_benchmark_prints_a_table_and_writes_what_it_measured(
    name: str, arguments: str, variants: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "runs/benchmarks").mkdir(parents=True)
    earlier = tmp_path / f"runs/benchmarks/{name}-0.json"
    earlier.touch()
    command = [sys.executable, str(ROOT / f"benchmarks/{name}.py"), "--rounds", "1", *arguments.split()]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for variant in variants:
        assert variant in result.stdout
    assert earlier.read_text() == ""
    content = json.loads((tmp_path / f"runs/benchmarks/{name}-1.json").read_text())
    assert content["machine"] in result.stdout.replace("\n", " ")
    for measured in content["results"].values():
        assert measured.keys() == set(variants)
        for quantities in measured.values():
            for values in quantities.values():
                assert all(value > 0 for value in values)
