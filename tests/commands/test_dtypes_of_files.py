"""Files in float64 and in half precision are tested and exported as those in float32."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from lightning_subnets import EdgePopup, load_subnet, mask_, save_subnet
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.datamodules import Digits
from lightning_subnets.networks import Conv2

NETWORK: dict[str, Any] = {"in_channels": 1, "image_size": 8, "width_multiplier": 0.1}


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
@torch.no_grad()
def test_a_file_of_any_dtype_is_tested_and_exported(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = mask_(Conv2(**NETWORK).to(getattr(torch, dtype)), EdgePopup(0.5), weights="kaiming_normal")
    data = Digits()
    path, out = tmp_path / "small.subnet", tmp_path / "net.onnx"
    builder = {"class_path": "lightning_subnets.networks.Conv2", "init_args": NETWORK}
    config = {"data": {"class_path": "Digits"}}
    save_subnet(network, path, network=builder, config=config, preprocessing=data.preprocessing)
    lightning(["test", f"--ckpt_path={path}", "--trainer.accelerator=cpu"])
    said = capsys.readouterr().out
    data.setup("test")
    images, labels = data.normalize(data.test_set[0]), data.test_set[1]
    logits = load_subnet(path).double()(images.double())
    accuracy = float((logits.argmax(1) == labels).float().mean())
    assert float(said.split("test/accuracy")[1].split("│")[1]) == pytest.approx(accuracy, abs=1e-6)
    subnets(["export", str(path), str(out)])
    assert f"the network is torch.{dtype}, and {out} computes in float32" in capsys.readouterr().out
    (found,) = onnxruntime.InferenceSession(out).run(["logits"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), logits.float(), atol=1e-4, rtol=1e-4)
    subnets(["export", str(path), str(out), "--int8", "--force"])
    subnets(["export", str(path), str(tmp_path / "net.pt")])
    assert {str(each.dtype) for each in torch.load(tmp_path / "net.pt").values()} == {f"torch.{dtype}"}


TURNING = """
import torch
from torch import nn

class Turning(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
        self.register_buffer("turns", torch.polar(torch.ones(32), torch.arange(32.0)), persistent=False)

    def forward(self, images):
        pairs = torch.view_as_complex(self.linear(images.flatten(1)).view(-1, 32, 2))
        return self.head(torch.view_as_real(pairs * self.turns).flatten(1))
"""


@torch.no_grad()
def test_a_file_of_a_network_with_a_complex_table_is_tested_as_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "turning.py").write_text(TURNING)
    build = importlib.import_module("turning").Turning
    network = mask_(build().double(), EdgePopup(0.5), weights="kaiming_normal")
    data = Digits()
    save_subnet(network, "a.subnet", network="turning.Turning", config={"data": {"class_path": "Digits"}})
    lightning(["test", "--ckpt_path=a.subnet", "--model.network=turning.Turning", "--trainer.accelerator=cpu"])
    data.setup("test")
    images, labels = data.test_set
    logits = load_subnet("a.subnet", network=build())(data.normalize(images).double())
    found = float(capsys.readouterr().out.split("test/accuracy")[1].split("│")[1])
    assert found == pytest.approx(float((logits.argmax(1) == labels).float().mean()), abs=1e-6)
