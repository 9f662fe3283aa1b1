"""A network that was trained on permuted pixels says so wherever it goes, in a form that any program can apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from lightning_subnets import SupSup
from lightning_subnets.commands.calibration import of_folder
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.datamodules import Digits
from lightning_subnets.errors import UserError
from lightning_subnets.subnet_file.container import Container

SHORT = ["--trainer.max_epochs=3", "--model.network.init_args.width_multiplier=0.5", "--trainer.accelerator=cpu"]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def as_stated(images: np.ndarray[Any, Any], stated: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Preprocess uint8 images by what the documentation of the file says alone."""
    mean, std = (np.array(stated[key], np.float32).reshape(-1, 1, 1) for key in ("mean", "std"))
    normalised = ((images / np.float32(255) - mean) / std).astype(np.float32)
    return normalised.reshape(*images.shape[:2], -1)[:, :, stated["permutation"]].reshape(images.shape)


def test_a_program_with_the_metadata_alone_finds_the_accuracy_of_the_run() -> None:
    lightning(["fit", "-c", "digits/permuted", "--data.init_args.permutation=7", "--version=a", *SHORT])
    run = Path("runs/permuted/a")
    accuracy = json.loads((run / "summary.json").read_text())["test_accuracy"]
    assert accuracy > 0.8
    data = Digits(permutation=7)
    data.setup("test")
    images, labels = data.test_set
    for source in ("runs/permuted/a", "runs/permuted/a/checkpoints/last.subnet"):
        subnets(["export", source, "net.onnx", "--force"])
        session = onnxruntime.InferenceSession("net.onnx")
        stated = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
        (logits,) = session.run(["logits"], {"images": as_stated(images.numpy(), stated)})
        assert (logits.argmax(1) == labels.numpy()).mean() == pytest.approx(accuracy, abs=1e-6)
    subnets(["inspect", "runs/permuted/a/checkpoints/last.subnet"])


def test_each_task_of_a_file_states_its_own_order() -> None:
    Path("quick.yaml").write_text(
        "config: digits/permuted\ntrainer.max_epochs: 1\ntrainer.accelerator: cpu\n"
        "model.network.init_args.width_multiplier: 0.5\n"
    )
    Path("two.yaml").write_text("config: quick.yaml\noption: data.init_args.permutation\ntasks: 2\n")
    subnets(["continual", "two.yaml", "--out=out"])
    network = Container("out/tasks.subnet", whole=True).header.network
    named = {"class_path": network.builder, "init_args": network.arguments}
    SupSup.load("out/tasks.subnet").save("again.subnet", network=named)
    for task in ("0", "1"):
        subnets(["export", "out/tasks.subnet", f"{task}.subnet", f"--task={task}"])
        expected = Digits(permutation=int(task)).preprocessing
        assert Container(f"{task}.subnet").header.preprocessing == expected
        assert Container("again.subnet", task=task).header.preprocessing == {"permutation": expected["permutation"]}


def test_a_folder_calibrates_with_the_pixels_in_the_order_of_the_network() -> None:
    data = Digits(permutation=3)
    data.setup("test")
    images = data.test_set[0][:2]
    Path("photos").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(f"photos/{index}.png")
    found = of_folder("photos", data.preprocessing, (1, 8, 8)).images
    assert torch.allclose(found, data.normalize(images), atol=1e-6)
    with pytest.raises(UserError, match=r"takes the 63 pixels of an image in another order"):
        of_folder("photos", data.preprocessing | {"permutation": [*range(63)]}, (1, 8, 8))
