"""The examples are short and run, and the one that explains the idea gives what the package gives."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from repository import ROOT
from torch import nn

from lightning_subnets import EdgePopup, density, mask_, masks
from lightning_subnets.commands.cli import main

EXAMPLES, PAGE = ROOT / "examples", ROOT / "docs" / "examples.md"


def test_every_example_is_short() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert len(lines) == 6
    assert max(lines.pop("edge_popup_from_scratch.py"), lines.pop("own_method.py")) <= 60
    assert max(lines.values()) <= 40


SHOWN = dict(re.findall(r"```\n\$ python (.*)\n([^`]*)```", PAGE.read_text()))  # the output of each command


def test_the_page_shows_every_example_with_its_output_and_pictures() -> None:
    assert {command.split()[0] for command in SHOWN} == {f"examples/{path.name}" for path in EXAMPLES.glob("*.py")}
    assert all(SHOWN.values()), "run python docs/examples.py"
    pictures = re.findall(r"\]\(examples/(\w+\.png)\)", PAGE.read_text())
    assert {*pictures} == {path.name for path in (ROOT / "docs" / "examples").iterdir()}


@pytest.mark.thorough
@pytest.mark.parametrize("command", SHOWN)
def test_an_example_prints_what_the_page_shows(command: str, tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(ROOT / "results")
    name, *arguments = command.split()
    environment = os.environ | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(ROOT / name), *arguments]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    number = r"\d[\d,.]*(?:e-\d+)?"
    assert re.sub(number, "#", done.stdout) == re.sub(number, "#", SHOWN[command]), "run python docs/examples.py"
    for here, there in zip(*(re.findall(number, text) for text in (done.stdout, SHOWN[command])), strict=True):
        # Another processor rounds differently, which moves an accuracy by some images.
        assert float(here.strip(",.").replace(",", "")) == pytest.approx(
            float(there.strip(",.").replace(",", "")), abs=3
        )
    for picture in tmp_path.glob("*.png"):
        assert (ROOT / "docs" / "examples" / picture.name).is_file()


def test_edge_popup_from_scratch_gives_the_losses_and_masks_of_the_package_to_the_bit() -> None:
    example = runpy.run_path(str(EXAMPLES / "edge_popup_from_scratch.py"))
    layer, top_k = example["SubnetLinear"], example["TopK"]
    plain = nn.Sequential(layer(64, 40, 0.5), nn.ReLU(), layer(40, 10, 0.5))
    masked = nn.Sequential(nn.Linear(64, 40, bias=False), nn.ReLU(), nn.Linear(40, 10, bias=False))
    mask_(masked, EdgePopup(density=0.5))
    masked.load_state_dict(plain.state_dict())  # the same weights and scores, under the same names
    before = masks(masked)
    images, labels = torch.randn(200, 64), torch.randint(10, (200,))
    losses = [example["train"](network, images, labels, epochs=3) for network in (plain, masked)]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    for name, mask in masks(masked).items():
        assert torch.equal(top_k.apply(plain.get_parameter(name.replace("weight", "scores")).abs(), 0.5).bool(), mask)
        assert not torch.equal(mask, before[name])


@pytest.mark.parametrize(
    "name", ["own_training_loop", pytest.param("edge_popup_from_scratch", marks=pytest.mark.thorough)]
)
def test_an_example_finds_a_subnetwork(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    accuracy = float(capsys.readouterr().out.split("classifies ")[1].split("%")[0])
    assert accuracy > 95


def test_a_method_of_your_own_works_in_python_and_by_class_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = runpy.run_path(str(EXAMPLES / "own_method.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        "0.weight keeps 7.0%",
        "2.weight keeps 29.0%",
    ]
    # The squares 9, 4, 1 have the shares 9/9, 4/13 and 1/14.
    scores = example["LAMP"](0.1).scores(torch.tensor([[-2.0, 1.0, 3.0]]))
    torch.testing.assert_close(scores, torch.tensor([[4 / 13, 1 / 14, 1.0]]))
    zeros = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    nn.init.zeros_(zeros.get_parameter("1.weight"))
    assert density(mask_(zeros, example["LAMP"](0.5))) == 0.5
    assert density(mask_(nn.Linear(4, 4), example["LAMP"](0.01))) == 1 / 16

    monkeypatch.syspath_prepend(EXAMPLES)
    method = ["--model.method=own_method.LAMP", "--model.method.density=0.1", "--model.weights=kaiming_normal"]
    trainer = ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}"]
    main(["fit", "-c", str(ROOT / "configs" / "quickstart.yaml"), *method, *trainer])
    assert "quickstart: LAMP" in capsys.readouterr().out
