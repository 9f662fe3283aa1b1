"""Shipped configs are found by name, described in a line, and copied so that they work anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import ROOT

from lightning_subnets.commands.cli import main
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.run_files.shipped_configs import (
    copy_of,
    description,
    named_config,
    shipped_config,
    shipped_configs,
)

Mistake = Callable[..., str]
Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def resolved(capsys: Printed, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(["fit", *arguments, "--print_config"])
    assert exit_info.value.code == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return config


def test_every_config_of_the_repository_has_its_path_as_name() -> None:
    files = {str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"{name}.yaml" for name in shipped_configs()} == files


@pytest.mark.parametrize("option", [["-c", "cifar10/conv4_signed"], ["--config=cifar10/conv4_signed.yaml"]])
def test_a_config_by_name_is_that_of_the_repository(option: list[str], capsys: Printed) -> None:
    config = resolved(capsys, *option)
    assert config == resolved(capsys, "-c", str(ROOT / "configs/cifar10/conv4_signed.yaml"))
    assert config["model"]["network"]["class_path"].endswith("Conv4")


def test_a_path_is_preferred_to_a_name(capsys: Printed) -> None:
    Path("quickstart").write_text("config: digits/fast\nmodel.method.init_args.density: 0.125\n")
    config = resolved(capsys, "-c", "quickstart")
    assert config["model"]["method"]["init_args"]["density"] == 0.125
    assert config["model"]["network"]["class_path"].endswith("Conv4")
    assert shipped_config("quickstart") is None


def test_a_config_in_another_directory_may_name_a_shipped_one(capsys: Printed, mistake: Mistake) -> None:
    Path("mine").mkdir()
    Path("mine/own.yaml").write_text("config: quickstart\nmodel.scheduel: cosine\n")
    assert "error: mine/own.yaml, line 2: model.scheduel is not known." in mistake(["fit", "-c", "mine/own.yaml"])
    Path("mine/own.yaml").write_text("config: quickstart\nmodel.method.init_args.density: 0.25\n")
    config, known = resolved(capsys, "-c", "mine/own.yaml"), resolved(capsys, "-c", "quickstart")
    known["model"]["method"]["init_args"]["density"] = 0.25
    assert config == known


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("configs/quickstart.yaml", " Did you mean quickstart?"),
        ("conv4_signd", " Did you mean cifar10/conv4_signed or cifar10/conv8_signed or cifar10/conv6_signed?"),
        ("base.yaml", " Did you mean cifar10/base or digits/base or imagenet/base?"),
        ("nothing", ""),
    ],
)
def test_the_nearest_names_are_listed(value: str, names: str, mistake: Mistake) -> None:
    error = f"{value} is not a file, and no config of this package has that name.{names} All names: subnets configs\n"
    assert mistake(["fit", "-c", value]) == f"error: {error}"
    Path("own.yaml").write_text(f"config: {value}\n")
    assert mistake(["fit", "-c", "own.yaml"]) == f"error: own.yaml, line 1: {error}"
    assert mistake(["configs", "--copy", value], subnets) == f"error: {error}"


def test_a_figure_has_its_own_names(mistake: Mistake) -> None:
    error = mistake(["sweep", "figure33"], subnets)
    assert "Did you mean figures/figure3 or" in error
    assert "digits" not in mistake(["sweep", "fast"], subnets)


def test_the_list_has_a_line_for_each_config(capsys: Printed) -> None:
    subnets(["configs"])
    lines = capsys.readouterr().out.splitlines()[:-2]
    assert [line.split()[0] for line in lines] == [*shipped_configs()]
    assert max(map(len, lines)) <= 120
    assert "rn34_dense                          ResNet-34 with learned weights: 73.3 % top-1 in the paper's" in lines[5]
    for name, path in shipped_configs().items():
        assert len(description(path)) > 10, name


@pytest.mark.parametrize(
    "name", [name for name in shipped_configs() if not name.startswith(("figures/", "continual/"))]
)
def test_a_copy_is_based_on_the_same_config_by_name(name: str) -> None:
    path = shipped_configs()[name]
    own, copied = yaml.safe_load(path.read_text()), yaml.safe_load(copy_of(path))
    base, named = own.pop("config", None), copied.pop("config", None)
    assert own == copied
    assert (base is None and named is None) or (path.parent / base).resolve() == shipped_configs()[named]


@pytest.mark.parametrize("name", ["cifar10/conv4_signed", "imagenet/fast_rn50"])
def test_a_copy_in_another_directory_is_the_same_config(name: str, capsys: Printed) -> None:
    subnets(["configs", "--copy", name, "--out", "my copy.yaml"])
    assert capsys.readouterr().out == "my copy.yaml: edit it, then lightning fit -c 'my copy.yaml'\n"
    assert resolved(capsys, "-c", "my copy.yaml") == resolved(capsys, "-c", name)


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith("figures/")])
def test_a_copy_of_a_figure_has_the_same_runs(name: str, capsys: Printed) -> None:
    subnets(["configs", "--copy", name])
    copy = Path(f"{Path(name).name}.yaml")
    assert f"subnets sweep {copy}" in capsys.readouterr().out
    for scale in yaml.safe_load(copy.read_text())["scales"]:
        shipped = [*Sweep.read(shipped_configs()[name], scale).runs()]
        assert [*Sweep.read(copy, scale).runs()] == shipped


@pytest.mark.parametrize(("group", "name"), [("figures", "figure3"), ("continual", "permuted_digits")])
def test_a_copy_is_preferred_to_the_shipped_file_of_its_name(group: str, name: str) -> None:
    assert named_config(f"{name}.yaml", group) == shipped_configs()[f"{group}/{name}"]
    subnets(["configs", "--copy", f"{group}/{name}"])
    assert named_config(f"{name}.yaml", group) == Path(f"{name}.yaml")


def test_a_copy_replaces_nothing_unless_forced(mistake: Mistake) -> None:
    Path("quickstart.yaml").write_text("mine")
    assert "quickstart.yaml exists: --force replaces it" in mistake(["configs", "--copy", "quickstart"], subnets)
    assert Path("quickstart.yaml").read_text() == "mine"
    subnets(["configs", "--copy", "quickstart", "--force"])
    assert Path("quickstart.yaml").read_text() == (ROOT / "configs/quickstart.yaml").read_text()


@pytest.mark.parametrize("copied", [False, True], ids=["shipped", "own"])
@pytest.mark.parametrize(
    ("config", "command"),
    [
        ("digits/fast", "lightning fit -c"),
        ("figures/figure3", "subnets sweep"),
        ("continual/permuted_digits", "subnets continual"),
    ],
)
def test_a_config_for_another_command_names_its_command(
    config: str, command: str, copied: bool, mistake: Mistake, capsys: Printed
) -> None:
    if copied:
        subnets(["configs", "--copy", config, "--out", "my file.yaml"])
        assert f"then {command} 'my file.yaml'" in capsys.readouterr().out
    given, quoted = ("my file.yaml", "'my file.yaml'") if copied else (config, config)
    for other, entry in (("lightning fit -c", main), ("subnets sweep", subnets), ("subnets continual", subnets)):
        if other != command:
            assert f"its command is: {command} {quoted}\n" in mistake([*other.split()[1:], given], entry)
