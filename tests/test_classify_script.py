"""docs/classify/classify.py gives a network the pixels that training reads, in the shape that it was exported for."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torchvision
from PIL import Image
from repository import ROOT

from lightning_subnets import EdgePopup, mask_, save_subnet
from lightning_subnets.commands.subnets import main
from lightning_subnets.datamodules.image_files import read_image

SCRIPT = str(ROOT / "docs" / "classify" / "classify.py")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_grey_of_any_depth_has_the_pixels_of_training(
    kind: type[np.unsignedinteger], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, largest = tmp_path / "photo.png", np.iinfo(kind).max
    Image.fromarray(np.linspace(0, largest, 64).astype(kind).reshape(8, 8)).save(photo)
    about = {"classes": ["cat", "dog"], "preprocessing": {"input_shape": [3, 8, 8], "mean": [0] * 3, "std": [1] * 3}}
    session = Mock()
    session.get_modelmeta().custom_metadata_map = {key: json.dumps(value) for key, value in about.items()}
    session.run.return_value = [np.zeros((1, 2))]
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=lambda _: session))
    monkeypatch.setattr(sys, "argv", ["classify.py", "net.onnx", str(photo)])
    images = runpy.run_path(SCRIPT)["images"]
    np.testing.assert_allclose(images[0].transpose(1, 2, 0) * 255, np.asarray(read_image(photo)), atol=1e-3)


def test_a_network_that_was_exported_for_another_shape_gets_images_of_that_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = mask_(torchvision.models.squeezenet1_1(num_classes=2), EdgePopup(density=0.5))
    stated = {"input_shape": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3, "resize": 73}
    subnet, net, photo = (str(tmp_path / name) for name in ("net.subnet", "net.onnx", "photo.png"))
    save_subnet(network, subnet, classes=["cat", "dog"], preprocessing=stated)
    main(["export", subnet, net, "--input_shape=[3, 48, 32]"])
    Image.new("RGB", (90, 60)).save(photo)
    monkeypatch.setattr(sys, "argv", ["classify.py", net, photo])
    assert runpy.run_path(SCRIPT)["about"]["preprocessing"] == stated | {"input_shape": [3, 48, 32], "resize": 37}
    assert "cat" in capsys.readouterr().out
