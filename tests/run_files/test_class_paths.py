"""Class paths that name modules of the current directory, and modules there that nobody has named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from jsonargparse import _util
from repository import ROOT

from lightning_subnets import EdgePopup, load_subnet, mask_, masks, save_subnet
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.networks import Conv2
from lightning_subnets.run_files.builders import current_directory_last
from lightning_subnets.subnet_file.container import Container

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.accelerator=cpu"]
NETWORK = """
import wave  # of Python, and not imported before
from torch import nn
from my_layers import Last

class MyNet(nn.Sequential):
    def __init__(self, width: int = 4) -> None:
        super().__init__(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), Last(36 * width, 10))
"""
MARKS = "from pathlib import Path\nPath(__file__).with_suffix('.imported').touch()\n"
Mistake = Callable[..., str]


@pytest.fixture(autouse=True)
def _in_a_directory_with_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("my_net.py").write_text(NETWORK)
    Path("my_layers.py").write_text("from torch.nn import Linear as Last\n")
    for name in ("random", "json", "wave", "comet_ml", "unnamed"):  # comet_ml is tried by Lightning
        Path(f"{name}.py").write_text(MARKS)
    path = list(sys.path)
    yield
    assert sys.path == path
    assert not list(tmp_path.glob("*.imported"))
    for name in ("my_net", "my_layers", "wave"):
        sys.modules.pop(name, None)


def test_the_command_imports_the_named_network_and_no_other_module(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "lightning"), "fit", "-c", QUICKSTART, *SHORT]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # a relative path would be this directory
    # jsonargparse looks for stubs of this callback's arguments.
    options = ["--model.network=my_net.MyNet", "--trainer.callbacks+=EMAWeightAveraging"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert Path("runs/quickstart/version_0/summary.json").is_file()


def test_every_command_finds_the_network_of_a_run_and_of_a_file(
    capsys: pytest.CaptureFixture[str], mistake: Mistake
) -> None:
    Path("configs").mkdir()
    network = "model.network: {class_path: my_net.MyNet, init_args: {width: 6}}"
    Path("configs/base.yaml").write_text(f"config: {QUICKSTART}\n{network}\n")
    Path("configs/own.yaml").write_text("config: base.yaml\n")
    lightning(["fit", "-c", "configs/own.yaml", *SHORT, "--version=a"])
    Path("runs/own/a/summary.json").unlink()
    for command in (
        [lightning, "fit", "-c", "configs/own.yaml", *SHORT, "--version=a", "--trainer.max_epochs=2"],
        [lightning, "test", "--ckpt_path=runs/own/a"],
        [lightning, "predict", "--ckpt_path=last"],
        [subnets, "inspect", "last"],
        [subnets, "export", "last", "own.subnet"],
        [lightning, "test", "--ckpt_path=own.subnet", "--model.network=my_net.MyNet"],
        [subnets, "export", "own.subnet", "own.pt", "--network=my_net.MyNet"],
    ):
        for name in ("my_net", "my_layers"):
            sys.modules.pop(name, None)
        command[0](command[1:])  # type: ignore[operator]
    assert Container("own.subnet").header.network.arguments == {"width": 6}
    assert torch.load("own.pt")["0.weight"].shape == (6, 1, 3, 3)
    lines = [line for line in capsys.readouterr().out.splitlines() if "test/accuracy" in line]
    assert len(lines) == 2
    assert lines[0] == lines[1], "the file computes what the run does"
    assert "add --model.network=my_net.MyNet" in mistake(["test", "--ckpt_path=own.subnet"])
    assert "add --network=my_net.MyNet" in mistake(["export", "own.subnet", "again.pt"], subnets)
    error = mistake(["export", "own.subnet", "again.pt", "--network=my_net.Other"], subnets)
    assert "the network my_net.Other cannot be imported (module 'my_net' has no attribute 'Other')" in error


def test_every_command_takes_a_network_of_this_package_by_its_name_alone() -> None:
    network = mask_(Conv2(in_channels=1, image_size=8), EdgePopup(0.5))
    arguments = {"in_channels": 1, "image_size": 8}
    data = {"class_path": "lightning_subnets.datamodules.Digits", "init_args": {}}
    config, name = {"data": data}, "lightning_subnets.networks.Conv2"
    save_subnet(network, "own.subnet", network={"class_path": name, "init_args": arguments}, config=config)
    lightning(["test", "--ckpt_path=own.subnet", "--model.network=Conv2"])
    subnets(["export", "own.subnet", "own.pt", "--network=Conv2"])
    torch.save({key: mask.float() for key, mask in masks(network).items()}, "masks.pt")
    options = ["--network=Conv2", f"--arguments={arguments}", "--weights=signed_constant"]
    subnets(["import", "masks.pt", "again.subnet", *options])
    assert Container("again.subnet").header.network.builder == name


def test_masks_of_an_own_network_are_imported() -> None:
    torch.save({"0": torch.ones(4, 1, 3, 3), "3": torch.ones(10, 144)}, "masks.pt")
    options = ["--network=my_net.MyNet", "--weights=signed_constant"]
    subnets(["import", "masks.pt", "own.subnet", *options])
    assert Container("own.subnet").header.network.builder == "my_net.MyNet"


def test_a_strangers_file_imports_nothing_from_the_current_directory(mistake: Mistake) -> None:
    network = mask_(Conv2(in_channels=1, image_size=8), EdgePopup(density=0.5), weights="signed_constant")
    data = {"data": {"class_path": "Digits", "init_args": {}}}
    save_subnet(network, "hostile.subnet", network="unnamed.Network", config=data)
    assert "needs the network unnamed.Network" in mistake(["test", "--ckpt_path=hostile.subnet"])
    assert "needs the network unnamed.Network" in mistake(["export", "hostile.subnet", "a.pt"], subnets)
    assert "needs the network unnamed.Network" in mistake(
        ["test", "--ckpt_path=hostile.subnet", "--trainer.callbacks+=my_net.Callback"]
    )
    subnets(["inspect", "hostile.subnet"])
    named = ["--network=lightning_subnets.networks.Conv2"]
    with pytest.raises(SystemExit):  # its arguments are not in the file
        subnets(["export", "hostile.subnet", "a.pt", *named])
    load_subnet("hostile.subnet", network=Conv2(in_channels=1, image_size=8))


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["fit", "--model.network=my_net.MyNet"], True),
        (["fit", "--trainer.callbacks+={class_path: my_net.MyNet}"], True),
        (["fit", "-c", "named.yaml"], True),
        (["fit", "--config=includes.yaml"], True),
        (["fit", "--data.root=my_net", "--name=other.my_net.x", "-c", "other.yaml"], False),
        (None, True),
    ],
)
def test_only_a_module_that_the_user_has_named_is_looked_for(args: list[str] | None, found: bool) -> None:
    Path("named.yaml").write_text("a:\n- class_path: my_net.MyNet\n")
    Path("includes.yaml").write_text("config: named.yaml\n")
    Path("other.yaml").write_text("my_net.key: [other.my_net.MyNet]\n")
    with current_directory_last(args):
        if found:
            assert _util.import_object("my_net.MyNet").__name__ == "MyNet"
        else:
            with pytest.raises(ModuleNotFoundError, match="my_net"):
                _util.import_object("my_net.MyNet")
    sys.modules.pop("my_net", None)
    with pytest.raises(ModuleNotFoundError, match="my_net"):
        _util.import_object("my_net.MyNet")
