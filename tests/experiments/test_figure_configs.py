"""The shipped figures: the number of runs at each scale, and the options of every run."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from repository import ROOT

from lightning_subnets.commands.cli import main
from lightning_subnets.experiments.sweep.figure import Figure, Options
from lightning_subnets.experiments.sweep.figure import figure_of as parse
from lightning_subnets.experiments.sweep.plan import PlannedRun, Sweep
from lightning_subnets.masking.allocation import num_kept
from lightning_subnets.masking.initialization import DISTRIBUTIONS
from lightning_subnets.networks import Conv4

FIGURES = ROOT / "configs" / "figures"

NAMES = sorted(path.stem for path in FIGURES.glob("*.yaml"))


@cache
def figure_of(name: str) -> Figure:
    path = FIGURES / f"{name}.yaml"
    return parse(path, yaml.safe_load(path.read_text()))


PAPERS = [name for name in NAMES if "paper" in figure_of(name).scales]


def read(figure: str, scale: str) -> Sweep:
    """Return a sweep; its figure is parsed once for all scales."""
    return Sweep(f"{figure}-{scale}", figure_of(figure), scale, FIGURES)


def sweeps() -> list[tuple[str, str]]:
    return [(figure, scale) for figure in NAMES for scale in figure_of(figure).scales]


@cache
def runs_of(figure: str, scale: str) -> list[PlannedRun]:
    return list(read(figure, scale).runs())


def names_of(figure: str, scale: str) -> set[str]:
    return {run.name for run in runs_of(figure, scale)}


def options_of(run: PlannedRun) -> Options:
    """Return the options of a run, by dotted key."""
    named = [argument.removeprefix("--").split("=", 1) for argument in run.arguments[2:]]
    return {key: _parsed(value) for key, value in named}


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)  # YAML would read 1e-05 as a text
    except ValueError:
        return value


def test_every_figure_is_described_with_its_number_of_runs() -> None:
    described = {}
    text = (FIGURES / "README.md").read_text()
    for names, runs in re.findall(r"^\| (`[^|]+`) \|[^|]+\| ([^|]+) \|", text, re.MULTILINE):
        for name, counts in zip(re.findall(r"`([^`]+)\.yaml`", names), runs.split("; "), strict=True):
            described[name] = [int(count) for count in counts.split(", ")]
    scales = {name: ("smoke", "evening", "paper") if name in PAPERS else list(figure_of(name).scales) for name in NAMES}
    assert described == {name: [len(runs_of(name, scale)) for scale in scales[name]] for name in NAMES}


def test_all_runs_of_a_figure_differ_except_at_the_own_width_of_alexnets_layers() -> None:
    for figure, scale in sweeps():
        twice = 4 * len(read(figure, scale).scale.seeds) if figure == "alexnet_width" else 0
        assert len(names_of(figure, scale)) == len(runs_of(figure, scale)) - twice, (figure, scale)


def test_figures_share_runs_with_figure_3() -> None:
    seeds, third = len(read("figure3", "paper").scale.seeds), names_of("figure3", "paper")
    shared = [len(third & names_of(other, "paper")) / seeds for other in ("figure4", "figure6", "figure7")]
    assert shared == [2 * 4, 4 * 2, 4 * 2 * 5]  # lines and networks, lines and networks, lines, networks and densities


def test_the_papers_protocol_has_100_epochs_and_five_seeds_or_one_on_imagenet() -> None:
    for figure in PAPERS:
        scale = read(figure, "paper").scale
        assert "trainer.max_epochs" not in scale.options or figure == "phew_trace"
        assert scale.seeds == ([0] if scale.configs == "../imagenet" else [0, 1, 2, 3, 4])


@pytest.mark.parametrize(("scale", "tolerance"), [("smoke", 3e-3), ("paper", 1e-3)])
def test_a_line_of_figure_5_changes_the_width_but_not_the_number_of_kept_weights(scale: str, tolerance: float) -> None:
    smoke: dict[str, Any] = {"in_channels": 1, "image_size": 8} if scale == "smoke" else {}
    kept: dict[str, dict[Any, int]] = {}
    for run in runs_of("figure5", scale):
        options = options_of(run)
        width = options.get("model.network.init_args.width_multiplier", 1)
        assert run.values == {"width": width}
        with torch.device("meta"):
            layers = list(Conv4(width_multiplier=width, **smoke).parameters())
        count = sum(num_kept(layer.numel(), options["model.method.density"]) for layer in layers)
        kept.setdefault(run.line, {})[width] = count
    whole = sum(layer.numel() for layer in Conv4(**smoke).parameters())
    for line, counts in kept.items():
        assert len(counts) >= 3
        wanted = int(line.split()[3]) / 100 * whole
        assert all(count == pytest.approx(wanted, rel=tolerance) for count in counts.values()), (line, counts)


def kinds(run: PlannedRun) -> frozenset[str]:
    """Return what the parser may refuse in a run: its config, its options, and their classes."""
    config = "/".join(Path(run.arguments[1]).parts[-2:])
    options = options_of(run)
    classes = [f"{key}={options[key]}" for key in ("model.network", "model.method", "data") if key in options]
    return frozenset([config, *options, *classes])


def sample() -> list[PlannedRun]:
    """Return a few runs that together have every config, option and class of all runs."""
    by_kinds = {kinds(run): run for sweep in sweeps() for run in runs_of(*sweep) if run.seed == 0}
    missing = set().union(*by_kinds)
    chosen = []
    while missing:
        most = max(by_kinds, key=lambda each: len(each & missing))
        chosen.append(by_kinds[most])
        missing -= most
    return chosen


def test_every_distribution_and_every_resnet_of_a_run_exists() -> None:
    options = [options_of(run) for sweep in sweeps() for run in runs_of(*sweep) if run.seed == 0]
    assert {each["model.weights"] for each in options if "model.weights" in each} <= set(DISTRIBUTIONS)
    name = "model.network.init_args.name"
    assert {each[name] for each in options if name in each} == {"resnet18", "resnet50", "wide_resnet50_2"}


def value_at(config: Any, key: str) -> Any:
    """Return a value of a resolved config; the key may lack ``init_args``."""
    for part in key.split("."):
        config = config[part] if part in config else config["init_args"][part]
    return config


def holds(found: Any, wanted: Any) -> bool:
    """Return whether a value of a resolved config, which has all arguments, is what an option asks for."""
    if isinstance(wanted, dict):
        return all(holds(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(holds, found, wanted))
    if isinstance(found, dict):
        found = found["class_path"]
    return bool(found == wanted or str(found).endswith(f".{wanted}"))


@pytest.mark.thorough
def test_every_option_of_every_run_is_accepted_and_the_network_fits_the_images(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for run in sample():
        with pytest.raises(SystemExit) as exit_info:
            main(["fit", *run.arguments, "--print_config"])
        output = capsys.readouterr()
        assert exit_info.value.code == 0, (run.arguments, output.err)
        config = yaml.safe_load(output.out)
        for key, value in options_of(run).items():
            found = value_at(config, key)
            assert holds(found, value), (run.arguments, key, found)
        network, data = config["model"]["network"]["init_args"], config["data"]["init_args"]
        assert network.get("in_channels", 3) == (1 if "Digits" in config["data"]["class_path"] else 3)
        assert network.get("image_size") in (None, data.get("image_size", 32))
        assert data.get("num_classes", network["num_classes"]) == network["num_classes"]
