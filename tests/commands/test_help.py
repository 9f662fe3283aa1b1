"""The help fits three screens, and ``--version`` names what a bug report needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from repository import ROOT

from lightning_subnets import __version__, methods, networks
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main as subnets

Main = Callable[[list[str]], None]


def _output(main: Main, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_help_of_fit_fits_three_screens_and_names_every_method_and_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = _output(lightning, ["fit", "--help"], capsys).splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 100
    first_words = [line.split()[0] for line in lines if line.strip()]
    for name in (*methods.__all__, *networks.__all__, "--name", "--trainer.max_epochs", "--model.densities"):
        assert first_words.count(name) == 1
    text = " ".join(" ".join(lines).split())
    assert text.count("any class path of") == 3
    assert "--model.method.density, the fraction of weights kept, in (0, 1]" in text
    assert "take a stranger's network as a .subnet file" in text
    assert "-c, --config A config: the path of a file, or a name that subnets configs lists" in text
    assert "gradient_clip_val" in text  # the other options of the Trainer are names
    assert "torchvision.models.resnet" not in text


def test_no_help_of_a_command_is_the_beginning_of_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    listed = " ".join(_output(lightning, ["--help"], capsys).split())
    assert "predict Classify images by a checkpoint or a .subnet file, and write a CSV file." in listed
    text = _output(lightning, ["test", "--help"], capsys)
    assert "\nEvaluate a checkpoint or a .subnet file on the test images.\n" in text
    assert "\ncheckpoint:\n" in text
    assert "never run on your" not in listed + text


def test_the_help_of_a_method_keeps_the_types_of_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(_output(lightning, ["fit", "--model.method.help", "EdgePopup"], capsys).split())
    assert "--model.method.density DENSITY fraction of the weights kept, in (0, 1]. (required, type: float)" in text


@pytest.mark.parametrize("main", [lightning, subnets])
def test_the_version_is_printed_with_those_of_torch_and_lightning(
    main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(_output(main, ["--version"], capsys).split())
    assert f"of lightning-subnets {__version__}, torch 2." in text
    assert "lightning 2." in text


@pytest.mark.thorough
def test_the_command_in_the_documentation_completes_options_methods_and_networks(tmp_path: Path) -> None:
    (command,) = re.findall(r"^echo .*bashrc$", (ROOT / "docs" / "start.md").read_text(), re.MULTILINE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = f"{command}\nsource ~/.bashrc\ncomplete -p lightning"
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"HOME": str(tmp_path), "PATH": path}, capture_output=True, text=True
    )
    completed = done.stdout.split("'")[1].split()
    assert {"fit", "test", "--model.method", "--trainer.max_epochs", "EdgePopup", "Conv2", "Digits"} <= {*completed}


def test_every_file_that_the_help_names_occurs_in_the_code() -> None:
    promising = ROOT / "lightning_subnets" / "commands" / "subnets.py"
    names = {*re.findall(r"``(\w+\.\w+)``", promising.read_text())}
    assert "widths.png" in names
    code = "".join(path.read_text() for path in (ROOT / "lightning_subnets").rglob("*.py") if path != promising)
    assert [name for name in names if f'"{name}"' not in code] == []
