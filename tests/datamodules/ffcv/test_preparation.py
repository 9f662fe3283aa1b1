"""The command that makes the files: what it takes, what it says, and how it ends."""

from __future__ import annotations

import contextlib
import json
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from contents import epoch, stored
from PIL import Image
from repository import ROOT

from lightning_subnets.commands.prepare_images import main
from lightning_subnets.datamodules.ffcv import preparation
from lightning_subnets.datamodules.ffcv.beton import JPEG, RAW, Beton
from lightning_subnets.datamodules.ffcv.loader import imported, installed
from lightning_subnets.datamodules.image_files import list_files

SCRIPT = ROOT / "data" / "prepare_imagenet.py"

needs_ffcv = pytest.mark.skipif(not installed(), reason="FFCV is not installed: data/install_ffcv.sh")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command; its exit code, and what it prints to standard output and to standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prepare_imagenet.py", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


FOUR = ["train.beton", "train.beton.json", "val.beton", "val.beton.json"]


def test_the_script_says_how_it_is_used(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    printed, error = capsys.readouterr()
    assert (end.value.code, error) == (0, "")
    options = ["out", "source", "train", "val", "val_labels", "longer_side", "quality", "raw_share", "image_size"]
    options += ["val_raw_share", "skip_bad", "num_workers", "verify"]
    assert set(re.findall(r"^  --(\w+)", printed, re.MULTILINE)) == set(options)
    # Each with what is said of it where it is defined, or of the switches where they are added.
    for words in ("in pixels, at most", "leave out images", "null takes all cores", "compare the files in out"):
        assert words in " ".join(printed.lower().split())


@needs_ffcv
def test_the_command_makes_files_of_a_folder_and_keeps_them(
    command: Command, photographs: Path, tmp_path: Path
) -> None:
    arguments = ["--source", photographs, "--out", tmp_path / "a" / "b", "--num_workers=2"]
    code, _, error = command(*arguments)
    assert (code, names(tmp_path / "a" / "b")) == (0, FOUR)
    assert re.search(r"b/train\.beton: 21 images, 0\.\d\d GB", error)
    assert re.search(r"b/val\.beton: 12 images, 0\.\d\d GB", error)
    train, val = Beton.open(tmp_path / "a/b/train.beton"), Beton.open(tmp_path / "a/b/val.beton")
    assert train.classes == val.classes == sorted(path.name for path in (photographs / "train").iterdir())
    assert train.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert (set(train.modes), set(val.modes)) == ({JPEG}, {RAW})
    assert np.minimum(val.heights, val.widths).tolist() == [256] * 12
    assert np.maximum(train.heights, train.widths).max() <= 500
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a" / "b").iterdir()}
    code, _, error = command(*arguments)
    assert code == 0
    assert error.count("is there already, of the same images and settings") == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a" / "b").iterdir()} == before


@needs_ffcv
@pytest.mark.parametrize("dash", ["-", "_"])
@pytest.mark.parametrize("joined", [False, True])
def test_options_are_taken_with_dashes_and_underscores(
    dash: str, joined: bool, command: Command, photographs: Path, tmp_path: Path
) -> None:
    values = {"raw share": 0.5, "longer side": 100, "image size": 32, "val raw share": 0.25, "num workers": 2}
    out = tmp_path / "with-dash_and_underscore"
    options = {"source": photographs, "out": out, **values}
    arguments: list[object] = []
    for name, value in options.items():
        option = "--" + name.replace(" ", dash)
        arguments += [f"{option}={value}"] if joined else [option, value]
    code, _, error = command(*arguments, f"--skip{dash}bad")
    assert code == 0, error
    settings = [json.loads((out / name).read_text())["settings"] for name in FOUR[1::2]]
    assert settings == [
        {"longer_side": 100, "shorter_side": None, "quality": 90, "raw_share": 0.5, "images": 21},
        {"longer_side": None, "shorter_side": 37, "quality": 90, "raw_share": 0.25, "images": 12},
    ]
    train, val = Beton.open(out / "train.beton"), Beton.open(out / "val.beton")
    assert ((train.modes == RAW).sum(), (val.modes == RAW).sum()) == (10, 3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--longer_side=0", "longer_side = 0 is outside [1, 1600]"),
        ("--longer-side=1601", "longer_side = 1601 is outside [1, 1600]"),
        ("--quality=0", "quality = 0 is outside [1, 100]"),
        ("--quality=101", "quality = 101 is outside [1, 100]"),
        ("--raw-share=-0.1", "raw_share = -0.1 is outside [0, 1]"),
        ("--raw_share=1.5", "raw_share = 1.5 is outside [0, 1]"),
        ("--raw_share=.nan", "raw_share = nan is outside [0, 1]"),
        ("--val_raw_share=2", "val_raw_share = 2.0 is outside [0, 1]"),
        ("--val_raw_share=-1", "val_raw_share = -1.0 is outside [0, 1]"),
        ("--image_size=0", "image_size = 0 is outside [1, 1400]"),
        ("--image-size=1401", "image_size = 1401 is outside [1, 1400]"),
        ("--num_workers=-1", "num_workers = -1 is outside [1, 1024]"),
        ("--num-workers=1025", "num_workers = 1025 is outside [1, 1024]"),
        ("--train=missing", "/missing is missing or empty"),
        ("--val=missing", "/missing is missing or empty"),
        ("--source=nowhere", "nowhere/train is missing or empty"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it_and_what_is_allowed(
    option: str, message: str, command: Command, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "installed", lambda: True)  # the mistake is found before FFCV is wanted
    out = tmp_path / "out"
    code, printed, error = command("--source", photographs, "--out", out, option)
    assert (code, printed, error.count("\n")) == (2, "", 1)
    assert error.startswith("error: ")
    assert message in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--longer_side=many"], ["longer_side", "many"]),
        (["--quality=9.5"], ["quality", "9.5"]),
        (["--raw_share"], ["--raw_share", "expected one argument"]),
        (["--raw_shar=1", "--nonsense=2"], ["nonsense"]),
        (["elsewhere"], ["elsewhere"]),
    ],
)
def test_a_mistyped_option_ends_with_2_and_its_name(arguments: list[str], words: list[str], command: Command) -> None:
    code, printed, error = command(*arguments)
    assert (code, printed) == (2, "")
    assert all(word in error for word in words), error
    assert "Traceback" not in error


def test_a_missing_source_is_one_line(command: Command, tmp_path: Path) -> None:
    expected = "error: --source is missing: the directory with the images to prepare\n"
    assert command("--out", tmp_path / "out") == (2, "", expected)
    assert not (tmp_path / "out").exists()


def test_without_ffcv_it_is_one_line_that_says_how_to_install_it(
    command: Command, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "installed", lambda: False)
    expected = "error: FFCV is not installed: run data/install_ffcv.sh\n"
    assert command("--source", photographs, "--out", tmp_path / "out") == (2, "", expected)
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_called_ffcv_is_not_ffcv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ffcv").mkdir()
    for name in [name for name in sys.modules if name.partition(".")[0] == "ffcv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert not installed()


@needs_ffcv
def test_an_unreadable_photograph_stops_it_unless_it_may_be_left_out(
    command: Command, cifar_folder: Path, tmp_path: Path
) -> None:
    for folder in ("train", "test"):
        for path in cifar_folder.glob(f"{folder}/*"):
            (tmp_path / folder / path.name).mkdir(parents=True)
            for image in path.iterdir():
                (tmp_path / folder / path.name / image.name).write_bytes(image.read_bytes())
    bad = tmp_path / "train" / "class_3" / "4.png"
    bad.write_bytes(b"")
    arguments = ["--source", tmp_path, "--val=test", "--out", tmp_path / "out", "--image_size=28"]
    code, _, error = command(*arguments)
    assert code == 2
    assert error.count(f"{bad} is not a readable image") == 1
    assert error.splitlines()[-1].startswith("error: 1 of 60 images cannot be read, see above")
    assert names(tmp_path / "out") == []
    code, _, error = command(*arguments, "--skip-bad")
    assert (code, names(tmp_path / "out")) == (0, FOUR)
    assert "train.beton: 59 images, 1 left out, " in error
    assert Beton.open(tmp_path / "out" / "train.beton").labels.tolist().count(3) == 5


@needs_ffcv
def test_cifar_as_a_folder_of_images_is_prepared_to_the_pixel(
    command: Command, cifar_folder: Path, tmp_path: Path
) -> None:
    arguments = ["--source", cifar_folder, "--val=test", "--out", tmp_path, "--raw-share=1", "--image-size=28"]
    assert command(*arguments, "--num-workers=1")[0] == 0
    for name, folder in (("train", "train"), ("val", "test")):
        table = Beton.open(tmp_path / f"{name}.beton")
        files = list_files(cifar_folder / folder, table.classes)
        assert table.labels.tolist() == [label for _, label in files]
        pixels = [np.asarray(Image.open(path)) for path, _ in files]
        assert np.array_equal(stored(tmp_path / f"{name}.beton"), pixels)
        assert torch.equal(epoch(table, size=28)[0].permute(0, 2, 3, 1), torch.tensor(np.array(pixels))[:, 2:30, 2:30])


@needs_ffcv
def test_verify_tells_a_good_file_from_a_rotten_one(command: Command, betons: Path, tmp_path: Path) -> None:
    for name in FOUR:
        (tmp_path / name).write_bytes((betons / name).read_bytes())
    lines = "".join(f"{tmp_path / name} is as it was written\n" for name in ("train.beton", "val.beton"))
    assert command("--verify", "--out", tmp_path) == (0, lines, "")
    content = bytearray((tmp_path / "val.beton").read_bytes())
    content[Beton.open(tmp_path / "val.beton").pointers[5] + 100] ^= 4
    (tmp_path / "val.beton").write_bytes(content)
    code, printed, error = command("--out", tmp_path, "--verify")
    assert (code, printed) == (2, f"{tmp_path / 'train.beton'} is as it was written\n")
    assert error == (
        f"error: {tmp_path / 'val.beton'} is damaged or was never finished: its images are not the bytes that were "
        "written. Write it again, see data/README.md\n"
    )
    (tmp_path / "train.beton.json").unlink()
    code, printed, error = command("--out", tmp_path, "--verify")
    assert (code, printed, error.count("\n")) == (2, "", 1)
    assert f"{tmp_path / 'train.beton.json'} is missing" in error


@needs_ffcv
@pytest.mark.long
def test_the_script_ends_with_130_at_ctrl_c_and_leaves_nothing(photographs: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for path in photographs.glob("*/*/*"):
        for index in range(200):
            copy = source / path.relative_to(photographs).with_stem(f"{path.stem}_{index}")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    partial = out / "train.beton.partial"
    arguments = [sys.executable, str(SCRIPT), f"--source={source}", f"--out={out}"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (partial.exists() and partial.stat().st_size):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        printed, error = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "")
    assert "Traceback" not in error
    assert error.splitlines()[-1] == "interrupted; what was not finished is removed"
    assert names(out) == []


@needs_ffcv
def test_ctrl_c_while_ffcv_is_imported_is_not_lost_in_the_callback_of_a_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compile_something(_: str) -> None:
        # As ctypes does when an exception comes up in what C has called; LLVM calls Python when code is compiled.
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("lightning_subnets.datamodules.ffcv.loader.importlib.import_module", compile_something)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            imported.__wrapped__("ffcv")
    finally:
        signal.signal(signal.SIGINT, before)
