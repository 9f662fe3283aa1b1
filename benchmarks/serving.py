"""Time a subnetwork on a CPU, to see what unstructured zeros gain.

    python benchmarks/serving.py

The variants are a dense network; one with zeros in dense weights, as ``subnets export`` writes it; one that is masked,
as in training; layers in compressed rows (CSR, int32 indices), by torch (MKL) and by SciPy; and onnxruntime with a
dense network, with zeros, and with ONNX's sparse initializers. One thread computes. The program's own processor time is
measured, because other programs hardly change it.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import scipy.sparse
import torch
import torchvision
from interleaved import PACKAGES, Values, interleaved, machine, save, table
from rich.console import Console
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.interop import onnx_file
from lightning_subnets.masking.maskable import find_weights

VARIANTS = ["dense", "exported", "masked", "torch CSR", "SciPy CSR", "onnxruntime"]
LARGE = (25088, 4096)  # the first fully connected layer of VGG-16
Product = Callable[[Tensor], Tensor]  # multiplies a layer's compressed rows by a matrix of columns


def by_torch(rows: scipy.sparse.csr_array) -> Product:
    starts, columns, values = map(torch.from_numpy, (rows.indptr, rows.indices, rows.data))
    matrix = torch.sparse_csr_tensor(starts, columns, values, size=rows.shape)
    return lambda inputs: matrix @ inputs


def by_scipy(rows: scipy.sparse.csr_array) -> Product:
    return lambda columns: torch.from_numpy(rows @ columns.numpy())


class CompressedConv2d(nn.Module):
    """A convolution that multiplies compressed rows by the patches of each image, or by the image if it is 1x1."""

    def __init__(self, conv: nn.Conv2d, product: Product) -> None:
        super().__init__()
        assert conv.groups == 1
        assert conv.bias is None
        self.conv, self.product = conv, product

    def forward(self, images: Tensor) -> Tensor:
        conv = self.conv
        down, across = conv.stride
        if conv.kernel_size == (1, 1):
            images = images[:, :, ::down, ::across]
            columns, size = images.flatten(2), images.shape[2:]
        else:
            assert not isinstance(conv.padding, str)
            columns = nn.functional.unfold(images, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
            size = torch.Size(
                (length + 2 * around - kernel) // stride + 1
                for length, around, kernel, stride in zip(
                    images.shape[2:], conv.padding, conv.kernel_size, conv.stride, strict=True
                )
            )
        return torch.stack([self.product(image) for image in columns]).reshape(len(images), -1, *size)


class CompressedLinear(nn.Module):
    def __init__(self, linear: nn.Linear, product: Product) -> None:
        super().__init__()
        self.product, self.bias = product, linear.bias

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.product(inputs.t().contiguous()).t()
        return outputs if self.bias is None else outputs + self.bias


def compressed(network: nn.Module, by: Callable[[scipy.sparse.csr_array], Product]) -> nn.Module:
    """Return a copy of the network that computes every convolution and fully connected layer by compressed rows."""
    network = copy.deepcopy(network)
    for name, weight in find_weights(network).masked.items():
        layer, _ = weight.owners[0]
        product = by(scipy.sparse.csr_array(weight.parameter.detach().flatten(1).numpy()))
        kind = CompressedConv2d if isinstance(layer, nn.Conv2d) else CompressedLinear
        network.set_submodule(name.removesuffix(".weight"), kind(layer, product))  # type: ignore[arg-type]
    return network


def onnx_runner(content: bytes, images: Tensor) -> Callable[[], Tensor]:
    session = onnx_file.session_of(content)
    return lambda: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def with_sparse_initializers(content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    graph = model.graph
    dense = list(graph.initializer)
    del graph.initializer[:]
    for tensor in dense:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim < 2 or array.all():
            graph.initializer.append(tensor)
            continue
        kept = np.flatnonzero(array)
        values = onnx.numpy_helper.from_array(array.ravel()[kept], tensor.name)
        graph.sparse_initializer.append(
            onnx.helper.make_sparse_tensor(values, onnx.numpy_helper.from_array(kept), list(array.shape))
        )
    return bytes(model.SerializeToString())


def subnetwork(name: str, density: float | None, images: Tensor) -> nn.Module:
    """Return a network in evaluation mode, with running statistics of the images; masked, if there is a density."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(*LARGE, bias=False)) if name == "linear" else getattr(torchvision.models, name)()
    if density is not None:
        ls.mask_(network, ls.EdgePopup(density=density), weights="kaiming_normal")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def variants_of(name: str, size: int, densities: list[float]) -> dict[str, Callable[[], Tensor]]:
    """Return the variants by name. A call computes the logits of the same images."""
    shape: tuple[int, ...] = (LARGE[0],) if name == "linear" else (3, 224, 224)
    images = torch.randn(size, *shape)
    prepared = images if name == "linear" else torch.randn(4, *shape)
    dense = subnetwork(name, None, prepared)
    variants: dict[str, Callable[[], Tensor]] = {"dense": partial(dense, images)}
    for density in densities:
        masked = subnetwork(name, density, prepared)
        exported = ls.unmask_(copy.deepcopy(masked)).eval()
        found: dict[str, Callable[[], Tensor]] = {"exported": partial(exported, images)}
        if density == densities[0]:
            found["masked"] = partial(masked, images)
        found["torch CSR"] = partial(compressed(exported, by_torch), images)
        found["SciPy CSR"] = partial(compressed(exported, by_scipy), images)
        if density == densities[0]:
            content = onnx_file.content(exported, shape, {})
            found["onnxruntime"] = onnx_runner(content, images)
            found["onnxruntime, sparse initializers"] = onnx_runner(with_sparse_initializers(content), images)
        with torch.inference_mode():
            expected = exported(images)
            for each in found.values():
                torch.testing.assert_close(each(), expected, atol=1e-3, rtol=1e-3)
        variants |= {f"{variant}, {density:g}": each for variant, each in found.items()}
    return variants | {"onnxruntime, dense": onnx_runner(onnx_file.content(dense, shape, {}), images)}


@torch.inference_mode()
def measured(run: Callable[[], Tensor], steps: int) -> dict[str, float]:
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        run()
    return {
        "processor ms": 1e3 * (time.process_time() - processor) / steps,
        "wall ms": 1e3 * (time.perf_counter() - wall) / steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = ["resnet50:1", "resnet50:8", "linear:1", "linear:16"]
    parser.add_argument("--networks", nargs="+", default=networks, help="name:batch size, from torchvision or linear")
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--densities", nargs="+", type=float, default=[0.3, 0.1, 0.05, 0.01])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=1, help="steps in a round")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    console = Console(width=200)
    packages = (*PACKAGES, "onnxruntime", "scipy")
    console.print(machine(packages))
    results: dict[str, dict[str, Values]] = {}
    for name, size in ((name, int(size)) for name, _, size in (each.partition(":") for each in options.networks)):
        variants = variants_of(name, size, options.densities)
        runs = {
            variant: partial(measured, run, options.steps)
            for variant, run in variants.items()
            if variant.partition(",")[0] in options.variants
        }
        found = interleaved(runs, options.rounds)
        title = f"{name}, batch {size}, one thread: ms an evaluation step, by density"
        console.print(table(title, found, ["processor ms", "wall ms"], reference="dense", of="processor ms"))
        results[f"{name}:{size}"] = found
    save(results, console, packages)


if __name__ == "__main__":
    main()
