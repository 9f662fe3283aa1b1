"""``subnets export``, ``import``, ``inspect`` and ``check`` of a run or a file, and ``lightning test`` of a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from repository import ROOT
from torch import Tensor, nn

from lightning_subnets import EdgePopup, load_subnet, mask_, masked_weights, save_subnet
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main
from lightning_subnets.datamodules import Digits
from lightning_subnets.networks import Conv2
from lightning_subnets.run_files.saved_run import SavedRun
from lightning_subnets.subnet_file.container import Container


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "quickstart" / "version_0"))


@pytest.fixture
def subnet(run: Path, tmp_path: Path) -> Path:
    path = tmp_path / "digits.subnet"
    path.write_bytes(b"something else")
    main(["export", last(run), str(path), "--force"])
    return path


def last(run: Path) -> str:
    return str(run / "checkpoints" / "last.ckpt")


def images() -> Tensor:
    data = Digits()
    data.setup("test")
    pixels, _ = next(iter(data.test_dataloader()))
    return data.normalize(pixels)


def logits_of(network: nn.Module) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network.eval()(images())
    return logits


def test_a_finished_run_has_the_file_that_an_export_writes(run: Path, subnet: Path) -> None:
    assert (run / "checkpoints" / "last.subnet").read_bytes() == subnet.read_bytes()
    assert json.loads((run / "summary.json").read_text())["file_bytes"] == subnet.stat().st_size


def test_the_file_of_a_run_has_its_network(run: Path, subnet: Path) -> None:
    found = SavedRun(last(run)).module().network
    assert torch.equal(logits_of(load_subnet(subnet)), logits_of(found))
    again = masked_weights(load_subnet(subnet, masked=True))
    for name, layer in masked_weights(found).items():
        assert torch.equal(layer.weight, again[name].weight)
        assert torch.equal(layer.mask(), again[name].mask())


def test_the_header_of_a_file_agrees_with_the_run(run: Path, subnet: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    header = Container(subnet).header
    assert header.accuracy["test_accuracy"] == summary["test_accuracy"]
    assert header.density == summary["density"]
    assert header.digests.weights == summary["weights_digest"]
    assert header.classes == [str(digit) for digit in range(10)]
    assert header.preprocessing == {"input_shape": [1, 8, 8], "mean": [0.305], "std": [0.376]}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"].pop("default_root_dir")  # says nothing on another machine
    assert config["trainer"].pop("logger")
    assert header.config == config
    assert (header.weights.distribution, header.weights.seed) == ("signed_constant", 0)
    (run / "summary.json").write_text(json.dumps(summary | {"steps": summary["steps"] + 1}))
    main(["export", last(run), str(subnet), "--force"])
    assert Container(subnet).header.accuracy == {}, "the summary is of another step"


def test_missing_data_or_config_of_a_run_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: Callable[..., str]
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] = {"class_path": "lightning_subnets.datamodules.ImageNet", "init_args": {"root": "nowhere"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    main(["export", last(run), str(tmp_path / "blind.subnet")])
    assert "the preprocessing is left out: nowhere lacks train.beton" in capsys.readouterr().err
    header = Container(tmp_path / "blind.subnet").header
    assert (header.classes, header.preprocessing) == ([str(digit) for digit in range(10)], {})
    assert "--input_shape=" in mistake(["export", last(run), str(tmp_path / "blind.onnx")], main)
    main(["export", last(run), str(tmp_path / "told.onnx"), "--input_shape=[1, 8, 8]"])
    metadata = onnxruntime.InferenceSession(tmp_path / "told.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["preprocessing"]) == {"input_shape": [1, 8, 8]}
    assert "nowhere lacks train.beton" in mistake(["check", last(run)], main)
    (run / "config.yaml").unlink()
    assert "config.yaml is missing: it says how the network of" in mistake(["inspect", last(run)], main)


@pytest.mark.parametrize("of", [pytest.param("run", marks=pytest.mark.thorough), "file"])
def test_every_format_gives_the_same_logits(of: str, run: Path, subnet: Path, tmp_path: Path) -> None:
    source, expected = (last(run) if of == "run" else str(subnet)), logits_of(load_subnet(subnet))
    for ending in ("pt", "safetensors", "onnx"):
        main(["export", source, str(tmp_path / f"net.{ending}")])
    plain = Conv2(in_channels=1, image_size=8, norm="batch")
    plain.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert torch.equal(logits_of(plain), expected)
    plain.load_state_dict(safetensors.torch.load_file(tmp_path / "net.safetensors"))
    assert torch.equal(logits_of(plain), expected)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images().numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == [str(digit) for digit in range(10)]


def test_inspect_prints_and_draws_a_run_prints_a_file_and_compares_the_two(
    run: Path, subnet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["inspect", last(run), "--against", str(subnet)])
    said = " ".join(capsys.readouterr().out.split())
    common = "100.00% of the weights that either keeps"
    for part in ("density 50.000%", "classifier.7", "10 of 10", "trace of the path kernel 10^", common):
        assert part in said
    with Image.open(run / "widths.png") as picture:
        assert picture.width > 1000
    main(["inspect", str(subnet), "--against", last(run)])
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "lightning_subnets.networks.Conv2(num_classes=10, in_channels=1,",
        "EdgePopup(density=0.5",
        "signed_constant, seed 0",
        "50.000%: 183,840 of 367,680",
        f"{8 * subnet.stat().st_size / 367_680:.2f} bits a weight",
        "test_accuracy",
        "10: 0, 1, 2, 3, 4, ...",
        "features.3 │ 64x64x3x3 │ 18,432 │ 50.00%",
        "paths from inputs to outputs",
        common,
    ):
        assert part in said


@pytest.mark.thorough
def test_check_shows_that_the_mask_depends_on_its_weights(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", last(run), "--seeds=2", "--batches=2"])
    found = {}
    said = capsys.readouterr().out
    assert "Statistics of batch norm are estimated again from 2 training batches" in " ".join(said.split())
    for line in said.splitlines():
        cells = [cell.strip() for cell in line.split("│") if cell.strip()]
        if len(cells) > 1 and cells[1].endswith("%"):
            found[cells[0]] = float(cells[1].rstrip("%")) / 100
    accuracy = found.pop("as found")
    # The running statistics come from other batches than in the run, so up to two of the 360 images may change sides.
    assert accuracy == pytest.approx(json.loads((run / "summary.json").read_text())["test_accuracy"], abs=2.5 / 360)
    assert accuracy > 0.9
    assert len(found) == 10
    assert max(found.values()) < 0.4


def test_inspect_refuses_to_compare_different_networks(
    subnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: Callable[..., str]
) -> None:
    other, mine = str(tmp_path / "other.subnet"), str(tmp_path / "mine.subnet")
    network = mask_(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), EdgePopup(density=0.5))
    save_subnet(network, mine, network="mine.Network")
    save_subnet(mask_(Conv2(), EdgePopup(density=0.5)), other, network="lightning_subnets.networks.Conv2")
    main(["inspect", mine, "--against", mine])
    said = " ".join(capsys.readouterr().out.split())
    assert "mine.Network()" in said
    assert "100.00% of the weights that either keeps" in said
    for pair in ([str(subnet), mine], [str(subnet), other], [mine, str(subnet)]):
        assert "of another network" in mistake(["inspect", pair[0], "--against", pair[1]], main)


def test_lightning_test_takes_a_file(
    run: Path, subnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy = json.loads((run / "summary.json").read_text())["test_accuracy"]
    alone = Path(shutil.copy(subnet, tmp_path / "alone.subnet"))
    for config in ([], ["-c", str(run / "config.yaml")]):
        capsys.readouterr()
        lightning(["test", *config, "--ckpt_path", str(alone), "--trainer.accelerator=cpu"])
        said = capsys.readouterr().out
        assert float(said.split("test/accuracy")[1].split("│")[1]) == pytest.approx(accuracy, abs=1e-6)


def test_only_the_data_of_a_files_config_are_built_and_nothing_is_downloaded(
    run: Path, subnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: Callable[..., str]
) -> None:
    # The file may be a stranger's, whose config names what a run would import, call or download.
    header, hostile = Container(subnet).header, tmp_path / "hostile.subnet"
    header.config["trainer"] = {"callbacks": [{"class_path": "nowhere.Malice"}], "logger": {"class_path": "nowhere.X"}}
    network = SavedRun(last(run)).module().network
    builder = {"class_path": header.network.builder, "init_args": header.network.arguments}
    save_subnet(network, hostile, network=builder, config=header.config)
    lightning(["test", "--ckpt_path", str(hostile), "--trainer.accelerator=cpu"])
    assert 'on Digits {"batch_size": 64' in capsys.readouterr().err
    for data, message in (
        ({"class_path": "nowhere.Data"}, "does not say which data of this package it is for"),
        (
            {"class_path": "CIFAR10", "init_args": {"root": str(tmp_path / "put"), "download": True}},
            "--data.download=true",
        ),
        ({"class_path": "CIFAR10", "init_args": [1]}, "data/cifar10"),
        ("CIFAR10", "does not say which data"),
    ):
        save_subnet(network, hostile, network=builder, config={"data": data}, force=True)
        assert message in mistake(["test", "--ckpt_path", str(hostile), "--trainer.accelerator=cpu"])
    assert not (tmp_path / "put").exists()


@pytest.mark.thorough
def test_a_fit_keeps_the_mask_of_a_file(subnet: Path, tmp_path: Path) -> None:
    lightning(
        [
            *["fit", "-c", str(ROOT / "configs" / "quickstart.yaml"), "--trainer.max_epochs=1"],
            *["--trainer.accelerator=cpu", "--model.method=FixedMask", f"--model.method.masks={subnet}"],
            *[f"--trainer.default_root_dir={tmp_path}", "--name=given"],
        ]
    )
    trained = SavedRun(last(tmp_path / "given" / "version_0")).module().network
    found = masked_weights(load_subnet(subnet, masked=True))
    assert all(torch.equal(layer.mask(), found[name].mask()) for name, layer in masked_weights(trained).items())


def test_a_fit_cannot_resume_from_a_file(subnet: Path, run: Path, mistake: Callable[..., str]) -> None:
    error = mistake(["fit", "-c", str(run / "config.yaml"), "--ckpt_path", str(subnet)])
    assert f"--model.method.masks={subnet}" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "LAST", "SUBNET"], "digits.subnet exists: --force replaces it"),
        (
            ["export", "LAST", "net.h5"],
            'unsupported extension ".h5" of net.h5: use .subnet, .pt, .safetensors or .onnx',
        ),
        (["export", "LAST", "net.subnet", "--network=mine.Network"], "is a checkpoint, whose config.yaml names its"),
        (["export", "LAST", "net.subnet", "--input_shape=[1, 8, 8]"], "--input_shape is the input of an .onnx file"),
        (["export", "SUBNET", "README.md", "--network=mine.Network"], "no network is built: leave out --network"),
        (["export", "SUBNET", "other.subnet"], "is a .subnet file already: copy it"),
        (["export", "LAST", "nowhere/net.subnet"], "nowhere is not a directory"),
        (["export", "nowhere.ckpt", "net.subnet"], "the checkpoint nowhere.ckpt does not exist"),
        (["export", "nowhere.subnet", "net.pt"], "nowhere.subnet cannot be read (No such file or directory)"),
        (["export", "LAST", "net.onnx", "--input_shape=[1, -8, 8]"], "input_shape = [1, -8, 8] has a size below 1"),
        (["export", "LAST", "folder.subnet", "--force"], "folder.subnet is a directory: name a file"),
        (["inspect", "LAST.subnet"], "LAST.subnet cannot be read"),
        (["inspect", "LAST", "--input_shape=[3, 8, 8]"], "cannot be followed for images of shape (3, 8, 8)"),
        (["inspekt"], "subnets --help"),
        (["check", "LAST", "--seeds=0"], "seeds = 0 is below 1"),
        (["inspect", "SUBNET", "--against", "other.subnet"], "other.subnet cannot be read"),
        (["check", "SUBNET"], "digits.subnet is a .subnet file, but this command needs the checkpoint of a run"),
        (["import", "LAST", "net.subnet", "--network", "torchvision.models.resnet18"], "subnets export"),
        (["import", "nowhere.pth", "net.subnet", "--network=torchvision.models.resnet18"], "nowhere.pth cannot be"),
        (["import", "nowhere.pth", "net.pt", "--network", "torchvision.models.resnet18"], "does not end in .subnet"),
        (
            ["import", "SUBNET", "net.subnet", "--network", "torchvision.models.resnet5"],
            "did you mean torchvision.models.resnet50?",
        ),
        (["import", "SUBNET", "net.subnet"], "--network=torchvision.models.resnet50"),
        (["import", "SUBNET", "net.subnet", "--network", "mine.Network"], "mine.Network"),
    ],
)
def test_a_mistake_is_one_clear_line_and_writes_nothing(
    arguments: list[str],
    message: str,
    run: Path,
    subnet: Path,
    tmp_path: Path,
    mistake: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = {"LAST": last(run), "SUBNET": str(subnet)}
    before = subnet.read_bytes()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.subnet").mkdir()
    there = sorted(tmp_path.iterdir())
    assert message in mistake([places.get(argument, argument) for argument in arguments], main)
    assert sorted(tmp_path.iterdir()) == there
    assert subnet.read_bytes() == before
