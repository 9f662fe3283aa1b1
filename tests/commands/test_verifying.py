"""``subnets verify``: each claim about a ``.subnet`` file is computed again, and whatever is wrong with it is found."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from repository import ROOT

from lightning_subnets import EdgePopup, load_subnet, mask_, save_subnet
from lightning_subnets.commands.subnets import main
from lightning_subnets.datamodules import CIFAR10, Digits
from lightning_subnets.errors import UserError
from lightning_subnets.networks import Conv2

NETWORK: dict[str, Any] = {"in_channels": 1, "image_size": 8, "width_multiplier": 0.1}


def write(path: Path, data: dict[str, Any], seed: int = 0) -> None:
    network = mask_(Conv2(**NETWORK), EdgePopup(0.5), weights="signed_constant", seed=seed)
    builder = {"class_path": "lightning_subnets.networks.Conv2", "init_args": NETWORK}
    save_subnet(network, path, network=builder, config={"data": data}, force=True)


@pytest.fixture
def claims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the claim about a file on digits, ready to be changed and written; the command itself made its row."""
    write(tmp_path / "digits.subnet", {"class_path": "lightning_subnets.datamodules.Digits", "init_args": {}})
    (tmp_path / "claims.yaml").write_text("{}")
    with pytest.raises(SystemExit) as end:
        main(["verify", str(tmp_path)])
    assert end.value.code == 1
    printed = capsys.readouterr().out
    assert "digits.subnet has no claim" in printed
    return dict(yaml.safe_load(printed[printed.index("digits.subnet:") : printed.index("0 of 0")]))


