"""Any file loads or is refused with one short error, in time and memory proportional to its size.

The digest detects damage, as test_container.py shows. Anybody can write a valid digest, so these files have one.
"""

from __future__ import annotations

import copy
import resource
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_subnets import (
    NAMED,
    WITH_NORMS,
    changed,
    content,
    masked,
    masked_with_norms,
    resealed,
    rewrite,
    saved,
    small,
    train_,
)
from torch import Tensor

import lightning_subnets as ls
from lightning_subnets.commands.subnets import main
from lightning_subnets.masking import initialization
from lightning_subnets.subnet_file import load_subnet
from lightning_subnets.subnet_file.mask_codec import CODES

Rng = np.random.Generator
# Changes of each kind to each of the five files: 25 in make test, 75 in make test-all, 2,000 in make test-long.
COUNTS = [25, pytest.param(75, marks=pytest.mark.thorough), pytest.param(2000, marks=pytest.mark.long)]


def files(folder: Path) -> dict[str, Path]:
    norms = masked_with_norms(ls.Random(0.3), weights="kaiming_normal")
    options: dict[str, Any] = {"keep_dense": ["features.0", "classifier.1"], "densities": {"classifier.5": 0.9}}
    partly = ls.mask_(small(), ls.EdgePopup(0.3), weights="scaled_kaiming_normal", **options)
    tasks = ls.SupSup(ls.mask_(small(), ls.Multicoated(0.5, signed=True, frozen=0.3)))
    for name in ("a", "b"):
        train_(tasks.net, 1)
        tasks.add(name, accuracy=0.5)
    tasks.save(folder / "tasks.subnet", network=NAMED)
    return {
        "tasks": folder / "tasks.subnet",
        "drawn": saved(folder / "drawn.subnet"),
        "signs": saved(folder / "signs.subnet", masked(ls.IteRand(0.3, every=1), weights="signed_constant")),
        "norms": saved(folder / "norms.subnet", norms, network=WITH_NORMS),
        "partly": saved(folder / "partly.subnet", partly),
    }


def check(path: Path, what: str) -> bool:
    """Return whether a file loads, after checking that it is otherwise refused with a short error and soon."""
    loaded = False
    ways: list[Callable[[Path], object]] = [load_subnet, partial(load_subnet, masked=True)]
    ways += [partial(load_subnet, task="a", masked=True), ls.SupSup.load]
    for way in ways:
        begin = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                way(path)
            loaded = True
        except ls.UserError as error:
            message = str(error).replace(str(path), "")
            assert len(message) < 600, what
            assert message.isprintable(), what
        except BaseException as error:
            raise AssertionError(what) from error
        assert time.process_time() - begin < 10, what
    return loaded


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 2**31, 2**63, -(2**63), 10**4000, 0.0, -0.0, 0.5, 1e-300, 1e300, -1e300, 1e-45,
    "", "x", "x" * 5000, "\n\x1b[2J\0", "\ud800", "é", [], [0], [1] * 5000, [2**31 - 1] * 5000, {}, {"x": 1}, {"": []},
    *CODES, "drawn", "signs", "values", "sign", "weight", "float16", "float64", "bfloat16",
    *initialization.DISTRIBUTIONS, *ls.methods.__all__,
    "torchvision.models.resnet18", "torchvision.models.googlenet", "timm.models.vit_tiny_patch16_224", "os.system",
    "torchvision.models.squeezenet1_1", "lightning_subnets.networks.Conv4", "lightning_subnets.networks.ResNet20",
    "torchvision.models.detection.fasterrcnn_resnet50_fpn", "builtins.eval",
    float("inf"), float("nan"), deep(100),
]  # fmt: skip
KEYS = ["weights", "pretrained", "num_classes", "width_multiplier", "image_size", "in_channels", "density", "masks",
        "shuffle", "absolute", "allocation", "sha256", "version", "samples", "every", "self", "\n\x1b"]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def pick(choices: Any, rng: Rng) -> Any:
    return choices[int(rng.integers(len(choices)))]


