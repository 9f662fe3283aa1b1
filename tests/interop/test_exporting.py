from __future__ import annotations

import copy
import json
import resource
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import scipy.sparse
import torch
import torchvision
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.errors import UserError
from lightning_subnets.interop import onnx_file
from lightning_subnets.interop.exporting import export
from lightning_subnets.networks.conv import Conv2

onnx = pytest.importorskip("onnx", reason="pip install lightning-subnets[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install lightning-subnets[onnx]")

SHAPE = (3, 32, 32)
DETAILS = {"classes": json.dumps(["cat", "dog"]), "preprocessing": json.dumps({"resize": 36})}


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=4),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": torchvision.models.resnet18,
    "shufflenet": torchvision.models.shufflenet_v2_x0_5,
    "grouped": grouped,
    "conv2": Conv2,
}


@cache
def subnetwork(name: str) -> nn.Module:
    """A masked network with running statistics of its own, made plain again."""
    network = ls.mask_(NETWORKS[name](), ls.EdgePopup(density=0.3), weights="kaiming_normal")
    with torch.no_grad():
        network.train()(images())
    return ls.unmask_(network).eval()


def images(size: int = 4) -> Tensor:
    return torch.randn(size, *SHAPE)


@torch.no_grad()
def logits(network: nn.Module, batch: Tensor) -> Tensor:
    result: Tensor = network.eval()(batch)
    return result


def opened(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_state_dict_gives_the_plain_network_equal_logits(tmp_path: Path, name: str, ending: str) -> None:
    network, path = subnetwork(name), tmp_path / f"net{ending}"
    export(network, path, input_shape=SHAPE)
    state = torch.load(path, weights_only=True) if ending == ".pt" else safetensors.torch.load_file(path)
    plain = NETWORKS[name]()
    plain.load_state_dict(state, strict=True)
    batch = images()
    assert torch.equal(logits(plain, batch), logits(network, batch))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_dense_state_dict_of_safetensors_tells_the_classes(tmp_path: Path) -> None:
    export(subnetwork("conv2"), tmp_path / "net.safetensors", input_shape=SHAPE, details=DETAILS)
    with safetensors.safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", **DETAILS}


@pytest.mark.parametrize("name", ["shufflenet", "grouped", "conv2"])
def test_compressed_rows_of_a_pt_are_torch_csr_tensors_and_give_equal_logits(tmp_path: Path, name: str) -> None:
    network, path = subnetwork(name), tmp_path / "net.pt"
    export(network, path, input_shape=SHAPE, sparse=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Validating sparse tensor invariants")
        state = torch.load(path, weights_only=True)
    plain = NETWORKS[name]()
    weights = {name: value for name, value in state.items() if value.layout == torch.sparse_csr}
    kept = sum(int(weight.count_nonzero()) for weight in network.parameters() if weight.dim() > 1)
    assert sum(weight.values().numel() for weight in weights.values()) == kept
    assert all(weight.crow_indices().dtype == torch.int32 for weight in weights.values())
    shapes = {name: value.shape for name, value in plain.state_dict().items()}
    plain.load_state_dict({name: value.to_dense().reshape(shapes[name]) for name, value in state.items()}, strict=True)
    batch = images()
    assert torch.equal(logits(plain, batch), logits(network, batch))


@pytest.mark.parametrize("name", ["shufflenet", "grouped", "conv2"])
def test_compressed_rows_of_safetensors_are_what_scipy_computes_with_and_give_equal_logits(
    tmp_path: Path, name: str
) -> None:
    network, path = subnetwork(name), tmp_path / "net.safetensors"
    export(network, path, input_shape=SHAPE, sparse=True, details=DETAILS)
    with safetensors.safe_open(path, "np") as file:
        arrays, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    assert metadata.items() >= DETAILS.items()
    for weight, shape in json.loads(metadata["compressed_rows"]).items():
        parts = [arrays.pop(f"{weight}.{part}") for part in ("values", "col_indices", "crow_indices")]
        rows = scipy.sparse.csr_array(tuple(parts), shape=(shape[0], np.prod(shape[1:])))
        assert parts[1].dtype == parts[2].dtype == np.int32
        assert rows.has_canonical_format
        arrays[weight] = rows.toarray().reshape(shape)
    plain = NETWORKS[name]()
    plain.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()}, strict=True)
    batch = images()
    assert torch.equal(logits(plain, batch), logits(network, batch))


def test_a_layer_without_zeros_stays_dense_in_a_sparse_file(tmp_path: Path) -> None:
    network = copy.deepcopy(subnetwork("conv2"))
    last = network.get_submodule("classifier.5")
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight)
    export(network, tmp_path / "net.safetensors", input_shape=SHAPE, sparse=True)
    with safetensors.safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("classifier.5.weight"), last.weight)


def test_sparse_without_zeros_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weight of Conv2 is zero: leave --sparse out"):
        export(Conv2(), tmp_path / "net.pt", input_shape=SHAPE, sparse=True)
    assert not list(tmp_path.iterdir())


