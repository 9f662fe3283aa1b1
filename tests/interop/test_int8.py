"""Eight-bit ONNX files keep weights exactly where they can, compute nearly PyTorch's logits and never overflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.errors import UserError
from lightning_subnets.interop import exporting, int8
from lightning_subnets.interop.int8 import EightBit

onnx = pytest.importorskip("onnx", reason="pip install lightning-subnets[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install lightning-subnets[onnx]")

SHAPE = (3, 16, 16)
Stored = dict[str, tuple[NDArray[np.int8], NDArray[np.float32]]]


class Residual(nn.Module):
    """A network with norms, a residual sum, a clipped activation, pooling and a fully connected layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        first = nn.functional.relu6(self.bn1(self.conv1(images)))
        second = self.pool((self.bn2(self.conv2(first)) + first).relu())
        logits: Tensor = self.fc(second.mean((2, 3)))
        return logits


def images(count: int = 16, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def plain(weights: str, network: nn.Module | None = None, method: ls.Method | None = None) -> nn.Module:
    """Return the plain network of a masked one whose norms have seen images and have trained scales and shifts."""
    network = ls.mask_(network or Residual(), method or ls.EdgePopup(density=0.5), weights=weights, seed=0)
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for parameter in (module.weight, module.bias):
                nn.init.uniform_(parameter, -1, 2, generator=generator)
    with torch.no_grad():
        network.train()(images())
    return ls.unmask_(network).eval()


def written(network: nn.Module, path: Path, calibration: Tensor | None = None) -> EightBit:
    found = exporting.export(
        network,
        path,
        input_shape=SHAPE,
        details={"classes": "[]"},
        calibration=images() if calibration is None else calibration,
    )
    assert found is not None
    assert found.content == path.read_bytes()
    return found


def stored(path: Path) -> Stored:
    """Return the integers and the scales of each eight-bit weight of a file."""
    model = onnx.load(path)
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    return {
        node.output[0]: (constants[node.input[0]], constants[node.input[1]])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and getattr(constants.get(node.input[0]), "dtype", None) == np.int8
    }


def folded(network: Any) -> list[Tensor]:
    """Return the weights of a ``Residual`` times the scales of their norms."""
    return [
        conv.weight * (norm.weight / torch.sqrt(norm.running_var + norm.eps)).view(-1, 1, 1, 1)
        for conv, norm in ((network.conv1, network.bn1), (network.conv2, network.bn2))
    ] + [network.fc.weight]


@pytest.mark.parametrize("weights", ["signed_constant", "scaled_signed_constant"])
def test_signed_constants_are_minus_one_zero_and_one_times_a_scale_to_the_bit(tmp_path: Path, weights: str) -> None:
    network = plain(weights)
    found = written(network, tmp_path / "net.onnx")
    assert (len(found.weights.exact), found.weights.rounded, found.weights.largest) == (3, {}, 1)
    assert str(found.weights) == "3 of 3 exact, as -1, 0 and 1 times a scale"
    for (integers, scales), weight in zip(stored(tmp_path / "net.onnx").values(), folded(network), strict=True):
        assert set(np.unique(integers)) == {-1, 0, 1}
        assert np.array_equal(integers != 0, weight.detach().numpy() != 0)
        magnitudes = weight.detach().abs().flatten(1).amax(1).numpy()
        np.testing.assert_allclose(scales, magnitudes, rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "largest"),
    [(ls.Multicoated(0.5, inner=[0.5, 0.2], signed=True), 3), (ls.SignedSupermask(0.5, frozen=0.3), 1)],
    ids=str,
)
def test_weights_that_a_mask_flips_and_multiplies_are_small_integers_times_a_scale(
    method: ls.Method, largest: int, tmp_path: Path
) -> None:
    network = plain("signed_constant", method=method)
    found = written(network, tmp_path / "net.onnx")
    assert (len(found.weights.exact), found.weights.rounded, found.weights.largest) == (3, {}, largest)
    for (integers, scales), weight in zip(stored(tmp_path / "net.onnx").values(), folded(network), strict=True):
        values = integers * scales.reshape(-1, *[1] * (integers.ndim - 1))
        np.testing.assert_allclose(values, weight.detach().numpy(), rtol=1e-6)


def test_onnxruntime_computes_everything_but_the_mean_in_eight_bits(tmp_path: Path) -> None:
    network = plain("signed_constant")
    found = written(network, tmp_path / "net.onnx")
    assert found.left == ["ReduceMean"]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that the optimized file is for this machine alone
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert {"QLinearConv", "QLinearAdd", "QGemm"} <= kinds
    assert not kinds & {"Conv", "FusedConv", "Add", "Relu", "Clip", "Gemm"}
    assert session.get_modelmeta().custom_metadata_map == {"classes": "[]"}
    for size in (1, 5):
        batch = images(size)
        (logits,) = session.run(["logits"], {"images": batch.numpy()})
        expected = network(batch).detach()
        assert (torch.from_numpy(logits) - expected).abs().max() < 0.05 * expected.abs().max()
    assert 0 < found.difference < 0.03


