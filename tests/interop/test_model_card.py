"""A model card has a header that the hub reads, lines of Python that run, and texts of strangers only as code."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from repository import ROOT
from torch import nn

import lightning_subnets as ls
from lightning_subnets.commands.subnets import main
from lightning_subnets.interop import model_card
from lightning_subnets.networks import Conv2
from lightning_subnets.subnet_file.container import Container

ModelCard = pytest.importorskip("huggingface_hub", reason="pip install lightning-subnets[hub]").ModelCard

NETWORK = {
    "class_path": "lightning_subnets.networks.Conv2",
    "init_args": {"width_multiplier": 0.1, "image_size": 8, "in_channels": 1},
}
CONFIG = {
    "data": {"class_path": "lightning_subnets.datamodules.Digits", "init_args": {"batch_size": 64}},
    "model": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}},
    "trainer": {"max_epochs": 30},
}
DETAILS: dict[str, Any] = {
    "classes": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "accuracy": {"test_accuracy": 0.9512, "test_top5": 0.99},
    "preprocessing": {"input_shape": [1, 8, 8], "mean": [0.3], "std": [0.2]},
    "config": CONFIG,
}
# Each ends a code span, a list, a code block, the header, a template or a line, or is HTML.
HOSTILE = "a`b\n---\n```\n\n# <script>alert(1)</script> {{ 7 * 7 }} [x](http://x) \u202e\x1b[2J\\`: &"


def saved(path: Path, method: Any = None, *, network: Any = NETWORK, **details: Any) -> Path:
    masked = ls.mask_(Conv2(**NETWORK["init_args"]), method or ls.EdgePopup(density=0.3), weights="kaiming_normal")  # type: ignore[arg-type]
    if method:
        with torch.no_grad():
            next(each for name, each in masked.named_parameters() if name.endswith("weight")).mul_(1.5)
        ls.invalidate_(masked)
    ls.save_subnet(masked, path, network=network, **(DETAILS | details))
    return path


def written(subnet: Path, data: str | None = "Digits", license: str | None = None) -> Any:
    out = subnet.with_name("README.md")
    model_card.write(subnet, out, data=data, license=license)
    return ModelCard.load(out)


def block(card: Any, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", card.text, flags=re.DOTALL | re.MULTILINE)
    return str(found)


def test_the_header_is_what_the_hub_reads(tmp_path: Path) -> None:
    card = written(saved(tmp_path / "small.subnet"), license="apache-2.0")
    header = card.data
    assert (header.license, header.library_name, header.pipeline_tag) == (
        "apache-2.0",
        "lightning-subnets",
        "image-classification",
    )
    assert header.tags == ["pytorch", "pruning", "subnetwork", "edgepopup"]
    assert header.model_name == "small"
    results = [
        (each.dataset_type, each.dataset_name, each.dataset_split, each.metric_name, each.metric_value)
        for each in header.eval_results
    ]
    assert results == [
        ("sklearn-digits", "the handwritten digits of scikit-learn", "test", "Test accuracy", 0.9512),
        ("sklearn-digits", "the handwritten digits of scikit-learn", "test", "Test top-5 accuracy", 0.99),
    ]


def test_the_text_states_the_facts_of_the_file(tmp_path: Path) -> None:
    subnet = saved(tmp_path / "small.subnet")
    text, header = written(subnet).text, Container(subnet).header
    kept = sum(layer.kept for layer in header.layers.values())
    for fact in (
        "The masked weights were never trained: the seed gives each of them.",
        "- Accuracy: Test accuracy 95.12%, Test top-5 accuracy 99.00%, on the handwritten digits of scikit-learn\n",
        f"- Weights kept: {kept:,} of {header.total:,} (",
        "- Weights: distribution `kaiming_normal`, seed 0\n",
        f"- Size: {subnet.stat().st_size:,} bytes, {8 * subnet.stat().st_size / header.total:.2f} bits a weight\n",
        "- Classes: 10: `zero`, `one`, `two`, ",
        "`trainer.max_epochs=30`, `data.init_args.batch_size=64`, `model.optimizer=torch.optim.SGD(lr=0.1)`\n",
        header.digests.weights,
        header.digests.masks,
        "`hf://USER/REPOSITORY/small.subnet`",
    ):
        assert fact in text


def test_the_lines_of_python_run_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subnet = saved(tmp_path / 'it\'s "one" ```.subnet')
    found: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    card = written(subnet)
    assert block(card, "bash") == 'pip install "lightning-subnets[hub]"\n'
    exec(block(card, "python"), found)
    assert isinstance(found["network"], nn.Module)
    assert found["logits"].shape == (1, 10)


def test_the_text_says_what_signs_and_coats_do(tmp_path: Path) -> None:
    text = written(saved(tmp_path / "small.subnet", ls.Multicoated(density=0.3, signed=True))).text
    assert "kept, and which of these are negated, and by which small integer each is multiplied." in text
    assert "`masked=True` gives a masked network" in text


class Own(ls.EdgePopup):
    pass


def test_a_network_of_an_own_method_cannot_be_loaded_to_train_it(tmp_path: Path) -> None:
    subnet = saved(tmp_path / "small.subnet", Own(density=0.3))
    assert "masked=True" not in written(subnet).text
    with pytest.raises(ls.UserError, match="without masked=True"):
        ls.load_subnet(subnet, masked=True)


def test_an_accuracy_on_images_in_a_folder_is_not_that_of_cifar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        Path("data/cifar10", part, "cat").mkdir(parents=True)
    main(["export", str(ROOT / "results/zoo/cifar10_airbench.subnet"), "README.md"])
    card = ModelCard.load("README.md")
    assert card.data.eval_results is None
    assert "on CIFAR-10" not in card.text
    assert "does not say that the accuracy is on CIFAR10: data/cifar10 does not hold the" in capsys.readouterr().out
    shutil.rmtree("data/cifar10")
    Path("data/cifar10/cifar-10-batches-py").mkdir(parents=True)
    main(["export", str(ROOT / "results/zoo/cifar10_airbench.subnet"), "README.md", "--force"])
    assert "on CIFAR-10" in ModelCard.load("README.md").text


def test_weights_that_were_trained_are_not_called_untrained(tmp_path: Path) -> None:
    text = written(saved(tmp_path / "small.subnet", ls.Random(density=0.3))).text
    assert "never trained" not in text
    assert "the weights of 1 of the 5 masked tensors" in text


def test_what_the_file_does_not_state_is_not_made_up(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"classes": [], "accuracy": {}, "preprocessing": {}, "config": {}}
    card = written(saved(tmp_path / "small.subnet", **nothing), data=None)
    assert card.data.eval_results is None
    assert card.data.license is None
    assert "- Accuracy: not stated in the file\n" in card.text
    assert not re.search("^- (Classes|Images|Made by):", card.text, flags=re.MULTILINE)
    assert "logits" not in block(card, "python")


@pytest.mark.parametrize(
    "details",
    [
        {"classes": ["zero", "one"]},
        {"config": {"data": {"init_args": {"num_classes": 2}}}, "classes": []},
        {"config": {"data": {"init_args": {"permutation": 0}}}},
        {"preprocessing": {"input_shape": [1, 8, 8], "permutation": [*range(64)]}},
    ],
)
def test_the_accuracy_on_other_classes_or_permuted_pixels_is_not_that_of_the_data_set(
    details: dict[str, Any], tmp_path: Path
) -> None:
    card = written(saved(tmp_path / "small.subnet", **details))
    assert card.data.eval_results is None
    assert "- Accuracy: Test accuracy 95.12%, Test top-5 accuracy 99.00%\n" in card.text


def test_texts_of_a_stranger_stay_in_code_spans(tmp_path: Path) -> None:
    subnet = saved(
        tmp_path / "a`b --- {{ 7 * 7 }}: <b>.subnet",
        network=f"stranger.{HOSTILE}",
        classes=[HOSTILE, "", "x" * 10_000],
        accuracy={HOSTILE: 0.5},
        preprocessing={HOSTILE: HOSTILE},
        config={
            "model": {"optimizer": {"class_path": HOSTILE, "init_args": {HOSTILE: HOSTILE}}, "schedule": [HOSTILE]}
        },
    )
    card = written(subnet)
    assert card.data.model_name == "a`b --- {{ 7 * 7 }}: <b>"
    assert card.data.eval_results is None
    assert "YOUR_NETWORK" in block(card, "python")
    prose = re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", card.text, flags=re.DOTALL | re.MULTILINE))
    assert not re.search(r"<|\[|\{|script|stranger|\x1b|\u202e|`", prose)
    assert len(card.text) < 5_000


def test_a_card_is_written_beside_the_file_of_a_run(
    finished_run: Path, tmp_path: Path, mistake: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out, card = (
        str(finished_run / "checkpoints" / "last.ckpt"),
        tmp_path / "a.subnet",
        tmp_path / "README.md",
    )
    main(["export", checkpoint, str(out), "--model_card", "--license=mit"])
    assert "README.md: the model card" in capsys.readouterr().out
    data = ModelCard.load(card).data
    assert data.license == "mit"
    assert data.eval_results[0].dataset_type == "sklearn-digits"
    card.write_text("mine")
    out.unlink()
    assert "README.md exists" in mistake(["export", checkpoint, str(out), "--model_card"], main)
    assert card.read_text() == "mine"
    assert not out.exists()
    main(["export", checkpoint, str(out), "--model_card", "--force"])
    assert ModelCard.load(card).data.library_name == "lightning-subnets"


def test_a_card_is_written_for_a_file_that_exists(tmp_path: Path, mistake: Callable[..., str]) -> None:
    subnet, card = saved(tmp_path / "small.subnet"), tmp_path / "card.md"
    main(["export", str(subnet), str(card)])
    assert ModelCard.load(card).data.model_name == "small"
    before = card.read_text()
    assert "card.md exists" in mistake(["export", str(subnet), str(card)], main)
    assert card.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["last.ckpt", "README.md"], "a model card describes a .subnet file"),
        (["last.ckpt", "net.pt", "--model_card"], "a model card describes a .subnet file"),
        (["last.ckpt", "net.subnet", "--license=mit"], "add --model_card"),
    ],
)
def test_a_card_without_a_file_is_refused(mistake: Callable[..., str], arguments: list[str], expected: str) -> None:
    assert expected in mistake(["export", *arguments], main)


def test_without_the_package_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    error = mistake(["export", "last.ckpt", str(tmp_path / "a.subnet"), "--model_card"], main)
    assert 'pip install "lightning-subnets[hub]"' in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("timm", [None, SimpleNamespace(list_models=list, model_entrypoint=None)])
def test_a_file_whose_network_timm_does_not_build_here_has_a_card_and_is_inspected_without_paths(
    timm: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "timm", timm)
    vit, card = str(ROOT / "results" / "zoo" / "digits_vit.subnet"), tmp_path / "README.md"
    main(["export", vit, str(card)])
    assert block(ModelCard.load(card), "bash") == 'pip install "lightning-subnets[hub]" timm\n'
    assert "load_subnet('digits_vit.subnet')" in block(ModelCard.load(card), "python")
    main(["inspect", vit, "--against", vit])
    said = " ".join(capsys.readouterr().out.split())
    for part in ("vit_small_patch16_rope_224(", "blocks.0", "no paths: ", "100.00% of the weights that either keeps"):
        assert part in said