def test_a_view_does_not_bring_along_what_it_is_a_view_of(tmp_path: Path) -> None:
    network = nn.Linear(2, 2, bias=False)
    network.weight = nn.Parameter(torch.randn(1_000_000)[:4].view(2, 2))
    export(network, tmp_path / "net.pt", input_shape=(2,))
    assert (tmp_path / "net.pt").stat().st_size < 10_000


@pytest.mark.parametrize(
    "name", ["grouped", "conv2", *(pytest.param(name, marks=pytest.mark.long) for name in ("resnet18", "shufflenet"))]
)
def test_onnx_is_one_quiet_file_with_the_logits_of_pytorch_for_any_number_of_images(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    network, path = subnetwork(name), tmp_path / "net.onnx"
    export(network, path, input_shape=SHAPE, details=DETAILS)
    assert capfd.readouterr() == ("", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]
    session = opened(path)
    assert session.get_modelmeta().custom_metadata_map == DETAILS
    for size in (1, 2, 5):
        batch = images(size)
        (found,) = session.run(["logits"], {"images": batch.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), logits(network, batch), atol=1e-4, rtol=0)
    content = path.read_bytes()
    paths_of_this_machine = (b"site-packages", str(Path.home()).encode(), b"torchvision")
    assert not [part for part in paths_of_this_machine if part in content]
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if len(tensor.dims) > 1]
    kept = sum(int(weight.count_nonzero()) for weight in network.parameters() if weight.dim() > 1)
    assert sum(np.count_nonzero(weight) for weight in weights) == kept


class Otherwise(nn.Module):
    """Adds 0.001 where it is not exported, or what it is told to."""

    def __init__(self, added: float = 1e-3) -> None:
        super().__init__()
        self.linear, self.added = nn.Linear(12, 2), added

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.linear(images.flatten(1))
        return result if torch.compiler.is_exporting() else result + self.added


@pytest.mark.parametrize(("added", "told"), [(1e-3, "by 1.0e-03, allowed is 1.0e-04"), (float("nan"), "by nan")])
def test_onnx_that_computes_otherwise_is_not_written(tmp_path: Path, added: float, told: str) -> None:
    with pytest.raises(UserError, match=f"with Otherwise than PyTorch, for 1 random images: logits differ {told}"):
        export(Otherwise(added).eval(), tmp_path / "net.onnx", input_shape=(3, 2, 2))
    assert not list(tmp_path.iterdir())


def test_onnx_of_images_that_the_network_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Conv2 takes no images of 3x8x8: .*mat1 and mat2"):
        export(Conv2().eval(), tmp_path / "net.onnx", input_shape=(3, 8, 8))
    assert not list(tmp_path.iterdir())


class ByContent(nn.Module):
    """Does one thing or another, by what is in the images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


def test_a_network_that_onnx_cannot_express_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"torch cannot express ByContent in ONNX: .*data-dependent"):
        export(ByContent().eval(), tmp_path / "net.onnx", input_shape=(3, 2, 2))
    assert not list(tmp_path.iterdir())


def test_onnx_above_two_gigabytes_is_refused_and_told_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "LARGEST", 10_000)
    with pytest.raises(UserError, match=r"Conv2 has 0\.02 GiB of weights, .*export it as \.safetensors"):
        export(Conv2(), tmp_path / "net.onnx", input_shape=SHAPE)


def test_onnx_without_its_packages_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r'^ONNX needs onnxscript: pip install "lightning-subnets\[onnx\]"$'):
        export(Conv2(), tmp_path / "net.onnx", input_shape=SHAPE)


@pytest.mark.parametrize(
    ("name", "sparse", "told"),
    [
        ("net.tflite", False, r"net\.tflite names no form: \.subnet .*, \.pt .*, \.safetensors .*, \.onnx"),
        ("net", False, "names no form"),
        ("net.onnx", True, "no form in ONNX that pays"),
        ("net.subnet", True, "one bit or less"),
        ("missing/net.pt", False, "missing is no directory: create it"),
    ],
)
def test_a_place_or_form_that_cannot_be_is_an_error_that_says_what_can(
    tmp_path: Path, name: str, sparse: bool, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        export(Conv2(), tmp_path / name, input_shape=SHAPE, sparse=sparse)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".onnx"])
def test_a_file_that_exists_is_replaced_by_force_alone(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"net{ending}"
    path.write_text("mine")
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    with pytest.raises(UserError, match=rf"net\{ending} exists: --force replaces it"):
        export(network, path, input_shape=(3, 2, 2))
    assert path.read_text() == "mine"
    export(network, path, input_shape=(3, 2, 2), force=True)
    assert path.stat().st_size > 100


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".onnx"])
def test_a_disk_that_is_full_is_one_error_and_leaves_what_was_there(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"net{ending}"
    path.write_text("mine")
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 500)).eval()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(UserError, match=rf"net\{ending} cannot be written \(File too large\)"):
            export(network, path, input_shape=(3, 2, 2), force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
