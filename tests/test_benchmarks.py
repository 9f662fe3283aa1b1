"""The benchmarks run, and write down what they measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.parametrize(
    ("name", "arguments", "variants"),
    [
        ("step", "--networks conv4:2 --rounds 1 --variants dense masked", {"dense", "masked"}),
        ("evaluate", "--networks conv4:2 --rounds 1", {"dense", "masked", "sort"}),
        ("startup", "--rounds 1 --variants torch package", {"torch", "package"}),
        ("cifar", "--samples 256 --rounds 1 --workers 1", {"in memory", "DataLoader"}),
        (
            "selection",
            "--exponents 10 --networks resnet18 --rounds 1",
            {"ours", "torch.sort", "torch.topk", "torch.kthvalue"},
        ),
        (
            "subnet_file",
            "--networks squeezenet1_1 --rounds 1",
            {"dense, save", "dense, load", "save", "load", "load, masked", "bytes"},
        ),
        pytest.param(
            "serving",
            "--networks resnet18:1 --densities 0.3 --rounds 1",
            {
                "dense",
                *(f"{variant}, 0.3" for variant in ("exported", "masked", "torch CSR", "SciPy CSR", "onnxruntime")),
                "onnxruntime, sparse initializers, 0.3",
                "onnxruntime, dense",
            },
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_benchmark_prints_a_table_and_writes_what_it_measured(
    name: str, arguments: str, variants: set[str], tmp_path: Path
) -> None:
    for number in range(2 if name == "evaluate" else 1):
        command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments.split()]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        for variant in variants:
            assert variant in result.stdout
        content = json.loads((tmp_path / f"runs/benchmarks/{name}-{number}.json").read_text())
        assert content["machine"] in result.stdout.replace("\n", " ")
        for measured in content["results"].values():
            assert measured.keys() == variants
            for quantities in measured.values():
                for values in quantities.values():
                    assert all(value > 0 for value in values)