def test_other_weights_are_rounded_to_64_steps_and_the_export_says_so(tmp_path: Path) -> None:
    found = written(plain("kaiming_normal"), tmp_path / "net.onnx")
    assert found.weights.exact == []
    assert len(found.weights.rounded) == 3
    # Rounding to steps of 1/64 of the largest is off by at most half a step.
    assert all(0.001 < each < 0.02 for each in found.weights.rounded.values())
    assert found.weights.largest == int8.LARGEST
    assert str(found.weights).startswith("3 rounded to 64 steps, by up to ")
    assert all(np.abs(integers).max() <= 64 for integers, _ in stored(tmp_path / "net.onnx").values())


def test_no_sum_of_two_products_overflows_sixteen_bits() -> None:
    assert 2 * 255 * int8.LARGEST <= np.iinfo(np.int16).max < 2 * 255 * 127


@pytest.mark.parametrize(
    ("channel", "scale"),
    [
        ([-0.3, 0.0, 0.3], 0.3),
        ([-0.6, 0.9, 0.3], 0.3),
        ([0.2, -0.5, 0.0], 0.1),
        ([1.0, 0.0, 0.0], 1.0),
        ([0.0, 0.0, 0.0], 0.5),
        ([0.0, 0.0, 64.0], 64.0),
        ([6.4, 1.23, -0.77], 0.1),
    ],
)
def test_a_channel_of_a_scale_times_small_integers_keeps_them(channel: list[float], scale: float) -> None:
    weight = np.array([channel, [0.5, 0.5, -0.5]], dtype=np.float32)
    for axis, each in ((0, weight), (1, weight.T)):
        np.testing.assert_allclose(int8.scales_of(each, axis), [scale, 0.5], rtol=1e-6)


def test_a_channel_without_weights_and_one_with_a_tiny_scale_keep_their_shifts(tmp_path: Path) -> None:
    network: Any = plain("signed_constant")
    with torch.no_grad():
        network.conv2.weight[0] = 0
        network.bn2.weight[1] = 1e-12  # the shift does not fit into 32 bits of a step this small
        network.bn2.bias[:2] = 3.0
    found = written(network, tmp_path / "net.onnx")
    assert found.difference < 0.03


def test_operators_without_eight_bits_are_named_and_a_network_of_them_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 10))
    found = written(plain("signed_constant", network), tmp_path / "net.onnx")
    assert {"Erf", "Mul"} <= set(found.left)
    with pytest.raises(UserError, match=r"ReLU has no convolution or matrix product .*: export it without --int8"):
        written(nn.ReLU().eval(), tmp_path / "relu.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_file_whose_logits_are_useless_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "WORST", 1e-9)
    with pytest.raises(UserError, match=r"the eight-bit logits of Residual differ .* nothing is written"):
        written(plain("signed_constant"), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.parametrize("build", [torchvision.models.resnet18, torchvision.models.mobilenet_v2])
def test_networks_of_torchvision_are_exact_and_small(tmp_path: Path, build: Callable[[], nn.Module]) -> None:
    found = written(plain("signed_constant", build()), tmp_path / "net.onnx", images(8))
    assert not found.weights.rounded
    assert found.left == ["ReduceMean"]
    assert found.share < 0.28


def test_the_range_of_an_activation_covers_the_extremes_of_98_percent_of_the_images(tmp_path: Path) -> None:
    given = images(50) * torch.linspace(0.1, 1, 50).view(-1, 1, 1, 1)
    written(plain("signed_constant"), tmp_path / "net.onnx", given)
    model = onnx.load(tmp_path / "net.onnx")
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    (first,) = (each for each in model.graph.node if each.op_type == "QuantizeLinear" and each.input[0] == "images")
    smallest, largest = given.flatten(1).amin(1), given.flatten(1).amax(1)
    low, high = float(smallest.quantile(0.01)), float(largest.quantile(0.99))
    assert float(constants[first.input[1]]) * 255 == pytest.approx(high - low, rel=1e-5)


def test_the_weights_that_are_rounded_are_told_with_the_largest_rounding() -> None:
    found = int8.WeightRounding(["a"], {"b": 0.01, "c": 0.03}, 1)
    assert str(found).startswith(
        "1 of 3 exact, as -1, 0 and 1 times a scale; 2 rounded to 64 steps, by up to 3.0%, because "
    )
