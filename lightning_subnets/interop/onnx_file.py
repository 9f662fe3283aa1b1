"""Write a network as ONNX, and compare it with PyTorch before the file is kept."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.graph.logits import logits_of
from lightning_subnets.graph.recording import silent_export

if TYPE_CHECKING:
    import onnx
    import onnxruntime

TOLERANCE = 1e-4
OPSET = 18  # the oldest that torch writes without a conversion, so that most programs can read it
LARGEST = 2**31 - 2**24  # bytes of weights: a protobuf message has at most 2 GiB, and the graph takes a few MB


def check_installed() -> None:
    """Check that the packages to write ONNX are installed."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f'ONNX needs {name}: pip install "lightning-subnets[onnx]"') from error


def content(network: nn.Module, input_shape: tuple[int, ...], details: Mapping[str, str]) -> bytes:
    """Return the network as one self-contained ONNX file, after comparing its logits in onnxruntime with PyTorch's.

    The input is ``images``, (batch, *input_shape), normalised, float32, of any batch size; the output is ``logits``,
    (batch, classes). The network is plain, in evaluation mode and on the CPU.

    Raises:
        ValueError: if the network is too large for one file, does not accept such images or cannot be expressed in
            ONNX, or its logits differ by more than 1e-4 times the largest logit (1e-4 if that is below 1).
    """
    kind = type(network).__name__
    size = sum(each.nbytes for each in (*network.parameters(), *network.buffers()))
    if size > LARGEST:
        raise UserError(
            f"{kind} has {size / 2**30:.2f} GiB of weights, more than an ONNX file can hold ({LARGEST / 2**30:.2f}): "
            "export it as .safetensors"
        )
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(size, *input_shape, generator=generator, device="cpu") for size in (1, 3)]
    try:
        with torch.inference_mode():
            outputs = [network(batch) for batch in images]
    except Exception as error:  # whatever the network's own code raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{kind} does not accept images of {'x'.join(map(str, input_shape))}: {reason}") from error
    logits = [logits_of(network, output) for output in outputs]
    model = _exported(network, images[1])
    for key, value in details.items():
        model.metadata_props.add(key=key, value=value)
    written: bytes = model.SerializeToString()
    for batch, expected, found in zip(images, logits, _logits_of(written, images), strict=True):
        difference, allowed = (found - expected).abs().max().item(), TOLERANCE * max(1.0, expected.abs().max().item())
        if not difference <= allowed:  # also true for NaN
            raise UserError(
                f"onnxruntime and PyTorch disagree on {kind}, for {len(batch)} random images: logits differ by "
                f"{difference:.1e}, allowed is {allowed:.1e}; nothing is written"
            )
    return written


def _exported(network: nn.Module, images: Tensor) -> onnx.ModelProto:
    """Return the ONNX model without torch's stack traces, which contain paths of this machine."""
    with warnings.catch_warnings(), silent_export():
        warnings.simplefilter("ignore")  # the exporter uses deprecated parts of torch
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
    model: onnx.ModelProto = program.model_proto
    graph = model.graph
    if not graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise UserError(
            f"torch cannot express {type(network).__name__} in ONNX for any number of images, because its code makes "
            "it a constant, as len(images) does: use images.shape[0]"
        )
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return model


def session_of(written: bytes) -> onnxruntime.InferenceSession:
    """Return a session of onnxruntime that computes with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # By default onnxruntime takes all cores, and warns about the cores that a job may not use.
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])


def _logits_of(written: bytes, images: list[Tensor]) -> list[Tensor]:
    session = session_of(written)
    return [torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0]) for batch in images]