def change_header_(header: dict[str, Any], rng: Rng) -> str:
    """Change, remove, rename or add one value anywhere in the header."""
    path = pick(places(header)[1:], rng)
    owner, key = at(header, path[:-1]), path[-1]
    old, kind = owner[key], int(rng.integers(7))
    if kind == 0:
        del owner[key]
    elif kind == 1 and isinstance(owner, dict):
        owner[pick(KEYS, rng)] = copy.deepcopy(pick(VALUES, rng))
    elif kind == 2 and isinstance(owner, dict):
        owner[pick([*KEYS, *owner], rng)] = owner.pop(key)
    elif kind == 3 and isinstance(old, int | float):
        owner[key] = pick([old + 1, old - 1, -old, old * 2, old / 2, old * 10**6, float(old)], rng)
    elif kind == 4 and isinstance(old, list | dict):
        owner[key] = copy.deepcopy(at(header, pick(places(header), rng)))
    else:
        owner[key] = copy.deepcopy(pick(VALUES, rng))
    return f"{path}, {kind}: {owner.get(key, 'gone') if isinstance(owner, dict) else owner!s:.100}"


def change_tensors_(tensors: dict[str, Tensor], rng: Rng) -> str:
    """Change, remove, rename, convert or reshape one tensor, or add another."""
    name, kind = pick(sorted(tensors), rng), int(rng.integers(9))
    old = tensors[name]
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        other = pick(
            ["mask/x", "state/x", "x", "", "signs/features.0.weight", "values/features.0.weight", "\n\x1b"], rng
        )
        tensors[other] = old.clone()
    elif kind == 2:
        tensors[pick(sorted(tensors), rng)] = tensors.pop(name).clone()
    elif kind == 3:
        tensors[name] = old.to(pick([torch.uint8, torch.bool, torch.float32, torch.float64, torch.bfloat16], rng))
    elif kind == 4:
        tensors[name] = old.flatten()[: int(rng.integers(old.numel() + 1))].clone()
    elif kind == 5:
        shapes = [old[None], old.repeat(2) if old.dim() == 1 else old, old.new_zeros(0), old.new_zeros(())]
        tensors[name] = pick(shapes, rng)
    elif kind == 6 and old.is_floating_point():
        tensors[name] = old.clone().fill_(pick([torch.nan, torch.inf, -0.0, 1e-45], rng))
    elif old.numel():
        flat = old.flatten().clone().view(torch.uint8)
        for _ in range(int(rng.integers(1, 4))):
            flat[int(rng.integers(len(flat)))] = int(rng.integers(256))
        tensors[name] = flat.view(old.dtype).view(old.shape)
    return f"{name!r}, {kind}"


@pytest.mark.parametrize("count", COUNTS)
def test_a_changed_file_with_a_valid_digest_loads_or_is_refused(count: int, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(1), tmp_path / "a.subnet"
    found: list[bool] = []
    for name, file in files(tmp_path).items():
        check(file, name)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        whole = content(file)
        for index in range(count):
            header, tensors = copy.deepcopy(whole)
            done = []
            for _ in range(rng.integers(1, 3)):
                done.append(change_header_(header, rng) if rng.random() < 0.6 else change_tensors_(tensors, rng))
            rewrite(path, header, tensors)
            found.append(check(path, f"{name} {index}: {done}"))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 300_000
    assert 0.02 < sum(found) / len(found) < 0.5


TEXTS = ["", "{", "[", "9" * 5000, "NaN", "1e999", '\\"', "\\\\u0000", "\\ud800", ",", "[" * 3000, str(deep(900)), "\n"]


@pytest.mark.parametrize("count", COUNTS)
def test_a_header_of_any_text_is_refused(count: int, tmp_path: Path) -> None:
    """Change the JSON itself, of safetensors and of the header."""
    rng, path = np.random.default_rng(2), tmp_path / "a.subnet"
    whole = files(tmp_path)["drawn"].read_bytes()
    length = int.from_bytes(whole[:8], "little")
    text = whole[8 : 8 + length].decode()
    for index in range(count):
        start = int(rng.integers(400, len(text) - 20))
        old = text[start : start + int(rng.integers(1, 20))]
        new = pick([*TEXTS, old * 2], rng)
        path.write_bytes(resealed(whole, old, new))
        check(path, f"{index}: {old!r} {new!r:.40}")


def test_inspect_computes_the_density_from_the_numbers_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "a.subnet")
    with changed(path) as (header, _):
        header["density"] = 0.987
    main(["inspect", str(path)])
    kept = sum(layer["kept"] for layer in header["layers"].values())
    assert f"{kept / 3653:.3%}: {kept:,} of 3,653" in capsys.readouterr().out
