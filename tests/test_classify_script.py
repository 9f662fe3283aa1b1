"""docs/classify/classify.py gives a network the pixels that training reads."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from repository import ROOT

from lightning_subnets.datamodules.image_files import read_image


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
    images = runpy.run_path(str(ROOT / "docs" / "classify" / "classify.py"))["images"]
    np.testing.assert_allclose(images[0].transpose(1, 2, 0) * 255, np.asarray(read_image(photo)), atol=1e-3)
