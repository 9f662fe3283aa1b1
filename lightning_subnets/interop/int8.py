"""Eight-bit ONNX: exact weights where a channel is a scale times small integers, and calibrated activations.

A signed constant has the values -s, 0 and +s, and a folded norm scales each output channel. The integers -1, 0 and 1
with a scale for each channel are therefore the same weights. Processors without VNNI add two products of a weight and
an activation in 16 bits, which overflow above 2 * 255 * 64 = 32,640, so no integer is larger than 64.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.graph.logits import logits_of
from lightning_subnets.interop.onnx_file import session_of
from lightning_subnets.progress_bar import progress

if TYPE_CHECKING:
    import onnx

LARGEST = 64
SMALL = 8  # a channel of a scale times integers up to this size is exact
_ROUNDING = 2**-22  # relative, of a product of float32
COVERED = 98.0  # percent of the images whose smallest and largest value the range of an activation covers
WORST = 0.5  # difference of the logits, relative to the largest, above which a file is useless
# Operators that onnxruntime computes in eight bits if their inputs are the output of a convolution.
FOLLOWING = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Concat")
MOVING = ("Cast", "Concat", "Constant", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape", "Slice", "Split",
          "Squeeze", "Transpose", "Unsqueeze")  # fmt: skip

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class WeightRounding:
    """How the weights of a network became integers.

    Attributes:
        exact: the names of the weights that the integers and scales give back: to the bit if the integers are -1, 0 and
            1, and up to the rounding of float32 if they are larger, because the folded weights were rounded too.
        rounded: the other weights, with the root mean square of the rounding relative to that of the weight.
        largest: the magnitude of the largest integer.
    """

    exact: list[str]
    rounded: dict[str, float]
    largest: int

    def __str__(self) -> str:
        told = []
        if self.exact:
            values = "-1, 0 and 1" if self.largest == 1 else "integers"
            told.append(f"{len(self.exact)} of {len(self.exact) + len(self.rounded)} exact, as {values} times a scale")
        if self.rounded:
            told.append(
                f"{len(self.rounded)} rounded to {LARGEST} steps, by up to {max(self.rounded.values()):.1%}, because "
                "their values are not a scale times small integers"
            )
        return "; ".join(told)


@dataclass(frozen=True)
class EightBit:
    """An eight-bit ONNX file and what was measured before it is kept.

    Attributes:
        content: the file.
        weights: how its weights became integers.
        left: the kinds of operators that stay in float32, apart from those that only move numbers.
        difference: the median over images of the largest difference of a logit, relative to the largest logit.
        agreement: the fraction of images whose top-1 class is that of PyTorch.
        share: the size of the file relative to that of the float32 one.
    """

    content: bytes
    weights: WeightRounding
    left: list[str]
    difference: float
    agreement: float
    share: float


def quantized(content: bytes, network: nn.Module, images: Tensor) -> EightBit:
    """Return a float32 ONNX file of ``onnx_file.content`` with eight-bit weights and activations.

    Args:
        content: the file, which has the input ``images`` and the output ``logits``.
        network: the network in the file, plain, in evaluation mode and on the CPU.
        images: normalised, (images, channels, height, width), to calibrate the activations with.

    Raises:
        ValueError: if the file has no layer that onnxruntime computes in eight bits, or its logits become useless.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content))
    axes, nodes = _chosen(model.graph)
    if not axes:
        raise UserError(
            f"{type(network).__name__} has no convolution or matrix product with constant float32 weights, so nothing "
            "of it can have eight bits: export it without --int8"
        )
    left = sorted({node.op_type for node in model.graph.node if node.name not in nodes} - set(MOVING))
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer if each.name in axes}
    eight = _quantized(model, {name: (weights[name], axis) for name, axis in axes.items()}, nodes, images.numpy())
    del eight.metadata_props[:]
    eight.metadata_props.extend(model.metadata_props)
    written: bytes = eight.SerializeToString()
    difference, agreement = _compared(written, network, images)
    if not difference <= WORST:  # also true for NaN
        raise UserError(
            f"the eight-bit logits of {type(network).__name__} differ from PyTorch's by {difference:.0%} of the "
            "largest logit; nothing is written. Calibrate with other images, or export it without --int8"
        )
    found = _compare_weights(eight, weights)
    return EightBit(written, found, left, difference, agreement, len(written) / len(content))


