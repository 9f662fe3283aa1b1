"""Each benchmark prints a table, and writes its measurements into a file."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from repository import ROOT

SERVED = ("exported", "masked", "torch CSR", "SciPy CSR", "onnxruntime", "onnxruntime, sparse initializers")


@pytest.mark.parametrize(
    ("name", "arguments", "variants"),
    [
        ("selection", "--exponents 10 --networks resnet18", ("ours", "torch.sort", "torch.topk", "torch.kthvalue")),
        pytest.param("startup", "--variants torch", ("torch",), marks=pytest.mark.thorough),
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
        pytest.param(
            "eight_bits",
            "--networks airbench --batches 1 --threads 1",
            ("PyTorch", "onnxruntime, float32", "onnxruntime, int8"),
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_a_benchmark_prints_a_table_and_writes_what_it_measured(
    name: str,
    arguments: str,
    variants: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "runs/benchmarks").mkdir(parents=True)
    earlier = tmp_path / f"runs/benchmarks/{name}-0.json"
    earlier.touch()
    program = str(ROOT / f"benchmarks/{name}.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [program, "--rounds", "1", *arguments.split()])
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    runpy.run_path(program, run_name="__main__")
    said = capsys.readouterr().out
    for variant in variants:
        assert variant in said
    assert earlier.read_text() == ""
    content = json.loads((tmp_path / f"runs/benchmarks/{name}-1.json").read_text())
    assert content["machine"] in said.replace("\n", " ")
    for measured in content["results"].values():
        assert measured.keys() == set(variants)
        for quantities in measured.values():
            for values in quantities.values():
                assert all(value > 0 for value in values)
