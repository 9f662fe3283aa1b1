"""Files of masks, with weights or without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_network import Small, masks, state
from torch import Tensor, nn
from torch.nn.utils import prune

import lightning_subnets as ls
from lightning_subnets.interop.importing import import_subnet_
from lightning_subnets.masking.initialization import draw_weights


def saved(tensors: dict[str, Tensor], folder: Path, name: str = "masks.pt") -> Path:
    path = folder / name
    if name.endswith(".safetensors"):
        save_file(tensors, path)
    else:
        torch.save(tensors, path, pickle_protocol=3)  # torch warns of this protocol when it reads the file
    return path


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("suffix", "dtype", "name"),
    [
        ("", torch.bool, "masks.pt"),
        (".mask", torch.uint8, "masks.safetensors"),
        (".weight_mask", torch.int64, "masks.pt"),
        (".scores", torch.float32, "masks.safetensors"),
    ],
)
def test_a_mask_has_any_of_these_names_types_and_files(
    suffix: str, dtype: torch.dtype, name: str, tmp_path: Path
) -> None:
    wanted = masks()
    path = saved({f"{layer}{suffix}": mask.to(dtype) for layer, mask in wanted.items()}, tmp_path, name)
    assert_equal(ls.masks(import_subnet_(path, Small(), weights="signed_constant")), wanted)


def test_without_weights_in_the_file_they_are_drawn_from_the_seed_and_the_rest_is_neutral(tmp_path: Path) -> None:
    path = saved(masks(), tmp_path)
    given = Small()
    given.load_state_dict(state())
    network = import_subnet_(path, given, weights="kaiming_normal", seed=5)
    drawn = {
        f"{name}.weight": draw_weights("kaiming_normal", layer.weight.shape, seed=5, layer=name)
        for name, layer in ls.masked_layers(network)
    }
    neutral = {"bn1.weight": 1.0, "bn1.bias": 0.0, "bn1.running_mean": 0.0, "bn1.running_var": 1.0, "fc.bias": 0.0}
    rest = network.state_dict()
    assert all(torch.equal(rest[key], value) for key, value in drawn.items())
    assert all(bool((rest[key] == value).all()) for key, value in neutral.items())
    assert network.get_submodule("conv1").origin == ("kaiming_normal", 5, "conv1")


def test_weights_in_the_file_become_the_weights_of_the_network(tmp_path: Path) -> None:
    theirs, wanted = state(), masks()
    path = saved(theirs | {f"{layer}.mask": mask for layer, mask in wanted.items()}, tmp_path)
    network = import_subnet_(path, Small())
    assert_equal(ls.masks(network), wanted)
    assert_equal({key: value for key, value in network.state_dict().items() if key in theirs}, theirs)
    assert network.get_submodule("conv1").origin is None
    assert all(network.get_submodule(name).weight.requires_grad for name in ("conv1", "fc"))


def test_statistics_without_weights_are_imported_and_a_layer_without_a_mask_keeps_its_weights(tmp_path: Path) -> None:
    statistics = {key: value for key, value in state().items() if "running" in key}
    wanted = {"conv1": masks()["conv1"]}
    network = import_subnet_(saved(wanted | statistics, tmp_path), Small(), weights="signed_constant")
    assert_equal({key: network.state_dict()[key] for key in statistics}, statistics)
    assert_equal(ls.masks(network), wanted | {"fc": torch.ones(2, 4, dtype=torch.bool)})


def test_a_network_pruned_by_torch_gives_equal_logits(tmp_path: Path) -> None:
    theirs = Small()
    theirs.load_state_dict(state())
    prune.l1_unstructured(theirs.conv1, "weight", amount=0.7)  # type: ignore[no-untyped-call]
    parallel = nn.DataParallel(theirs).state_dict()
    assert "module.conv1.weight_orig" in parallel
    network = ls.unmask_(import_subnet_(saved(parallel, tmp_path), Small())).eval()
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(network(images), theirs.eval()(images))