def scales_of(weight: Floats, axis: int) -> Floats:
    """Return a scale for each channel, which gives exact integers if the channel has them and at most 64 otherwise.

    A channel is exact if its values are integers up to 8 times a scale, up to the rounding of float32. The scale of a
    channel of zeros is the mean of the others.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    largest: Floats = np.abs(rows).max(axis=1)
    scales: Floats = largest / np.float32(LARGEST)
    for steps in range(SMALL, 0, -1):
        unit = np.where(largest > 0, largest / np.float32(steps), np.float32(1))[:, None]
        exact = (np.abs(np.rint(rows / unit) * unit - rows) <= _ROUNDING * np.abs(rows)).all(axis=1)
        scales = np.where(exact, unit[:, 0], scales)
    some = largest > 0
    scales[~some] = scales[some].mean() if some.any() else 1
    return scales


def _chosen(graph: onnx.GraphProto) -> tuple[dict[str, int], set[str]]:
    """Return the weights that get eight bits, with their axes of output channels, and the names of the nodes."""
    import onnx

    sizes = {each.name: len(each.dims) for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    axes: dict[str, int] = {}
    nodes: set[str] = set()
    eight: set[str] = set()  # activations with eight bits
    for node in graph.node:
        given = [name for name in node.input if name]
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            dimensions = sizes.get(node.input[1], 0)
            axis = 0 if node.op_type == "Conv" or attributes.get("transB") else dimensions - 1
            plain = attributes.get("alpha", 1) == 1 and all(name in sizes for name in given[1:])
            if plain and (node.op_type == "Conv" or dimensions == 2) and axes.setdefault(node.input[1], axis) == axis:
                nodes.add(node.name)
                eight.update(node.output if node.op_type == "Conv" else ())
        elif node.op_type in FOLLOWING:
            activations = given[:1] if node.op_type == "Clip" else given
            if eight.issuperset(activations):
                nodes.add(node.name)
                eight.update(node.output)
    return axes, nodes


def _quantized(
    model: onnx.ModelProto, weights: dict[str, tuple[Floats, int]], nodes: set[str], images: Floats
) -> onnx.ModelProto:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData  # older releases have the name here only

    kinds = sorted({node.op_type for node in model.graph.node if node.name in nodes})
    overrides = {
        name: [
            {"axis": axis, "scale": scale, "zero_point": np.int8(0), "quant_type": QuantType.QInt8}
            for scale in scales_of(weight, axis)
        ]
        for name, (weight, axis) in weights.items()
    }
    quantizer = QDQQuantizer(
        onnx.ModelProto.FromString(model.SerializeToString()),  # it changes the model
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, _ranges(model, kinds, images)),
        nodes_to_quantize=sorted(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=kinds,
        # onnxruntime gives the sums of matrix products as float32, without rounding them to eight bits.
        extra_options={"TensorQuantOverrides": overrides, "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()  # as ONNX requires; onnxruntime's own export does this when it writes a file
    result: onnx.ModelProto = quantizer.model.model
    return result


def _ranges(model: onnx.ModelProto, kinds: list[str], images: Floats) -> dict[str, tuple[np.float32, np.float32]]:
    """Return the range of each activation: percentiles over the images of their smallest and largest values."""
    import onnx
    from onnxruntime.quantization import create_calibrator

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, "float32.onnx")
        onnx.save_model(model, path)
        calibrator: Any = create_calibrator(path, kinds, augmented_model_path=str(path.with_stem("augmented")))
        session = calibrator.infer_session
        outputs = [each.name for each in session.get_outputs()][len(model.graph.output) :]
        extremes = [session.run(outputs, {"images": image[None]}) for image in progress(list(images), "calibrating")]
    found = np.array(extremes, dtype=np.float32).reshape(len(images), len(outputs))
    outside = (100 - COVERED) / 2
    ranges: dict[str, list[np.float32]] = {}
    for name, values in zip(outputs, found.T, strict=True):
        tensor, _, extreme = name.rpartition("_")
        percent = outside if extreme == "ReduceMin" else 100 - outside
        ranges.setdefault(tensor, []).append(np.float32(np.percentile(values, percent)))
    return {tensor: (min(values), max(values)) for tensor, values in ranges.items()}


def _compared(written: bytes, network: nn.Module, images: Tensor) -> tuple[float, float]:
    """Return the median difference of the logits from PyTorch's, and the fraction of images with the same class."""
    session = session_of(written)
    differences, agreeing = [], 0
    for batch in progress(torch.split(images, 16), "comparing with PyTorch"):
        with torch.inference_mode():
            expected = logits_of(network, network(batch))
        found = torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])
        differences.append((found - expected).abs().amax(1) / expected.abs().amax(1))
        agreeing += int((found.argmax(1) == expected.argmax(1)).sum())
    return torch.cat(differences).median().item(), agreeing / len(images)


def _compare_weights(model: onnx.ModelProto, weights: dict[str, Floats]) -> WeightRounding:
    """Multiply the integers in a file by their scales, and compare the results with the float32 weights."""
    exact, rounded, largest = [], {}, 0
    for name, values, integers in _dequantized(model):
        weight = weights[name]
        largest = max(largest, int(np.abs(integers).max()))
        small = int(np.abs(integers).max()) <= SMALL
        if np.array_equal(values, weight) or (small and (np.abs(values - weight) <= _ROUNDING * np.abs(weight)).all()):
            exact.append(name)
        else:
            rounded[name] = float(np.sqrt(np.square(values - weight).mean() / np.square(weight).mean()))
    assert largest <= LARGEST, f"an integer of {largest} can overflow"
    assert len(exact) + len(rounded) == len(weights)
    return WeightRounding(exact, rounded, largest)


def _dequantized(model: onnx.ModelProto) -> Iterator[tuple[str, Floats, NDArray[np.int8]]]:
    """Yield each eight-bit weight: its name, its value and its integers."""
    import onnx

    constants = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        stored = constants.get(node.input[0])
        if node.op_type == "DequantizeLinear" and stored is not None and stored.data_type == onnx.TensorProto.INT8:
            integers, scales = (onnx.numpy_helper.to_array(constants[name]) for name in node.input[:2])
            (axis,) = (each.i for each in node.attribute if each.name == "axis")
            scales = scales.reshape([-1 if each == axis else 1 for each in range(integers.ndim)])
            yield stored.name.removesuffix("_quantized"), integers.astype(np.float32) * scales, integers
