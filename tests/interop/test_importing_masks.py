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
from lightning_subnets.masking.initialization import draw_weights, stream_of


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


def by_weight(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{layer}.weight": mask for layer, mask in masks.items()}


@pytest.mark.parametrize(
    ("suffix", "dtype", "name"),
    [
        ("", torch.bool, "masks.pt"),
        (".mask", torch.uint8, "masks.safetensors"),
        (".weight_mask", torch.int64, "masks.pt"),
        (".scores", torch.float32, "masks.safetensors"),
        ("", torch.float32, "masks.pt"),  # open_lth, and below
        (".weight", torch.float32, "masks.pt"),
        (".weight", torch.int32, "masks.pt"),
        (".weight.mask", torch.bool, "masks.safetensors"),
    ],
)
def test_a_mask_has_any_of_these_names_types_and_files(
    suffix: str, dtype: torch.dtype, name: str, tmp_path: Path
) -> None:
    wanted = masks()
    path = saved({f"{layer}{suffix}": mask.to(dtype) for layer, mask in wanted.items()}, tmp_path, name)
    assert_equal(ls.masks(import_subnet_(path, Small(), weights="signed_constant")), by_weight(wanted))


def test_without_weights_in_the_file_they_are_drawn_from_the_seed_and_the_rest_is_neutral(tmp_path: Path) -> None:
    path = saved(masks(), tmp_path)
    given = Small()
    given.load_state_dict(state())
    network = import_subnet_(path, given, weights="kaiming_normal", seed=5)
    drawn = {
        name: draw_weights("kaiming_normal", each.weight.shape, seed=5, stream=stream_of(name))
        for name, each in ls.masked_weights(network).items()
    }
    neutral = {"bn1.weight": 1.0, "bn1.bias": 0.0, "bn1.running_mean": 0.0, "bn1.running_var": 1.0, "fc.bias": 0.0}
    rest = network.state_dict()
    assert all(torch.equal(rest[key], value) for key, value in drawn.items())
    assert all(bool((rest[key] == value).all()) for key, value in neutral.items())
    assert ls.masked_weights(network)["conv1.weight"].origin == ("kaiming_normal", 5, "conv1", 1.0)


def test_weights_in_the_file_become_the_weights_of_the_network(tmp_path: Path) -> None:
    theirs, wanted = state(), masks()
    path = saved(theirs | {f"{layer}.mask": mask for layer, mask in wanted.items()}, tmp_path)
    network = import_subnet_(path, Small())
    assert_equal(ls.masks(network), by_weight(wanted))
    assert_equal({key: value for key, value in network.state_dict().items() if key in theirs}, theirs)
    assert ls.masked_weights(network)["conv1.weight"].origin is None
    assert all(each.weight.requires_grad for each in ls.masked_weights(network).values())


def test_statistics_without_weights_are_imported_and_a_layer_without_a_mask_keeps_its_weights(tmp_path: Path) -> None:
    statistics = {key: value for key, value in state().items() if "running" in key}
    wanted = {"conv1": masks()["conv1"]}
    network = import_subnet_(saved(wanted | statistics, tmp_path), Small(), weights="signed_constant")
    assert_equal({key: network.state_dict()[key] for key in statistics}, statistics)
    assert_equal(ls.masks(network), by_weight(wanted | {"fc": torch.ones(2, 4, dtype=torch.bool)}))


def test_a_network_pruned_by_torch_gives_equal_logits(tmp_path: Path) -> None:
    theirs = Small()
    theirs.load_state_dict(state())
    prune.l1_unstructured(theirs.conv1, "weight", amount=0.7)  # type: ignore[no-untyped-call]
    parallel = nn.DataParallel(theirs).state_dict()
    assert "module.conv1.weight_orig" in parallel
    network = ls.unmask_(import_subnet_(saved(parallel, tmp_path), Small())).eval()
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(network(images), theirs.eval()(images))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "net.", "model._orig_mod.module."])
def test_the_prefixes_of_wrappers_are_removed(prefix: str, tmp_path: Path) -> None:
    theirs, wanted = state(), masks()
    tensors = theirs | {f"{layer}.weight_mask": mask for layer, mask in wanted.items()}
    path = saved({f"{prefix}{key}": tensor for key, tensor in tensors.items()}, tmp_path)
    network = import_subnet_(path, Small())
    assert_equal(ls.masks(network), by_weight(wanted))
    assert torch.equal(ls.raw_weight(network.get_submodule("fc")), theirs["fc.weight"])


def test_a_name_of_the_network_is_no_prefix(tmp_path: Path) -> None:
    network = nn.Sequential()
    network.add_module("model", Small())
    wanted = {f"model.{layer}": mask for layer, mask in masks().items()}
    found = import_subnet_(saved(wanted, tmp_path), network, weights="signed_constant")
    assert_equal(ls.masks(found), by_weight(wanted))


@pytest.mark.parametrize("form", ["{}", "{}.mask", "{}_mask", "{}_scores", "scores of ours"])
def test_masks_and_scores_of_attention_are_imported(form: str, tmp_path: Path) -> None:
    def layer() -> nn.Module:
        return nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.0)

    if form == "scores of ours":
        ours = ls.mask_(layer(), ls.EdgePopup(0.3), weights="kaiming_normal")
        again = import_subnet_(saved(ours.state_dict(), tmp_path), layer(), density=0.3)
        assert_equal(again.state_dict(), ours.state_dict())
        return
    shapes = {name: each.weight.shape for name, each in ls.masked_weights(ls.mask_(layer(), ls.Dense())).items()}
    wanted = {name: torch.rand(shape) < 0.4 for name, shape in shapes.items()}
    assert "self_attn.in_proj_weight" in wanted
    names = {name: form.format(name) for name in wanted}
    if form == "{}_scores":
        names = {name: name.replace(".weight", ".") + "scores" if "in_proj" not in name else name for name in names}
        names["self_attn.in_proj_weight"] = "self_attn.in_proj_weight_scores"
    network = import_subnet_(
        saved({names[name]: mask.float() for name, mask in wanted.items()}, tmp_path), layer(), weights="kaiming_normal"
    )
    assert_equal(ls.masks(network), wanted)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight


def test_a_tied_weight_is_drawn_once(tmp_path: Path) -> None:
    path = saved({"first.mask": torch.eye(4)}, tmp_path)
    network = import_subnet_(path, Tied(), weights="kaiming_normal", seed=5)
    drawn = draw_weights("kaiming_normal", torch.Size((4, 4)), seed=5, stream="first")
    assert torch.equal(ls.raw_weight(network.get_submodule("last")), drawn)
    assert torch.equal(ls.unmask_(network).get_parameter("last.weight"), drawn * torch.eye(4))


def test_the_state_of_a_masked_network_with_a_tied_weight_can_be_imported(tmp_path: Path) -> None:
    ours = ls.mask_(Tied(), ls.EdgePopup(0.3), seed=3)
    torch.save(ours.state_dict(), tmp_path / "ours.pt")
    again = import_subnet_(tmp_path / "ours.pt", Tied(), density=0.3)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())
    torch.save(dict(reversed(ours.state_dict().items())), tmp_path / "reversed.pt")
    again = import_subnet_(tmp_path / "reversed.pt", Tied(), density=0.3)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())
    contradicting = ours.state_dict() | {"last.scores": torch.ones(4, 4)}
    torch.save(contradicting, tmp_path / "other.pt")
    with pytest.raises(ls.UserError, match=r"last.scores is in the file under another name too"):
        import_subnet_(tmp_path / "other.pt", Tied(), density=0.3)
