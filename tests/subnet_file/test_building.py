"""A file can name known builders only, with plain arguments, and a network as large as the file can describe."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from small_subnets import small
from torch import nn

import lightning_subnets as ls
from lightning_subnets import networks
from lightning_subnets.subnet_file.building import (
    _NoInitialization,
    build,
    builder,
    check_arguments,
    difference,
    identify,
    num_elements,
)

PLENTY = 10**9
RESNET, SHUFFLENET = "torchvision.models.resnet18", "torchvision.models.shufflenet_v2_x0_5"


@pytest.mark.parametrize(
    "name",
    [
        SHUFFLENET,
        "torchvision.models.shufflenetv2.shufflenet_v2_x0_5",
        "timm.models.resnet26",
        "timm.models.resnet.resnet26",
        "lightning_subnets.networks.small_stem_resnet",
        "lightning_subnets.networks.small_stem.small_stem_resnet",
    ],
)
def test_a_network_is_built_by_either_of_its_names(name: str) -> None:
    assert builder(name) is not None
    assert num_elements(build(name, {}, at_most=PLENTY)) > 1000


@pytest.mark.parametrize(
    "name",
    [
        "torchvision.models.detection.fasterrcnn_resnet50_fpn",
        "torchvision.models.get_model",
        "torchvision.models.resnet18.__call__",
        "torchvision.models.vgg.resnet18",
        "torchvision",
        "torchvision.models.",
        "timm.models.create_model",
        "timm.models.hf-hub:timm/resnet26",
        "timm.layers.resnet26",
        "lightning_subnets.networks.conv._Conv",
        "lightning_subnets.methods.Random",
        "lightning_subnets.networks.os.Conv2",
        "lightning_subnets.networks.Conv2\n" + "x" * 10**6,
    ],
)
def test_any_other_name_in_the_three_packages_is_refused(name: str) -> None:
    with pytest.raises(ls.UserError, match=r"has no network '") as error:
        build(name, {}, at_most=PLENTY)
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["os.system", "torch.hub.load", "", ".", "torchvision_.models.resnet18"])
def test_a_name_in_another_package_is_never_imported(name: str) -> None:
    assert builder(name) is None
    with pytest.raises(ls.UserError, match="build it yourself"):
        build(name, {"command": "true"}, at_most=PLENTY)


@pytest.mark.parametrize(
    "arguments",
    [
        {"weights": "DEFAULT"},
        {"weights_backbone": None},
        {"pretrained": False},
        {"pretrained_cfg": "a"},
        {"pretrained\n\x1b" + "x" * 10**5: 1},
        {"checkpoint_path": "/etc/passwd"},
        {"cache_dir": "/tmp"},
        {"num_classes": 10**5 + 1},
        {"num_classes": -(10**5) - 1},
        {"num_classes": 10**4000},
        {"num_classes": float("inf")},
        {"num_classes": float("nan")},
        {"layers": [10**5, 1]},
        {"layers": [10**4000, 0.5]},
        {"layers": [1] * 1001},
        {"layers": [[1]]},
        {"layers\n" + "x" * 10**5: {"a": "x" * 10**6}},
    ],
)
def test_an_argument_that_downloads_something_or_is_absurd_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ls.UserError, match="the builder's argument") as error:
        check_arguments(arguments)
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()


def test_plain_arguments_are_accepted() -> None:
    check_arguments(
        {"num_classes": 21_841, "drop": 0.5, "layers": [3, 4, 6, 3], "pool": "avg", "bias": True, "x": None}
    )


@pytest.mark.parametrize("arguments", [{"no_such": 1}, {"num_classes": -1}, {"norm_layer": "x"}])
def test_arguments_that_the_builder_refuses_are_one_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(ls.UserError, match=r"torchvision.models.resnet18\(.*\) cannot be built: ") as error:
        build(RESNET, arguments, at_most=PLENTY)
    assert str(error.value).isprintable()


def test_building_draws_no_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state()
    for name in ("torchvision.models.googlenet", "timm.models.vit_tiny_patch16_224", "timm.models.resnet26"):
        build(name, {}, at_most=PLENTY)
    monkeypatch.setattr(networks, "Conv2", lambda: nn.Linear(len(torch.randperm(3)), 2))
    build("lightning_subnets.networks.Conv2", {}, at_most=PLENTY)
    assert torch.equal(torch.get_rng_state(), state)


def test_uninitialized_memory_does_not_keep_a_builder_from_ending() -> None:
    """``trunc_normal_`` redraws while a number is out of bounds, which uninitialized memory may be for ever."""
    weight = torch.full((100, 100), 1e9)
    with _NoInitialization():
        nn.init.trunc_normal_(weight, std=0.01)
        nn.init.kaiming_uniform_(weight)
        weight.uniform_(2, 3)
    assert not weight.any()


def test_a_network_is_built_up_to_its_exact_size() -> None:
    exactly = num_elements(build(SHUFFLENET, {}, at_most=PLENTY))
    build(SHUFFLENET, {}, at_most=exactly)
    with pytest.raises(ls.UserError, match=rf"more than {exactly - 1:,} numbers, too many for the size"):
        build(SHUFFLENET, {}, at_most=exactly - 1)


SWIN = "timm.models.swin_tiny_patch4_window7_224"
ABSURD: list[tuple[str, dict[str, Any]]] = [
    (RESNET, {"num_classes": 10**5}),
    ("torchvision.models.vit_b_16", {"image_size": 16 * 6000}),
    ("timm.models.vit_tiny_patch16_224", {"img_size": 16 * 6000}),
    ("timm.models.vit_tiny_patch16_224", {"depth": 10**4, "embed_dim": 3, "num_heads": 1}),
    (SWIN, {"img_size": 1600, "window_size": 200}),
    (SWIN, {"window_size": 56, "depths": [500], "embed_dim": 2, "num_heads": [1]}),
    ("timm.models.convnext_atto", {"depths": [10**6] * 100}),
    ("timm.models.convnext_atto", {"depths": [10**4] * 4, "dims": [1, 1, 1, 1]}),
    ("timm.models.resnet26", {"layers": [10**4] * 4}),
    ("lightning_subnets.networks.Conv2", {"image_size": 10**5}),
    ("lightning_subnets.networks.Conv2", {"width_multiplier": 1e5}),
    ("lightning_subnets.networks.AlexNet", {"channels": [10**4] * 5}),
]
_PROGRAM = """
import resource, sys, time, warnings
sys.path.insert(0, sys.argv[1])
from lightning_subnets.errors import UserError
from lightning_subnets.subnet_file.building import build
from test_building import ABSURD
build("timm.models.resnet26", {}, at_most=10**9)  # imports are not measured
warnings.simplefilter("error")
for name, arguments in ABSURD[:: int(sys.argv[2])]:
    used, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        build(name, arguments, at_most=8_000_000)
        outcome = "built"
    except UserError as error:
        outcome = "refused" if len(str(error)) < 400 else "long"
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used
    print(name, outcome, taken // 1024, round(time.process_time() - begin))
"""


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
def test_an_absurd_network_is_refused_before_it_takes_memory(every: int) -> None:
    """A file of 2 kB can describe 8,000,000 numbers, which take 32 MB."""
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, here, str(every)], capture_output=True, text=True, check=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30)),
    )  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(ABSURD[::every])
    for name, outcome, megabytes, seconds in lines:
        assert (name, outcome) == (name, "refused")
        assert int(megabytes) < 150, name
        assert int(seconds) < 10, name


def test_a_network_of_too_many_modules_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "Conv2", lambda: nn.Sequential(*(nn.ReLU() for _ in range(5001))))
    with pytest.raises(ls.UserError, match="more than 5,000 modules"):
        build("lightning_subnets.networks.Conv2", {}, at_most=PLENTY)


def test_a_stock_network_is_identified_with_its_outputs_masked_or_not() -> None:
    network = torchvision.models.shufflenet_v2_x0_5(num_classes=7)
    assert identify(network) == (SHUFFLENET, {"num_classes": 7})
    ls.mask_(network, ls.EdgePopup(density=0.5))
    assert identify(network) == (SHUFFLENET, {"num_classes": 7})


class Renorm(nn.modules.batchnorm._BatchNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * super().forward(x)


def test_another_network_is_not_identified() -> None:
    changed = torchvision.models.shufflenet_v2_x0_5()
    changed.conv1[0].stride = (1, 1)
    renormed = torchvision.models.shufflenet_v2_x0_5()
    renormed.conv1[1] = Renorm(24)
    scaled = nn.Linear(2, 2)
    scaled.register_parameter("zoom", nn.Parameter(torch.tensor(1.0)))
    for network in (small(), timm.create_model("resnet26"), changed, renormed, scaled):
        assert identify(network) is None


def test_what_changes_no_number_does_not_keep_a_network_from_being_saved() -> None:
    of_several_processes = TorchSyncBatchNorm()
    synchronized = of_several_processes.apply(torchvision.models.shufflenet_v2_x0_5())
    assert identify(synchronized) == (SHUFFLENET, {})
    assert identify(of_several_processes.revert(synchronized)) == (SHUFFLENET, {})
    saving_memory: Any = timm.create_model("resnet26")
    saving_memory.set_grad_checkpointing()
    assert difference(timm.create_model("resnet26"), saving_memory) is None


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor


def test_the_first_difference_of_two_networks_is_named() -> None:
    named = small()
    named.remark = "mine"  # type: ignore[assignment]
    assert difference(small(), named) is None
    assert difference(small(), ls.mask_(small(), ls.EdgePopup(density=0.5))) is None
    stem = torchvision.models.resnet18()
    stem.conv1.stride = (1, 1)
    one, two = nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU(), nn.ReLU())
    for expected, network, message in (
        (torchvision.models.resnet18(), stem, "extra_repr of 'conv1' is '3, 64,"),
        (Scale(1.0), Scale(2.0), "factor of 'the network' is 2.0 instead of 1.0"),
        (two, one, "it has no module '1'"),
        (one, two, "it also has a module '1'"),
        (nn.Identity(), nn.ReLU(), "class of 'the network' is 'ReLU' instead of 'Identity'"),
    ):
        assert message in str(difference(expected, network))
