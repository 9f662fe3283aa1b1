"""Networks as ONNX."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4
# The oldest that torch writes without converting, which the most programs read.
OPSET = 18
# A message of protobuf ends at 2 GiB; the graph beside the weights takes a few MB of it.
LARGEST = 2**31 - 2**24


def check_installed() -> None:
    """Raises: ValueError: if a package that writing ONNX needs is missing."""
    missing = []
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise UserError(f'ONNX needs {" and ".join(missing)}: pip install "lightning-subnets[onnx]"')


def content(network: nn.Module, input_shape: tuple[int, ...], details: Mapping[str, str]) -> bytes:
    """The network as one self-contained ONNX file, once onnxruntime computes with it what PyTorch does.

    Input ``images``, (batch, *input_shape), normalised, float32, any batch size; output ``logits``, (batch, classes).

    Args:
        network: plain, in evaluation, on the CPU.
        details: for the model's metadata.

    Raises:
        ValueError: if the network is too large for one file, does not take such images, cannot be expressed in ONNX, or
            computes otherwise there: logits differ by more than 1e-4, or, where the largest is above 1, 1e-4 of it.
    """
    kind = type(network).__name__
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    if size > LARGEST:
        raise UserError(
            f"{kind} has {size / 2**30:.2f} GiB of weights, and a file of ONNX holds {LARGEST / 2**30:.2f}: export it "
            "as .safetensors"
        )
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(size, *input_shape, generator=generator) for size in (1, 3)]
    try:
        with torch.inference_mode():
            logits = [network(batch) for batch in images]
    except RuntimeError as error:
        raise UserError(f"{kind} takes no images of {'x'.join(map(str, input_shape))}: {error}") from error
    model = _exported(network, images[1])
    _forget_the_source_(model)
    for key, value in details.items():
        model.metadata_props.add(key=key, value=value)
    written: bytes = model.SerializeToString()
    for batch, expected, found in zip(images, logits, _logits_of(written, images), strict=True):
        difference, allowed = (found - expected).abs().max().item(), TOLERANCE * max(1.0, expected.abs().max().item())
        if not difference <= allowed:  # so that a difference that is no number counts too
            raise UserError(
                f"onnxruntime computes otherwise with {kind} than PyTorch, for {len(batch)} random images: logits "
                f"differ by {difference:.1e}, allowed is {allowed:.1e}; nothing is written"
            )
    return written


def _exported(network: nn.Module, images: Tensor) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter tells of names inside torch that are going away
        try:
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error).partition("## Exception summary")[2].strip().partition("\n")[0]
            raise UserError(f"torch cannot express {type(network).__name__} in ONNX: {reason or error}") from error
    assert program is not None
    return program.model_proto


def _forget_the_source_(model: onnx.ModelProto) -> None:
    """Remove what torch notes of each node: stack traces, with the paths of the machine that it was written on."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def _logits_of(written: bytes, images: list[Tensor]) -> list[Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Of its own accord it takes all cores, and complains of those that a job may not use.
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0]) for batch in images]
