"""The examples are short and run, and the one that explains the idea gives what the package gives."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from repository import ROOT
from torch import nn

from lightning_subnets import EdgePopup, mask_, masks
from lightning_subnets.commands.cli import main

EXAMPLES = ROOT / "examples"


def test_every_example_is_short() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert len(lines) == 3
    assert max(lines.values()) <= 60


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

    monkeypatch.syspath_prepend(EXAMPLES)
    method = ["--model.method=own_method.LAMP", "--model.method.density=0.1", "--model.weights=kaiming_normal"]
    trainer = ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}"]
    main(["fit", "-c", str(ROOT / "configs" / "quickstart.yaml"), *method, *trainer])
    assert "quickstart: LAMP" in capsys.readouterr().out
