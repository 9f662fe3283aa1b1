"""``subnets export --int8``: the images that it calibrates with, what it prints, and its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from repository import ROOT

from lightning_subnets import Dense, mask_, save_subnet
from lightning_subnets.commands.subnets import main
from lightning_subnets.networks import Conv2, ResNet20

DIGITS = str(ROOT / "results" / "zoo" / "digits_conv2.subnet")
CIFAR = str(ROOT / "results" / "zoo" / "cifar10_airbench.subnet")
PREPROCESSING = {"input_shape": [1, 8, 8], "mean": [0.5], "std": [0.25]}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def folder_of(count: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> str:
    folder = Path("photos")
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(count):
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{index}.png")
    return str(folder)


def file_of(weights: str, preprocessing: dict[str, object]) -> str:
    network = mask_(Conv2(in_channels=1, image_size=8, width_multiplier=0.25), Dense(), weights=weights, seed=0)
    build = {"class_path": "lightning_subnets.networks.Conv2", "init_args": {"in_channels": 1, "image_size": 8}}
    build["init_args"] |= {"width_multiplier": 0.25}  # type: ignore[operator]
    save_subnet(network, "own.subnet", network=build, preprocessing=preprocessing)
    return "own.subnet"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    main(["export", *arguments])
    return " ".join(capsys.readouterr().out.split())


def range_of_images() -> float:
    """Return the difference of the largest and the smallest value of an image that ``net.onnx`` can express."""
    model = onnx.load("net.onnx")
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    (first,) = (each for each in model.graph.node if each.op_type == "QuantizeLinear" and each.input[0] == "images")
    return float(constants[first.input[1]]) * 255


def test_a_run_and_its_file_are_calibrated_on_training_images(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, name in ((str(finished_run), "run.onnx"), (DIGITS, "file.onnx")):
        out = said(capsys, source, name, "--int8")
        assert "weights 5 of 5 exact, as -1, 0 and 1 times a scale" in out
        assert "calibrated on 512 training images of Digits" in out
        assert "top-1 class that of PyTorch for 100.00% of these images" in out
        session = onnxruntime.InferenceSession(name)
        assert json.loads(session.get_modelmeta().custom_metadata_map["classes"])[:2] == ["0", "1"]


def test_a_folder_calibrates(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, DIGITS, "net.onnx", "--int8", "--calibrate", folder_of(3))
    assert "calibrated on 3 images of photos" in out


@pytest.mark.parametrize(("std", "expected"), [(0.25, 4), (1, 1)])
def test_the_ranges_are_those_of_the_images_after_normalisation(
    std: float, expected: float, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = file_of("signed_constant", PREPROCESSING | {"std": [std]}), folder_of(2)
    for value, photo in zip((0, 255), sorted(Path(folder).iterdir()), strict=True):
        Image.new("L", (8, 8), value).save(photo)
    said(capsys, source, "net.onnx", "--int8", "--calibrate", folder)
    assert range_of_images() == pytest.approx(expected, rel=0.05)  # from -2 to 2, or from -0.5 to 0.5, less two percent


def test_photographs_are_scaled_and_their_centre_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    source, folder = file_of("signed_constant", PREPROCESSING | {"resize": 8}), folder_of(2)
    for value, photo in zip((64, 192), sorted(Path(folder).iterdir()), strict=True):
        pixels = np.full((16, 48), 255 if value < 128 else 0, dtype=np.uint8)  # the border is brighter, or darker
        pixels[:, 14:34] = value
        Image.fromarray(pixels).save(photo)
    out = said(capsys, source, "net.onnx", "--int8", "--calibrate", folder)
    assert "2 images of photos" in out
    assert range_of_images() == pytest.approx(4 * (192 - 64) / 255, rel=0.05)


def test_a_run_can_be_calibrated_on_a_folder_and_replaces_a_file_if_told(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("net.onnx").write_bytes(b"mine")
    out = said(capsys, str(finished_run), "net.onnx", "--int8", "--force", "--calibrate", folder_of(513, mode="RGB"))
    assert "calibrated on 512 images of photos" in out
    onnx.checker.check_model(onnx.load("net.onnx"))


def test_other_weights_are_rounded_and_the_output_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, file_of("kaiming_normal", PREPROCESSING), "net.onnx", "--int8", "--calibrate", folder_of(3))
    assert "weights 5 rounded to 64 steps, by up to " in out
    assert "because their values are not a scale times small integers" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("two.subnet", "net.onnx", "--int8", "--calibrate=good"),
            "--calibrate reads images of 1 or 3 channels, and those of the network have 2: leave out --int8",
        ),
        ((DIGITS, "net.onnx", "--int8", "--calibrate=nowhere"), "--calibrate=nowhere is not a folder of images"),
        ((DIGITS, "net.onnx", "--int8", "--calibrate=empty"), "--calibrate=empty is not a folder of images"),
        (
            (DIGITS, "net.onnx", "--int8", "--calibrate=large"),
            "9x8 pixels; the network's images are 8x8: calibrate with images of that size",
        ),
        ((DIGITS, "net.onnx", "--int8", "--calibrate=broken"), "broken/0.png is not a readable image"),
        ((DIGITS, "net.onnx", "--calibrate=empty"), "--calibrate names the images for eight bits: add --int8"),
        ((DIGITS, "net.pt", "--int8"), "net.pt does not end in .onnx"),
        ((DIGITS, "there.onnx", "--int8"), "there.onnx exists: --force replaces it"),
        ((CIFAR, "net.onnx", "--int8"), "names are not here: name a folder of images like them with --calibrate"),
        (("blind.subnet", "net.onnx", "--int8"), "does not say which images it was trained on"),
        ((DIGITS, "net.onnx", "--int8", "--input_shape=[1,9,9]"), "are 1x8x8, and --input_shape is 1x9x9"),
        *(
            ((source, "net.onnx", "--int8", "--calibrate=good", "--input_shape=[1,8,8]"), "are normalised is unknown")
            for source in ("blind.subnet", "true.subnet", "huge.subnet")
        ),
    ],
)
def test_mistakes_are_errors_and_nothing_is_written(
    arguments: tuple[str, ...], message: str, mistake: Callable[..., str]
) -> None:
    for name, size in (("large", (9, 8)), ("broken", (8, 8)), ("good", (8, 8))):
        Path(folder_of(1, size)).rename(name)
    Path("broken/0.png").write_bytes(b"no image")
    Path("empty").mkdir()
    Path("there.onnx").write_bytes(b"mine")
    Path(file_of("signed_constant", {})).rename("blind.subnet")
    for name, std in (("true", True), ("huge", 10**400)):
        Path(file_of("signed_constant", PREPROCESSING | {"std": [std]})).rename(f"{name}.subnet")
    two = {"input_shape": [2, 8, 8], "mean": [0.5, 0.5], "std": [0.25, 0.25]}
    Path(file_of("signed_constant", two)).rename("two.subnet")
    before = sorted(Path().iterdir())
    error = mistake(["export", *arguments], main)
    assert message in error
    assert len(error.splitlines()) == 1
    assert sorted(Path().iterdir()) == before
    assert Path("there.onnx").read_bytes() == b"mine"


def test_an_accuracy_is_stated_only_of_the_network_and_the_images_it_was_measured_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases: Any = (DIGITS, [], True), (DIGITS, ["--int8"], False), (CIFAR, ["--input_shape=[3,48,48]"], False)
    for source, options, stated in cases:
        said(capsys, source, "net.onnx", "--force", *options)
        about = onnxruntime.InferenceSession("net.onnx").get_modelmeta().custom_metadata_map
        assert bool(json.loads(about["accuracy"])) == stated


def test_photographs_are_scaled_for_the_shape_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    network, folder = mask_(ResNet20(width_multiplier=0.25), Dense(), seed=0), folder_of(2)
    about = {"input_shape": [3, 16, 16], "mean": [0.5] * 3, "std": [0.25] * 3, "resize": 18}
    build = {"class_path": "lightning_subnets.networks.ResNet20", "init_args": {"width_multiplier": 0.25}}
    save_subnet(network, "own.subnet", network=build, preprocessing=about)
    for value, photo in zip((64, 192), sorted(Path(folder).iterdir()), strict=True):
        Image.new("RGB", (40, 40), (value,) * 3).save(photo)
    said(capsys, "own.subnet", "net.onnx", "--int8", "--calibrate", folder, "--input_shape=[3,32,32]")
    assert range_of_images() == pytest.approx(4 * (192 - 64) / 255, rel=0.05)  # no black border
