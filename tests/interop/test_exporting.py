"""Exported files give other programs the logits of the network, and a file that cannot be written leaves nothing."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.errors import UserError
from lightning_subnets.interop import exporting, onnx_file
from lightning_subnets.networks import Conv2

onnx = pytest.importorskip("onnx", reason="pip install lightning-subnets[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install lightning-subnets[onnx]")

SHAPE = (3, 32, 32)
DETAILS = {"classes": json.dumps(["cat", "dog"]), "preprocessing": json.dumps({"resize": 36})}


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=4),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


class Transformer(nn.Module):
    """A classifier with patches, a class token, a position table and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 16, kernel_size=16, stride=16), nn.Linear(16, 10)
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, 5, 16))
        layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), patches], dim=1) + self.pos_embed
        logits: Tensor = self.head(self.encoder(tokens)[:, 0])
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "shufflenet": torchvision.models.shufflenet_v2_x0_5,
    "grouped": grouped,
    "transformer": Transformer,
}


@cache
def subnetwork(name: str) -> nn.Module:
    """Return the plain network of a masked one whose norms have seen images."""
    network = ls.mask_(NETWORKS[name](), ls.EdgePopup(density=0.3), weights="kaiming_normal")
    with torch.no_grad():
        network.train()(images())
    return ls.unmask_(network).eval()


def images(size: int = 4) -> Tensor:
    return torch.randn(size, *SHAPE)


def export(network: nn.Module, path: Path, input_shape: tuple[int, ...], *, force: bool = False) -> None:
    exporting.export(network, path, input_shape=input_shape, details=DETAILS, force=force)


@pytest.mark.parametrize(
    ("name", "ending"), [("shufflenet", ".pt"), ("grouped", ".safetensors"), ("transformer", ".pt")]
)
def test_a_state_dict_gives_the_plain_network_equal_logits(tmp_path: Path, name: str, ending: str) -> None:
    network, path = subnetwork(name), tmp_path / f"net{ending}"
    export(network, path, SHAPE)
    if ending == ".pt":
        state = torch.load(path, weights_only=True)
    else:
        state = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt", **DETAILS}
    plain = NETWORKS[name]()
    plain.load_state_dict(state, strict=True)
    batch = images()
    assert torch.equal(plain.eval()(batch), network(batch))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_masked_network_is_exported_without_masks_and_stays_masked(tmp_path: Path) -> None:
    network = ls.mask_(Transformer(), ls.EdgePopup(density=0.3), weights="kaiming_normal").eval()
    batch = images()
    expected = network(batch)
    for ending in (".pt", ".onnx"):
        export(network, tmp_path / f"net{ending}", SHAPE)
    plain = Transformer()
    plain.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True), strict=True)
    assert torch.equal(plain.eval()(batch), expected)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": batch.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected.detach(), atol=1e-4, rtol=0)
    assert torch.equal(network(batch), expected)
    assert len(ls.masks(network)) == 10


def test_a_view_does_not_bring_along_what_it_is_a_view_of(tmp_path: Path) -> None:
    network = nn.Linear(2, 2, bias=False)
    network.weight = nn.Parameter(torch.randn(1_000_000)[:4].view(2, 2))
    export(network, tmp_path / "net.pt", (2,))
    assert (tmp_path / "net.pt").stat().st_size < 10_000


class Counting(nn.Linear):
    """Has something other than a tensor in its state dict."""

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": 3}