@pytest.fixture
def verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return a function that writes claims, verifies them, and returns the exit code and what is printed."""

    def run(claims: Any, *options: str) -> tuple[int, str]:
        (tmp_path / "claims.yaml").write_text(yaml.safe_dump(claims))
        try:
            main(["verify", str(tmp_path), *options])
        except SystemExit as end:
            return int(end.code or 0), "".join(capsys.readouterr())
        return 0, "".join(capsys.readouterr())

    return run


Verify = Callable[..., tuple[int, str]]


def test_a_claim_that_the_command_wrote_holds(claims: dict[str, Any], verify: Verify, tmp_path: Path) -> None:
    (tmp_path / "digits.subnet").rename(tmp_path / "digits_edge_popup.subnet")
    claims["digits_edge_popup.subnet"] = claims.pop("digits.subnet")
    code, printed = verify(claims)
    assert code == 0
    assert "1 of 1 claims verified, 0 wrong, 0 not checked" in printed
    assert "│ digits_edge_popup │" in printed
    data = Digits()
    data.setup("test")
    images, labels = data.test_set
    with torch.no_grad():
        logits = load_subnet(tmp_path / "digits_edge_popup.subnet").double()(data.normalize(images).double())
    share = float((logits.argmax(1) == labels).double().mean())
    assert claims["digits_edge_popup.subnet"]["test"]["accuracy"] == round(share, 6)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("test", "accuracy", 0.123456),
        ("test", "images", 359),
        ("test", "images_sha256", 64 * "0"),
        ("test", "data", "CIFAR10"),
        ("file", "seed", 1),
        ("file", "kept", 1),
        ("file", "total", 1),
        ("file", "bytes", 1),
        ("file", "network", "lightning_subnets.networks.Conv4"),
        ("file", "sha256", 64 * "0"),
    ],
)
def test_each_fact_of_a_claim_is_compared(
    claims: dict[str, Any], verify: Verify, part: str, key: str, value: Any
) -> None:
    claims["digits.subnet"][part][key] = value
    code, printed = verify(claims)
    assert code == 1
    assert "1 wrong" in printed
    assert f"{key} is " in printed
    assert f"instead of {value}" in printed


def test_another_file_of_the_same_name_is_wrong(claims: dict[str, Any], verify: Verify, tmp_path: Path) -> None:
    write(tmp_path / "digits.subnet", {"class_path": "Digits", "init_args": {}}, seed=1)
    code, printed = verify(claims)
    assert code == 1
    assert "sha256 is " in printed


def test_a_damaged_or_missing_file_is_wrong(claims: dict[str, Any], verify: Verify, tmp_path: Path) -> None:
    path = tmp_path / "digits.subnet"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    code, printed = verify(claims)
    assert code == 1
    assert "1 wrong" in printed
    assert "damaged" in printed
    path.unlink()
    code, printed = verify(claims)
    assert code == 1
    assert "1 wrong" in printed
    assert "cannot be read" in printed


def test_a_claim_whose_data_are_absent_is_not_checked(
    claims: dict[str, Any], verify: Verify, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"class_path": "lightning_subnets.datamodules.CIFAR10", "init_args": {"root": str(tmp_path / "nowhere")}}
    write(tmp_path / "digits.subnet", data)
    claims["digits.subnet"]["file"] |= facts(tmp_path / "digits.subnet")
    claims["digits.subnet"]["test"]["data"] = "CIFAR10"
    code, printed = verify(claims)
    assert code == 0
    assert "0 of 1 claims verified, 0 wrong, 1 not checked" in printed
    assert "nowhere holds neither" in printed


def test_data_that_the_file_does_not_name_are_wrong_whether_they_are_here_or_not(
    claims: dict[str, Any], verify: Verify, tmp_path: Path
) -> None:
    write(tmp_path / "digits.subnet", {"class_path": "CIFAR10", "init_args": {"root": str(tmp_path / "nowhere")}})
    claims["digits.subnet"]["file"] |= facts(tmp_path / "digits.subnet")
    code, printed = verify(claims)
    assert code == 1
    assert "digits.subnet, wrong: data is CIFAR10 instead of Digits" in printed


def test_other_test_images_verify_nothing(claims: dict[str, Any], verify: Verify, tmp_path: Path) -> None:
    network = {"class_path": "lightning_subnets.networks.Conv2", "init_args": {"width_multiplier": 0.1}}
    masked = mask_(Conv2(width_multiplier=0.1), EdgePopup(0.5), weights="signed_constant", seed=0)
    data = {"class_path": "CIFAR10", "init_args": {"root": "data/elsewhere"}}
    save_subnet(masked, tmp_path / "digits.subnet", network=network, config={"data": data}, force=True)
    claims["digits.subnet"]["file"] |= facts(tmp_path / "digits.subnet")
    claims["digits.subnet"]["test"]["data"] = "CIFAR10"
    for part in ("train", "test"):
        folder = tmp_path / "images" / part / "cat"
        folder.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / "0.png")
    code, printed = verify(claims, f"--data.root={tmp_path / 'images'}")
    assert code == 0
    assert "0 of 1 claims verified, 0 wrong, 1 not checked" in printed
    assert "not those of the claim" in printed


def test_a_file_that_cannot_be_tested_hides_no_other(claims: dict[str, Any], verify: Verify, tmp_path: Path) -> None:
    larger = {"class_path": "Digits", "init_args": {"image_size": 16}}
    for name in ("a", "b"):
        write(tmp_path / f"{name}.subnet", larger)
    claims["a.subnet"] = {**claims["digits.subnet"], "file": facts(tmp_path / "a.subnet")}
    write(tmp_path / "c.subnet", {"class_path": "CIFAR10", "init_args": {"root": str(tmp_path / "nowhere")}})
    (tmp_path / "d.subnet").write_bytes(b"damaged")
    code, printed = verify(claims)
    assert code == 1
    assert "Traceback" not in printed
    assert "a.subnet, wrong: it cannot be tested on Digits: " in printed
    for name, reason in (
        ("b", "it cannot be tested on Digits: "),
        ("c", f"{tmp_path}/nowhere holds neither"),
        ("d", ""),
    ):
        assert f"{name}.subnet has no claim, and none can be computed here: {reason}" in printed
    assert "1 of 2 claims verified, 1 wrong, 0 not checked" in printed


def test_the_user_and_not_the_file_decides_what_is_downloaded(
    claims: dict[str, Any], verify: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(self: CIFAR10, *, train: bool, download: bool = False) -> None:
        asked.append(download)
        raise UserError("no network")

    monkeypatch.setattr(CIFAR10, "_torchvision", ask)
    root = tmp_path / "nowhere"
    claims["digits.subnet"]["test"]["data"] = "CIFAR10"
    for stated in ({}, {"download": True}):
        write(tmp_path / "digits.subnet", {"class_path": "CIFAR10", "init_args": {"root": str(root)} | stated})
        claims["digits.subnet"]["file"] |= facts(tmp_path / "digits.subnet")
        _, printed = verify(claims)
        assert "--data.download=true" in printed
        assert not asked
        code, printed = verify(claims, "--data.download=true")
        assert (code, asked) == (0, [True])
        assert "not checked: no network" in printed
        asked.clear()


def test_an_argument_of_no_data_is_a_mistake(claims: dict[str, Any], verify: Verify) -> None:
    code, printed = verify(claims, "--data.rot=/nowhere")
    assert code == 2
    assert "unknown argument of --data 'rot'. Did you mean 'root'? Known: batch_size, download, " in printed


def facts(path: Path) -> dict[str, Any]:
    from lightning_subnets.commands import claims

    return claims.file_facts(path).model_dump()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "is not YAML"),
        ("3", "has no claims"),
        ("x.subnet: {file: 3}", "has no claims"),
        ("{x: &a [*a]}", "has no claims"),
        ("a: &a {k: 1}\nb: {<<: [*a, *a]}", "the key << merges mappings: write their keys out"),
        ("x.subnet: {file: 3}\nx.subnet: {file: 4}", "the key 'x.subnet' is there twice: remove one"),
        ("x.subnet: {test: {accuracy: 0.9, accuracy: 0.1}}", "the key 'accuracy' is there twice: remove one"),
        *(
            (f"x.subnet: {{file: {{kept: {number}}}}}", f"a number has {len(number):,} characters: write at most 100")
            for number in ("0x" + "f" * 5_000, "1" + ":1" * 200_000, "1" + ":1" * 5_000 + ".5", "9" * 101)
        ),
    ],
)
def test_hostile_claims_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["verify", str(tmp_path)])
    assert end.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../digits.subnet", "a\0.subnet", "a\x1b[2J.subnet"])
def test_a_claim_names_a_file_of_its_folder(name: str, claims: dict[str, Any], verify: Verify) -> None:
    code, printed = verify({name: claims["digits.subnet"]})
    assert code == 2
    assert "expected a .subnet file of the same folder" in printed


def test_a_folder_without_claims_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["verify", str(tmp_path)])
    assert end.value.code == 2
    assert "claims.yaml cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("timm", [None, SimpleNamespace(list_models=list, model_entrypoint=None)])
def test_a_network_that_timm_does_not_build_here_is_not_checked(
    timm: object, verify: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", timm)
    shutil.copy(ROOT / "results/zoo/digits_vit.subnet", tmp_path)
    stated = yaml.safe_load((ROOT / "results/zoo/claims.yaml").read_text())["digits_vit.subnet"]
    code, printed = verify({"digits_vit.subnet": stated})
    assert code == 0
    assert "0 wrong, 1 not checked" in printed


def test_a_network_of_ones_own_is_not_checked(claims: dict[str, Any], verify: Verify, tmp_path: Path) -> None:
    path, (claim,) = tmp_path / "digits.subnet", claims.values()
    network = mask_(Conv2(**NETWORK), EdgePopup(0.5), weights="signed_constant", seed=0)
    save_subnet(network, path, network="mine.Net", config={"data": {"class_path": "Digits"}}, force=True)
    content = path.read_bytes()
    claim["file"] |= {"network": "mine.Net", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    code, printed = verify(claims)
    assert code == 0
    assert "not checked: mine.Net is not of torchvision, timm or this package" in printed


def test_the_table_has_what_is_claimed_before_what_is_found(
    claims: dict[str, Any], verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    test = claims["digits.subnet"]["test"]
    found, test["accuracy"] = test["accuracy"], 0.123456
    titles, row = (
        [cell.strip() for cell in re.split("[┃│]", line)[1:-1]]
        for line in verify(claims)[1].splitlines()
        if "claimed" in line or "│ digits" in line
    )
    shown = dict(zip(titles, row, strict=True))
    assert (shown["claimed"], shown["found"], shown["kept"]) == ("12.35%", f"{found:.2%}", "50.0%")
