"""Compute the least time of a training step on a GPU, in bfloat16 and with FP8.

    python benchmarks/roofline.py                       # an H100: NVIDIA's data sheet, without sparsity
    python benchmarks/roofline.py --bandwidth 4.8       # an H200

Nothing is measured. Each operation takes the larger of two times: its multiplications at the peak rate, or its bytes at
the peak bandwidth. A convolution or linear layer is three products (output, gradient of the input, gradient of the
weight), each of which reads two tensors of activations or gradients, or reads one and writes one. A norm with the ReLU
after it reads its input twice and writes once, and its backward pass reads input and gradient twice and writes once.
Weights, scores, masks and the optimizer are left out, and conversion to FP8 costs nothing, so the ratios are the best
case.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

NORM_TENSORS = 3 + 5  # tensors of the norm's shape that its forward and its backward pass read and write


@dataclass(frozen=True)
class Product:
    """A convolution or a linear layer: multiply-adds of one product, numbers in input and output."""

    multiply_adds: int
    inputs: int
    outputs: int
    matrix: bool  # whether it is a plain product of matrices: a linear layer or a 1x1 convolution


def operations_of(name: str, batch: int) -> tuple[list[Product], int]:
    """Return the products of a network of torchvision on images of 224 pixels, and the numbers that norms read."""
    products: list[Product] = []
    normed: list[int] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.BatchNorm2d):
            normed.append(output.numel())
        elif isinstance(module, nn.Conv2d | nn.Linear):
            matrix = isinstance(module, nn.Linear) or module.kernel_size == (1, 1)
            work = output.numel() * module.weight[0].numel()
            products.append(Product(work, arguments[0].numel(), output.numel(), matrix))

    with torch.device("meta"):
        network = getattr(torchvision.models, name)()
        for module in network.modules():
            module.register_forward_hook(note)
        network(torch.empty(batch, 3, 224, 224))
    return products, sum(normed)


def milliseconds(
    products: list[Product], normed: int, teraflops: float, terabytes: float, in_fp8: Callable[[Product], bool]
) -> float:
    """Return the least time of a step, with twice the rate and half of the bytes read where FP8 is used."""
    total = NORM_TENSORS * 2 * normed / (terabytes * 1e9)
    for product in products:
        faster = 2 if in_fp8(product) else 1
        compute = 2 * product.multiply_adds / (faster * teraflops * 1e9)
        read = 2 / faster  # bytes of a number
        for moved in (
            read * product.inputs + 2 * product.outputs,
            read * product.outputs + 2 * product.inputs,
            read * (product.inputs + product.outputs),
        ):
            total += max(compute, moved / (terabytes * 1e9))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet50", "resnet101", "wide_resnet50_2"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--teraflops", type=float, default=989, help="peak rate in bfloat16, in 10^12 operations a second"
    )
    parser.add_argument("--bandwidth", type=float, default=3.35, help="bandwidth of the memory in TB/s")
    options = parser.parse_args()
    rows = Table("", "in 1x1 and linear", "products alone", "bfloat16, ms", "FP8 in 1x1 and linear", "FP8 everywhere")
    for name in options.networks:
        products, normed = operations_of(name, options.batch)
        every = sum(product.multiply_adds for product in products)
        share = sum(product.multiply_adds for product in products if product.matrix) / every
        plain, matrices, everywhere = (
            milliseconds(products, normed, options.teraflops, options.bandwidth, in_fp8)
            for in_fp8 in (lambda product: False, lambda product: product.matrix, lambda product: True)
        )
        ratios = (f"{1 - share / 2:.2f}", f"{plain:.1f}", f"{matrices / plain:.2f}", f"{everywhere / plain:.2f}")
        rows.add_row(name, f"{share:.3f}", *ratios)
    Console(width=120).print(rows)


if __name__ == "__main__":
    main()