def test_state_that_is_not_a_tensor_is_refused_in_a_state_dict_and_left_out_of_onnx(tmp_path: Path) -> None:
    network = nn.Sequential(Counting(3, 2)).eval()
    for ending in (".pt", ".safetensors"):
        with pytest.raises(UserError, match=rf"'0\._extra_state' of the network is not a tensor, and .*{ending} holds"):
            export(network, tmp_path / f"net{ending}", (3,))
    export(network, tmp_path / "net.onnx", (3,))
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("name", ["grouped", "transformer", pytest.param("shufflenet", marks=pytest.mark.long)])
def test_onnx_is_one_quiet_file_with_the_logits_of_pytorch_for_any_number_of_images(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    network, path = subnetwork(name), tmp_path / "net.onnx"
    export(network, path, SHAPE)
    assert capfd.readouterr() == ("", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == DETAILS
    for size in (1, 2, 5):
        batch = images(size)
        (found,) = session.run(["logits"], {"images": batch.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), network(batch).detach(), atol=1e-4, rtol=0)
    content = path.read_bytes()
    paths_of_this_machine = (b"site-packages", str(Path.home()).encode(), b"torchvision")
    assert not [part for part in paths_of_this_machine if part in content]
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if len(tensor.dims) > 1]
    kept = sum(int(weight.count_nonzero()) for weight in network.parameters() if weight.dim() > 1)
    assert sum(np.count_nonzero(weight) for weight in weights) == kept


class Different(nn.Module):
    """Adds a number to the logits, except in an exported copy."""

    def __init__(self, added: float) -> None:
        super().__init__()
        self.linear, self.added = nn.Linear(12, 2), added

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.linear(images.flatten(1))
        return result if torch.compiler.is_exporting() else result + self.added


class ByContent(nn.Module):
    """Computes different things for different images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


class OfOneSize(nn.Module):
    """Asserts the size of the images, as timm's and torchvision's transformers do, with a message or without."""

    def __init__(self, *message: str) -> None:
        super().__init__()
        self.message = message

    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError(*self.message)


class ByLength(nn.Module):
    """Counts the images with len(), which torch.export records as a constant."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) + torch.ones(len(images), 1)


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (Different(1e-3), (3, 2, 2), "disagree on Different, for 1 random images: logits differ by 1.0e-03, allowed"),
        (Different(float("nan")), (3, 2, 2), "logits differ by nan, allowed is 1.0e-04"),
        (Conv2(), (3, 8, 8), r"Conv2 does not accept images of 3x8x8: .*mat1 and mat2"),
        (
            OfOneSize("Wrong height!\nIt is 8"),
            (3, 8, 8),
            r"OfOneSize does not accept images of 3x8x8: Wrong height! It is 8$",
        ),
        (OfOneSize(), (3, 8, 8), r"OfOneSize does not accept images of 3x8x8: AssertionError$"),
        (ByContent(), (3, 2, 2), r"torch cannot express ByContent in ONNX: .*data-dependent"),
        (ByLength(), (3, 2, 2), r"torch cannot express ByLength in ONNX for any number of images, .*len\(images\)"),
    ],
    ids=[
        "other logits",
        "NaN",
        "other images",
        "an assertion",
        "an empty assertion",
        "inexpressible",
        "one number of images",
    ],
)
def test_a_network_that_onnx_cannot_hold_is_refused_and_nothing_is_written(
    network: nn.Module, shape: tuple[int, ...], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message):
        export(network.eval(), tmp_path / "net.onnx", shape)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", ""), "torch.export has printed its graph"


def test_onnx_above_two_gigabytes_or_without_its_packages_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "LARGEST", 1_000)
    with pytest.raises(UserError, match=r"Sequential has 0\.00 GiB of weights, .*export it as \.safetensors"):
        export(grouped(), tmp_path / "net.onnx", SHAPE)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r'^ONNX needs onnxscript: pip install "lightning-subnets\[onnx\]"$'):
        export(grouped(), tmp_path / "net.onnx", SHAPE)


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".onnx"])
def test_force_alone_replaces_a_file_and_a_full_disk_leaves_the_old_one(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"net{ending}"
    path.write_text("mine")
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 500)).eval()
    with pytest.raises(UserError, match=rf"net\{ending} exists: --force replaces it"):
        export(network, path, (3, 2, 2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(UserError, match=rf"net\{ending} cannot be written \(File too large\)"):
            export(network, path, (3, 2, 2), force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    export(network, path, (3, 2, 2), force=True)
    assert path.stat().st_size > 1_000
