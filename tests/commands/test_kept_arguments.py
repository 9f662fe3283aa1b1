"""A class that a command line names says what it keeps of the class of the config."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from lightning_subnets.commands.cli import main as lightning


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.network=ResNet20"], "ResNet20 keeps in_channels=1, width_multiplier=0.5 of the config; "),
        (["--model.network", "ResNet20", "--model.network.width_multiplier=1"], "ResNet20 keeps in_channels=1 of the"),
        (["--model.optimizer=torch.optim.AdamW"], "AdamW keeps lr=0.003 of the config; --model.optimizer.lr=... chang"),
        (["--model.method=Magnitude"], "Magnitude keeps density=0.5 of the config; --model.method.density=..."),
        (["--data=CIFAR10"], "CIFAR10 keeps batch_size=32 of the config; --data.batch_size=... changes it"),
        (["--model.network=Conv4"], None),  # the class of the config
        (["--model.method=Dense"], None),  # takes none of the arguments
        (["--model.network=ResNet20", "--model.network.in_channels=1", "--model.network.width_multiplier=1"], None),
        (["--model.network.width_multiplier=0.25"], None),
    ],
)
def test_a_class_of_the_command_line_says_what_it_keeps(
    options: list[str],
    said: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("config: digits/fast\n")  # Conv4 of half width for gray images, and Adam with a rate
    with suppress(SystemExit):  # digits have one channel, and no CIFAR-10 is here
        lightning(["fit", "-c", "own.yaml", *options, "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"])
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(said) if said else " keeps " not in first


def test_an_argument_within_another_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = "{start: 128, end: 160, start_epoch: 1, end_epoch: 4}"
    Path("own.yaml").write_text(f"config: rn50_signed\ndata.init_args.train_size: {sizes}\n")
    with pytest.raises(SystemExit):  # there are no images
        lightning(["fit", "-c", "own.yaml", "--data=ImageFolder", "--data.root=none", "--data.train_size.end=144"])
    kept = capsys.readouterr().err.splitlines()[0]
    assert kept.startswith("ImageFolder keeps ")
    assert "train_size.start=128" in kept
    assert "train_size.end=" not in kept


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.method=EdgePopup", None),  # the class of the config
        ("--model.method=Multicoated", "Multicoated keeps density=0.3 of the config; "),  # inner is of the base
        ("--model.method={class_path: Magnitude, init_args: {density: 0.1}}", None),
        ("--model.method.class_path=Magnitude", "Magnitude keeps density=0.3 of the config; "),
        ("--model.network=their_mlp.Their.small", "small keeps width_multiplier=0.5 of the config; "),
    ],
)
def test_only_what_the_last_config_gives_is_kept(
    option: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("their_mlp.py").write_text(
        "from lightning_subnets.networks import MLP\n\n\nclass Their(MLP):\n    @classmethod\n"
        "    def small(cls, width_multiplier: float = 1.0) -> 'Their':\n"
        "        return cls(in_channels=1, image_size=16)\n"
    )
    inner = "{density: 0.2, inner: [0.2627, 0.105]}"
    base = f"config: digits/fast\nmodel.method: {{class_path: Multicoated, init_args: {inner}}}\n"
    Path("base.yaml").write_text(base)
    Path("own.yaml").write_text("config: base.yaml\nmodel.method: {class_path: EdgePopup, init_args: {density: 0.3}}\n")
    with suppress(SystemExit):
        lightning(["fit", "-c", "own.yaml", option, "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert said in error if said else " of the config; " not in error
