"""Time eight-bit ONNX files against float32: latency, memory and bytes.

    python benchmarks/eight_bits.py

The networks have random signed constants and the masks of untrained scores, density 0.3. The variants are PyTorch,
eager and compiled; onnxruntime with the float32 file of ``subnets export`` and with the eight-bit one; and OpenVINO
with the eight-bit file, if it is installed. The time is that of the clock, because several threads may compute. Memory
is what a new process gains when it loads a file and classifies one image.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision
from interleaved import PACKAGES, Values, interleaved, machine, save, table
from rich.console import Console
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.interop import int8, onnx_file
from lightning_subnets.networks import AirbenchNet

SECONDS = 0.2  # an evaluation step is repeated until it took so long
LOADED = """
import re, sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
images = numpy.zeros(eval(sys.argv[2]), numpy.float32)
resident = lambda: int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
before = resident()
session = onnxruntime.InferenceSession(sys.argv[1], options)
session.run(None, {"images": images})
print(resident() - before)
"""


def network_of(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """Return an exported subnetwork with the running statistics of random images, and the shape of an image."""
    torch.manual_seed(0)
    network, side = (AirbenchNet(), 32) if name == "airbench" else (getattr(torchvision.models, name)(), 224)
    ls.mask_(network, ls.EdgePopup(density=0.3), weights="signed_constant")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(8, 3, side, side))
    return ls.unmask_(network).eval(), (3, side, side)


def onnxruntime_runner(file: Path) -> Callable[[Tensor], object]:
    session = onnx_file.session_of(file.read_bytes())
    return lambda images: session.run(["logits"], {"images": images.numpy()})


def openvino_runner(file: Path, threads: int) -> Callable[[Tensor], object]:
    import openvino

    compiled = openvino.compile_model(file, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
    return lambda images: compiled(images.numpy())


@torch.inference_mode()
def measured(run: Callable[[Tensor], object], images: Tensor) -> dict[str, float]:
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS or not steps:
        run(images)
        steps += 1
    return {"ms": 1e3 * (time.perf_counter() - start) / steps}


def memory(file: Path, shape: tuple[int, ...]) -> float:
    """Return the MiB that a process gains when it loads a file and classifies one image."""
    run = subprocess.run([sys.executable, "-c", LOADED, file, str(shape)], capture_output=True, text=True, check=True)
    return float(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = ["resnet18", "resnet50", "wide_resnet50_2", "mobilenet_v2", "airbench"]
    parser.add_argument("--networks", nargs="+", default=networks, help="of torchvision, or airbench")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also PyTorch, compiled, which takes minutes")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    console = Console(width=200)
    openvino = importlib.util.find_spec("openvino") is not None
    packages = (*PACKAGES, "onnxruntime", *(["openvino"] if openvino else []))
    console.print(machine(packages))
    results: dict[str, dict[str, Values]] = {}
    for name in options.networks:
        network, shape = network_of(name)
        content = onnx_file.content(network, shape, {})
        eight = int8.quantized(content, network, torch.randn(16, *shape))
        with tempfile.TemporaryDirectory() as folder:
            files = {"float32": Path(folder, "float32.onnx"), "int8": Path(folder, "int8.onnx")}
            for file, written in zip(files.values(), (content, eight.content), strict=True):
                file.write_bytes(written)
            sizes: dict[str, Values] = {
                f"onnxruntime, {kind}": {"bytes": [float(file.stat().st_size)], "MiB": [memory(file, (1, *shape))]}
                for kind, file in files.items()
            }
            console.print(f"{name}, int8: {eight.weights}; in float32 are {', '.join(eight.left)}")
            for batch, threads in ((batch, threads) for batch in options.batches for threads in options.threads):
                torch.set_num_threads(threads)  # of onnxruntime's sessions too
                runs: dict[str, Callable[[Tensor], object]] = {"PyTorch": network}
                if options.compile:
                    runs["PyTorch, compiled"] = torch.compile(network)
                runs |= {f"onnxruntime, {kind}": onnxruntime_runner(file) for kind, file in files.items()}
                if openvino:
                    runs["OpenVINO, int8"] = openvino_runner(files["int8"], threads)
                images = torch.randn(batch, *shape)
                found = interleaved(
                    {variant: partial(measured, run, images) for variant, run in runs.items()}, options.rounds
                )
                for variant, size in sizes.items():
                    found[variant] |= size
                title = f"{name}, batch {batch}, {threads} thread{'s' if threads > 1 else ''}: ms an evaluation step"
                console.print(table(title, found, ["ms", "MiB", "bytes"], reference="onnxruntime, float32", of="ms"))
                results[f"{name}:{batch}:{threads}"] = found
    save(results, console, packages)


if __name__ == "__main__":
    main()
