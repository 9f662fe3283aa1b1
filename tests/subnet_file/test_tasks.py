"""One file holds many tasks: each is given back to the bit, and the file says what it has."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_subnets import NAMED, WITH_NORMS, changed, content, differing, saved, small, train_, with_norms
from torch import nn

import lightning_subnets as ls
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main
from lightning_subnets.masking.method import Method
from lightning_subnets.subnet_file import masks_in
from lightning_subnets.subnet_file.container import Container

# How the network of each kind is masked, its builder, and the shape of its images.
KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, object], tuple[int, ...]]] = {
    "edge-popup": (lambda: masked(small(), ls.EdgePopup(0.1)), NAMED, (1, 8, 8)),
    "flips, levels and frozen edges": (
        lambda: masked(small(), ls.Multicoated(0.5, signed=True, frozen=0.3)),
        NAMED,
        (1, 8, 8),
    ),
    "gain": (lambda: masked(small(), ls.Biprop(0.3)), NAMED, (1, 8, 8)),
    "own densities": (
        lambda: ls.mask_(
            small(),
            ls.EdgePopup(0.1),
            weights="scaled_kaiming_normal",
            densities={"features.*": 0.5},
            keep_dense=["*.5"],
        ),
        NAMED,
        (1, 8, 8),
    ),
    "running statistics": (lambda: masked(with_norms(), ls.EdgePopup(0.3)), WITH_NORMS, (3, 8, 8)),
    "trained norms": (
        lambda: ls.mask_(with_norms(), ls.EdgePopup(0.3), norms="trained"),
        WITH_NORMS,
        (3, 8, 8),
    ),
}


def masked(network: nn.Module, method: Method) -> nn.Module:
    return ls.mask_(network, method, weights="scaled_kaiming_normal", seed=3)


def learn_(tasks: ls.SupSup, names: str, shape: tuple[int, ...]) -> ls.SupSup:
    """Learn a task for each letter; its place in the alphabet is the number of training steps."""
    for name in names:
        train_(tasks.net, ord(name) - ord("a") + 1, shape)
        tasks.add(name, accuracy=0.25)
    return tasks


@pytest.fixture
def file(tmp_path: Path) -> Path:
    learn_(ls.SupSup(KINDS["edge-popup"][0]()), "abc", (1, 8, 8)).save(tmp_path / "tasks.subnet", network=NAMED)
    return tmp_path / "tasks.subnet"


@pytest.mark.parametrize(("build", "named", "shape"), KINDS.values(), ids=KINDS)
def test_a_file_gives_back_every_task_and_goes_on_as_if_it_had_never_been_closed(
    build: Callable[[], nn.Module], named: dict[str, object], shape: tuple[int, ...], tmp_path: Path
) -> None:
    path, images = tmp_path / "tasks.subnet", torch.randn(8, *shape)
    tasks = learn_(ls.SupSup(build()), "abc", shape)
    tasks.save(path, network=named)
    again = ls.SupSup.load(path)
    assert again.names == ["a", "b", "c"]
    assert again.slopes(images) == tasks.slopes(images)
    for name in tasks.names:
        assert not differing(again.network(name), tasks.network(name))
        assert not differing(ls.load_subnet(path, task=name), tasks.network(name))
        one = ls.load_subnet(path, task=name, masked=True)
        assert not differing(ls.unmask_(one), tasks.network(name))
    assert not differing(again.net, build())
    again.save(tmp_path / "again.subnet", network=named)
    assert (tmp_path / "again.subnet").read_bytes() == path.read_bytes()
    into = ls.SupSup.load(path, network=build())
    learn_(tasks, "d", shape).save(path, network=named, force=True)
    for resumed in (again, into):
        learn_(resumed, "d", shape).save(tmp_path / "again.subnet", network=named, force=True)
        assert (tmp_path / "again.subnet").read_bytes() == path.read_bytes()


def test_a_further_task_takes_little_more_than_the_entropy_of_its_mask(tmp_path: Path) -> None:
    named = {"class_path": NAMED["class_path"], "init_args": {"image_size": 8, "in_channels": 1}}
    network = ls.networks.Conv2(image_size=8, in_channels=1)
    tasks, sizes = ls.SupSup(masked(network, ls.EdgePopup(0.1))), []
    for name in "abc":
        learn_(tasks, name, (1, 8, 8)).save(tmp_path / "tasks.subnet", network=named, force=True)
        sizes.append((tmp_path / "tasks.subnet").stat().st_size)
    entropy = -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9)) * 367_680 / 8
    for size in (sizes[1] - sizes[0], sizes[2] - sizes[1]):
        assert entropy < size < 1.01 * entropy + 1100


def test_a_file_with_tasks_is_read_task_by_task(file: Path, tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain.subnet")
    for read in (ls.load_subnet, masks_in, Container):
        with pytest.raises(ls.UserError, match=r"it has 3 tasks, 'a', 'b', 'c': name one, load_subnet\(path, task="):
            read(file)
    with pytest.raises(ls.UserError, match=r"unknown task 'z'.*Known: a, b, c\."):
        ls.load_subnet(file, task="z")
    with pytest.raises(ls.UserError, match="it has no tasks, and task 'a' is named"):
        ls.load_subnet(plain, task="a")
    with pytest.raises(ls.UserError, match="it has no tasks: load_subnet"):
        ls.SupSup.load(plain)
    for other in (masked(small(), ls.EdgePopup(0.2)), ls.mask_(small(), ls.EdgePopup(0.1), seed=4)):
        with pytest.raises(ls.UserError, match="give the network that the tasks were trained on"):
            ls.SupSup.load(file, network=other)
    with pytest.raises(ls.UserError, match="there are no tasks to save"):
        ls.SupSup(masked(small(), ls.EdgePopup(0.1))).save(tmp_path / "none.subnet", network=NAMED)
    with pytest.raises(ls.UserError, match="force=True"):
        ls.SupSup.load(file).save(file, network=NAMED)


@pytest.mark.parametrize(
    ("method", "options", "name"),
    [
        (ls.EdgePopup(0.1), {"keep_dense": ["classifier.*"]}, "classifier.1.weight"),
        (ls.EdgePopup(0.1), {"keep_dense": ["*.0", "*.3"]}, "features.0.weight"),
        (ls.PartiallyFrozen(0.1), {"densities": {"features.*": 0.5}}, "features.0.weight"),
    ],
    ids=["one weight", "several", "frozen edges"],
)
def test_tasks_go_only_into_a_network_that_is_masked_in_the_same_way(
    method: Method, options: dict[str, Any], name: str, tmp_path: Path
) -> None:
    def network(options: dict[str, Any]) -> nn.Module:
        return ls.mask_(small(), method, weights="signed_constant", **options)

    path = tmp_path / "tasks.subnet"
    for there, here in ((options, {}), ({}, options)):
        learn_(ls.SupSup(network(there)), "ab", (1, 8, 8)).save(path, network=NAMED, force=True)
        assert ls.SupSup.load(path, network=network(there)).names == ["a", "b"]
        with pytest.raises(ls.UserError, match=f"the weight '{name}' is masked in another way .* of the first task"):
            ls.SupSup.load(path, network=network(here))


def test_tasks_that_contradict_each_other_are_refused(file: Path) -> None:
    whole = file.read_bytes()
    changes: dict[str, Callable[[dict[str, object], dict[str, torch.Tensor]], object]] = {
        "two tasks have the same one": lambda header, _: header["tasks"][1].update(name="a"),  # type: ignore[index]
        "a task has no name": lambda header, _: header["tasks"][1].update(name=""),  # type: ignore[index]
        "masks for 4 of 5 weights": lambda header, _: header["tasks"][1]["layers"].pop(),  # type: ignore[index]
        "cannot keep 99999": lambda header, _: header["tasks"][1]["layers"][0].update(kept=99999),  # type: ignore[index]
        "do not have the digest": lambda header, _: header["tasks"][2].update(masks="0" * 64),  # type: ignore[index]
        "of all tasks together do not": lambda header, _: header["digests"].update(masks="0" * 64),  # type: ignore[attr-defined]
        "'features.0.weight' together, and the file states 7": lambda header, _: header["layers"][
            "features.0.weight"
        ].update(kept=7),  # type: ignore[index]
        "'tasks/3/mask/features.0.weight' belongs to no part": lambda _, tensors: tensors.update(
            {"tasks/3/mask/features.0.weight": tensors["tasks/1/mask/features.0.weight"].clone()}
        ),
        "'tasks/1/x' belongs to no part": lambda _, tensors: tensors.update({"tasks/1/x": torch.zeros(1)}),
        "'mask/features.0.weight' is missing": lambda _, tensors: tensors.pop("tasks/2/mask/features.0.weight"),
    }
    for message, change in changes.items():
        file.write_bytes(whole)
        with changed(file) as parts:
            change(*parts)
        with pytest.raises(ls.UserError, match=message):
            ls.SupSup.load(file)


def test_memory_is_bounded_by_the_size_of_the_file(file: Path) -> None:
    with changed(file) as (header, _):
        task = header["tasks"][0] | {"layers": [{"kept": 0, "code": ""}]}
        header["layers"] = {"a": header["layers"]["features.0.weight"] | {"shape": [1000, 5000]}}
        header["tasks"] = [task | {"name": str(index)} for index in range(1000)]
    with pytest.raises(ls.UserError, match="cannot hold 5,000,000,000 weights"):
        ls.SupSup.load(file)


def test_the_commands_know_a_file_with_tasks(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: Callable[..., str]
) -> None:
    main(["inspect", str(file)])
    said = " ".join(capsys.readouterr().out.split())
    for part in ("tasks 3: a, b, c", " a task", "density 10.", "25.00%, 25.00% or more in each of 3 tasks"):
        assert part in said
    assert "3 tasks, 'a', 'b', 'c'" in mistake(["export", str(file), str(tmp_path / "a.pt")], main)
    assert "3 tasks, 'a', 'b', 'c'" in mistake(["test", "--ckpt_path", str(file), "-c", "quickstart"], lightning)
    assert "3 tasks, 'a', 'b', 'c'" in mistake(["export", str(file), str(tmp_path / "README.md")], main)
    card = ["export", str(file), str(tmp_path / "README.md"), "--task=b"]
    assert "export --task=b to a .subnet file first" in mistake(card, main)
    assert "unknown task 'z'" in mistake(["export", str(file), str(tmp_path / "a.pt"), "--task=z"], main)
    assert "subnets export --task" in mistake(["inspect", str(file), "--against", str(file)], main)
    main(["export", str(file), str(tmp_path / "b.pt"), "--task=b"])
    main(["export", str(file), str(tmp_path / "b.subnet"), "--task=b"])
    expected = ls.load_subnet(file, task="b")
    loaded = small()
    loaded.load_state_dict(torch.load(tmp_path / "b.pt", weights_only=True))
    assert not differing(loaded, expected)
    assert not differing(ls.load_subnet(tmp_path / "b.subnet"), expected)
    assert content(tmp_path / "b.subnet")[0]["accuracy"] == {"test_accuracy": 0.25}
    assert "it has no tasks" in mistake(
        ["export", str(tmp_path / "b.subnet"), str(tmp_path / "c.pt"), "--task=b"], main
    )
