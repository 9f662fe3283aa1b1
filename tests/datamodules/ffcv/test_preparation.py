"""The command that writes the files: its options, its messages and its exit codes."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

from lightning_subnets.commands.prepare_images import main
from lightning_subnets.datamodules.ffcv import preparation
from lightning_subnets.datamodules.ffcv.beton import JPEG, RAW, Beton
from lightning_subnets.datamodules.ffcv.loader import installed

SCRIPT = ROOT / "data" / "prepare_imagenet.py"

needs_ffcv = pytest.mark.skipif(not installed(), reason="FFCV is not installed: data/install_ffcv.sh")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs the command and returns its exit code, standard output and standard error."""

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


def test_the_script_prints_its_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    printed, error = capsys.readouterr()
    assert (end.value.code, error) == (0, "")
    options = ["out", "source", "train", "val", "val_labels", "longer_side", "quality", "raw_share", "image_size"]
    options += ["val_raw_share", "skip_bad", "num_workers", "verify"]
    assert set(re.findall(r"^  --(\w+)", printed, re.MULTILINE)) == set(options)
    expected = ["in pixels, at most", "leave out unreadable", "null takes all cores, and so does 0"]
    for words in [*expected, "compare the files in out"]:
        assert words in " ".join(printed.lower().split())


@needs_ffcv
def test_the_command_writes_files_of_a_folder_and_keeps_them(
    command: Command, photographs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a" / "b"
    arguments = ["--source", photographs, "--out", out, "--num_workers=2"]
    code, _, error = command(*arguments)
    assert (code, names(out)) == (0, FOUR)
    assert re.search(r"b/train\.beton: 21 images, 0\.\d\d GB", error)
    assert re.search(r"b/val\.beton: 12 images, 0\.\d\d GB", error)
    train, val = Beton.open(out / "train.beton"), Beton.open(out / "val.beton")
    assert train.classes == val.classes == sorted(path.name for path in (photographs / "train").iterdir())
    assert train.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert (set(train.modes), set(val.modes)) == ({JPEG}, {RAW})
    assert np.minimum(val.heights, val.widths).tolist() == [256] * 12
    assert np.maximum(train.heights, train.widths).max() <= 500
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    code, _, error = command(*arguments)
    assert code == 0
    assert error.count("exists with images of the same names and sizes") == 2
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@needs_ffcv
def test_both_existing_files_are_checked_before_one_is_written(
    command: Command, photographs: Path, tmp_path: Path
) -> None:
    arguments = ["--source", photographs, "--out", tmp_path, "--num_workers=2"]
    assert command(*arguments, "--image_size=32")[0] == 0
    (tmp_path / "train.beton").unlink()
    code, _, error = command(*arguments, "--image_size=64")
    message = f"{tmp_path / 'val.beton'} exists with images of other names or sizes, or other settings: remove it"
    assert (code, message in error) == (2, True)
    assert not (tmp_path / "train.beton").exists()


@needs_ffcv
def test_the_options_set_the_storage(command: Command, photographs: Path, tmp_path: Path) -> None:
    options = ["--raw_share=0.5", "--longer_side=100", "--image_size", "32", "--val_raw_share=0.25", "--skip_bad"]
    code, _, error = command("--source", photographs, f"--out={tmp_path}", *options)
    assert code == 0, error
    settings = [json.loads((tmp_path / name).read_text())["settings"] for name in FOUR[1::2]]
    assert settings == [
        {"longer_side": 100, "shorter_side": None, "quality": 90, "raw_share": 0.5, "images": 21},
        {"longer_side": None, "shorter_side": 37, "quality": 90, "raw_share": 0.25, "images": 12},
    ]
    train, val = Beton.open(tmp_path / "train.beton"), Beton.open(tmp_path / "val.beton")
    assert ((train.modes == RAW).sum(), (val.modes == RAW).sum()) == (10, 3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--longer_side=1601", "longer_side = 1601 is outside [1, 1600]"),
        ("--quality=0", "quality = 0 is outside [1, 100]"),
        ("--raw_share=.nan", "raw_share = nan is outside [0, 1]"),
        ("--train=missing", "/missing is missing or empty"),
        ("--source=null", "--source is missing: set it to the directory with the images"),
        ("--nonsense=2", "nonsense"),
    ],
)
def test_a_wrong_option_ends_with_2_and_names_the_option(
    option: str, message: str, command: Command, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "installed", lambda: True)  # the options are checked before FFCV
    out = tmp_path / "out"
    code, printed, error = command("--source", photographs, "--out", out, option)
    assert (code, printed) == (2, "")
    assert message in error
    assert "Traceback" not in error
    assert not out.exists()


def test_without_ffcv_the_error_says_how_to_install_it(
    command: Command, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "installed", lambda: False)
    expected = "error: FFCV is not installed: run data/install_ffcv.sh\n"
    assert command("--source", photographs, "--out", tmp_path / "out") == (2, "", expected)
    assert not (tmp_path / "out").exists()
    (tmp_path / "ffcv").mkdir()  # a directory of that name is not FFCV
    for name in [name for name in sys.modules if name.partition(".")[0] == "ffcv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert not installed()


@needs_ffcv
def test_an_unreadable_photograph_stops_the_command_unless_it_is_left_out(
    command: Command, cifar_folder: Path, tmp_path: Path
) -> None:
    source, out = shutil.copytree(cifar_folder, tmp_path / "source"), tmp_path / "out"
    bad = source / "train" / "class_3" / "4.png"
    bad.write_bytes(b"")
    arguments = ["--source", source, "--val=test", "--out", out, "--image_size=28"]
    code, _, error = command(*arguments)
    assert code == 2
    assert error.count(f"{bad} is not a readable image") == 1
    assert error.splitlines()[-1].startswith("error: 1 of 60 images cannot be read, see above")
    assert names(out) == []
    code, _, error = command(*arguments, "--skip_bad")
    assert (code, names(out)) == (0, FOUR)
    assert "train.beton: 59 images, 1 left out, " in error
    assert Beton.open(out / "train.beton").labels.tolist().count(3) == 5


@needs_ffcv
def test_verify_distinguishes_a_whole_file_from_a_damaged_one(command: Command, betons: Path, tmp_path: Path) -> None:
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
        f"error: {tmp_path / 'val.beton'} is damaged or incomplete: its images are not the bytes that were "
        "written. Write it again, see data/README.md\n"
    )
