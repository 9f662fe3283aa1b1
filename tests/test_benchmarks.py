"""Benchmarks print what they measure, and most write it into a file."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
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


@pytest.mark.thorough
def test_a_training_step_is_measured_without_the_dense_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = str(ROOT / "benchmarks/step.py")
    monkeypatch.setattr(sys, "argv", [program, "--networks", "conv4:2", "--variants", "masked", "--rounds", "1"])
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    runpy.run_path(program, run_name="__main__")
    assert json.loads(Path("runs/benchmarks/step-0.json").read_text())["results"]["conv4:2"].keys() == {"masked"}


def test_a_density_without_rounds_of_pruning_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["methods.py", "--seeds", "0", "--densities", "0.3"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "benchmarks/methods.py"), run_name="__main__")
    assert stopped.value.code == 2
    assert "choose from 0.5, 0.1, 0.02" in capsys.readouterr().err


def test_the_time_of_steps_is_that_of_the_images_that_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    loader: Any = importlib.import_module("loader")
    now = [0.0]

    def passes(seconds: float) -> None:
        now[0] += seconds

    def network() -> torch.nn.Module:
        net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
        net.register_forward_hook(lambda *_: passes(3.0))
        return net

    class Epochs:
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for size in (4, 4, 2):  # the last batch of an epoch may be smaller
                passes(1.0)
                yield torch.zeros(size, 3, 8, 8, dtype=torch.uint8), torch.zeros(size, dtype=torch.long)

    monkeypatch.setattr(loader, "time", argparse.Namespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(torchvision.models, "wide_resnet50_2", network)
    found = loader.waiting(Epochs(), argparse.Namespace(steps=2, batch_size=4))
    assert found == {"waiting, %": [25.0], "images/s": [(2 + 4) / 8]}  # the sixth and the seventh batch


def test_the_best_case_of_a_step_is_that_of_the_page_on_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["roofline.py"])
    runpy.run_path(str(ROOT / "benchmarks/roofline.py"), run_name="__main__")
    printed = re.findall(r"│ +(\w+)((?: +│ +[0-9.]+){5})", capsys.readouterr().out)
    page = re.findall(r"\| (?:Wide )?ResNet-[-0-9]+((?: \| [0-9.]+){5}) \|", (ROOT / "docs/speed.md").read_text())
    assert [name for name, _ in printed] == ["resnet50", "resnet101", "wide_resnet50_2"]
    assert [re.findall("[0-9.]+", row) for _, row in printed] == [re.findall("[0-9.]+", row) for row in page]


def test_the_best_case_of_a_step_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    roofline: Any = importlib.import_module("roofline")
    products, normed = roofline.operations_of("wide_resnet50_2", batch=1)
    assert sum(product.multiply_adds for product in products) == 11_398_021_120
    assert normed == 14_400_512
    compute_bound = [roofline.Product(multiply_adds=10**12, inputs=1, outputs=1, matrix=True)]
    assert roofline.milliseconds(compute_bound, 0, 1000, 1, lambda product: False) == 6.0
    assert roofline.milliseconds(compute_bound, 0, 1000, 1, lambda product: product.matrix) == 3.0
    memory_bound = [roofline.Product(multiply_adds=1, inputs=10**9, outputs=2 * 10**9, matrix=False)]
    assert roofline.milliseconds(memory_bound, 10**9, 1000, 1, lambda product: False) == 18 + 16
    assert roofline.milliseconds(memory_bound, 0, 1000, 1, lambda product: True) == 5 + 4 + 3


def test_ctrl_c_keeps_the_rounds_that_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    interleaved: Any = importlib.import_module("interleaved").interleaved

    def stopped_in(call: int) -> dict[str, Callable[[], dict[str, float]]]:
        """Return two variants; Ctrl-C interrupts the second one in this call."""
        calls = itertools.count(1)

        def second() -> dict[str, float]:
            if (number := next(calls)) == call:
                raise KeyboardInterrupt
            return {"ms": number}

        return {"first": lambda: {"ms": 0.5}, "second": second}

    # The first call is the warm-up.
    assert interleaved(stopped_in(4), rounds=9) == {"first": {"ms": [0.5, 0.5]}, "second": {"ms": [2, 3]}}
    with pytest.raises(KeyboardInterrupt):
        interleaved(stopped_in(2), rounds=9)


def test_images_are_compressed_again_in_other_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    original = Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC)
    path = tmp_path / "first/train/cat/a.jpg"
    path.parent.mkdir(parents=True)
    original.save(path, quality=75)
    once = Image.open(path).convert("RGB")
    once.save(tmp_path / "same.jpg", quality=75)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "first"), str(tmp_path / "second")])
    runpy.run_path(str(ROOT / "benchmarks/compress_again.py"), run_name="__main__")
    again = Image.open(tmp_path / "second/train/cat/a.png")
    pairs = ((original, once), (once, again), (once, Image.open(tmp_path / "same.jpg")))
    first, second, same = (np.square(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in pairs)
    assert same < second / 2
    assert first / 4 < second < first


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the program of ``make gpu``, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gpu")


@pytest.mark.thorough
def test_every_part_of_the_measurements_on_a_gpu_is_rehearsed(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--rehearse"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 0
    (path,) = Path("runs/gpu").glob("*.json")
    content, table = json.loads(path.read_text()), path.with_suffix(".md").read_text()
    assert content["parts"].keys() == gpu.PARTS.keys()
    for name, part in content["parts"].items():
        assert part["status"] == "done"
        assert part["results"].keys() == {
            command.split(".py")[0] for command in part["commands"] if not command.startswith("pytest")
        }
        for benchmark, results in part["results"].items():
            for title, measured in results.items():
                assert f"| {benchmark}, {title} |" in table, name
                assert all(f"| {variant} |" in table for variant in measured)
    assert sum(part.minutes for part in gpu.PARTS.values()) <= gpu.MINUTES
    assert max(part.minutes for part in gpu.PARTS.values()) <= 8


def test_a_part_that_fails_or_takes_too_long_is_reported_with_what_it_measured(gpu: Any) -> None:
    measured = "selection.py --exponents 10 --networks resnet18 --rounds 1"
    failed = gpu.run(gpu.Part("", 1, [], [measured, "selection.py --exponents none"]), rehearse=True, seconds=60)
    assert failed["status"] == "selection.py --exponents none failed with exit code 2"
    assert failed["results"]["selection"]["2^10"]["ours"]["ms"][0] > 0
    stopped = gpu.run(gpu.Part("", 1, [], [measured]), rehearse=True, seconds=0.1)
    assert stopped["status"] == "stopped after 0 s"
    assert stopped["results"] == {}


def test_a_part_that_is_stopped_keeps_what_its_benchmark_writes_then(gpu: Any, tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text(
        "import json, pathlib, time\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n"
        "    folder = pathlib.Path('runs/benchmarks')\n    folder.mkdir(parents=True)\n"
        "    (folder / 'slow-0.json').write_text(json.dumps({'results': {'rounds': {'one': {'ms': [1.0]}}}}))\n"
    )
    stopped = gpu.run(gpu.Part("", 1, [str(program)], []), rehearse=False, seconds=gpu.TO_STOP + 2)
    assert stopped["status"] == f"stopped after {gpu.TO_STOP + 2} s"
    assert stopped["seconds"] < gpu.TO_STOP
    assert [*stopped["results"].values()] == [{"rounds": {"one": {"ms": [1.0]}}}]


def test_a_part_that_fails_later_leaves_what_was_measured_before(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--rehearse", "--parts", "step"])
    found = []
    for status in ("done", "step.py failed with exit code 1"):
        part: dict[str, Any] = {"status": status, "commands": [], "seconds": 1.0, "results": {"step": {status: {}}}}
        monkeypatch.setattr(gpu, "run", lambda *_, part=part, **__: part)
        with pytest.raises(SystemExit) as ended:
            gpu.main()
        (path,) = Path("runs/gpu").glob("*.json")
        found.append((ended.value.code, json.loads(path.read_text())["parts"]["step"]["results"]))
    assert found == [(0, {"step": {"done": {}}}), (1, {"step": {"done": {}}})]


def test_each_part_keeps_the_versions_that_it_was_measured_with(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    part: dict[str, Any] = {"status": "done", "commands": [], "seconds": 1.0, "results": {}}
    monkeypatch.setattr(gpu, "run", lambda *_, **__: part)
    for name, versions in (("step", "torch 1"), ("wide", "torch 2")):
        monkeypatch.setattr(gpu, "machine", lambda versions=versions: versions)
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--rehearse", "--parts", name])
        with pytest.raises(SystemExit):
            gpu.main()
    (path,) = Path("runs/gpu").glob("*.json")
    parts = json.loads(path.read_text())["parts"]
    assert {name: part["machine"] for name, part in parts.items()} == {"step": "torch 1", "wide": "torch 2"}
    assert re.findall(r"torch \d", path.with_suffix(".md").read_text()) == ["torch 1", "torch 2"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_measurements_on_one_are_refused(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as stopped:
        gpu.main()
    assert stopped.value.code == 2
    assert "--rehearse" in capsys.readouterr().err
    assert not Path("results").exists()
