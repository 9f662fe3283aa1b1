from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import ROOT

from lightning_subnets.errors import UserError
from lightning_subnets.experiments.sweep.plan import Sweep

FIGURE: dict[str, Any] = {
    "title": "Figure 3",
    "source": "Ramanujan et al. 2020",
    "caption": "Accuracy by density.",
    "axes": {
        "network": {"Conv2": {"model.network": "a.Conv2"}, "Conv4": {"model.network": "a.Conv4"}},
        "density": {"model.method.density": [0.1, 0.5, 0.9]},
    },
    "lines": {
        "U_k": {"config": "base.yaml", "options": {"model.weights": "signed_constant"}},
        "dense": {"config": "dense.yaml", "over": ["network"]},
    },
    "plots": [{"x": "density", "panels": "network"}],
    "scales": {
        "paper": {"configs": "../cifar10", "note": "CIFAR-10", "seeds": [0, 1]},
        "smoke": {
            "configs": "../digits",
            "note": "digits",
            "seeds": [0],
            "options": {"trainer.max_epochs": 1, "model.weights": "kaiming_normal"},
            "axes": {"density": [0.5], "network": ["Conv4"]},
        },
    },
}


def over(axis: str) -> dict[str, Any]:
    """Return the figure with one axis of a name."""
    only = {"lines": {"U_k": {"config": "base.yaml"}}, "axes": {axis: {"a": [1]}}, "plots": [{"x": axis}]}
    return changed(axes={}) | only


def written(figure: dict[str, Any], tmp_path: Path) -> Path:
    """Write the figure and its configs."""
    for folder in ("cifar10", "digits", "figures"):
        (tmp_path / folder).mkdir(exist_ok=True)
    for folder in ("cifar10", "digits"):
        (tmp_path / folder / "base.yaml").write_text("model.lr: 0.1\n")
        (tmp_path / folder / "dense.yaml").write_text("config: base.yaml\nmodel.method: Dense\n")
    path = tmp_path / "figures" / "figure3.yaml"
    path.write_text(yaml.safe_dump(figure, sort_keys=False))
    return path


def changed(**scale: Any) -> dict[str, Any]:
    """Return the figure with another smoke scale."""
    return FIGURE | {"scales": {"smoke": FIGURE["scales"]["smoke"] | scale}}


def test_a_line_varies_along_its_axes_for_each_seed(tmp_path: Path) -> None:
    sweep = Sweep.read(written(FIGURE, tmp_path), "paper")
    assert [(run.line, dict(run.values), run.seed) for run in sweep.runs()] == [
        (line, {"network": network} | ({} if density is None else {"density": density}), seed)
        for seed in (0, 1)
        for line, densities in (("U_k", [0.1, 0.5, 0.9]), ("dense", [None]))
        for network in ("Conv2", "Conv4")
        for density in densities
    ]


def test_the_options_of_an_axis_override_those_of_a_line_and_of_the_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    learned, dense = Sweep.read(written(FIGURE, tmp_path), "smoke").runs()
    assert learned.arguments == (
        "-c",
        "digits/base.yaml",
        "--trainer.max_epochs=1",
        "--model.weights=signed_constant",
        "--model.network=a.Conv4",
        "--model.method.density=0.5",
        "--seed_everything=0",
    )
    assert learned.name.startswith("digits_base-density=0.5-network=Conv4-weights=signed_constant-max_epochs=1-seed=0-")
    assert "--model.weights=kaiming_normal" in dense.arguments


def test_a_scale_and_a_line_may_have_other_values_on_an_axis(tmp_path: Path) -> None:
    other = changed(axes={"density": {"0.2 of it": {"model.method.density": 0.2, "model.seed": 3}}})
    run, *_ = Sweep.read(written(other, tmp_path), "smoke").runs()
    assert run.values == {"network": "Conv2", "density": "0.2 of it"}
    assert run.arguments[-3:] == ("--model.method.density=0.2", "--model.seed=3", "--seed_everything=0")
    line = {"config": "base.yaml", "over": ["density"], "axes": {"density": {"model.method.density": [0.5, 0.7]}}}
    figure = written(FIGURE | {"lines": {"own": line}, "plots": [{"x": "density"}]}, tmp_path)
    for scale, values in (("paper", [0.5, 0.7] * 2), ("smoke", [0.5])):
        assert [run.values["density"] for run in Sweep.read(figure, scale).runs()] == values


def test_a_class_in_a_figure_is_passed_on_and_not_built(tmp_path: Path) -> None:
    trace = tmp_path / "called"
    options = {"model.method": {"class_path": "os.system", "init_args": {"command": f"touch {trace}"}}}
    line = {"lines": {"U_k": {"config": "base.yaml", "options": options}}}
    for figure in (
        changed(axes={"density": {"none": {}}}) | line,
        changed(options=options, axes={"density": {"none": {}}}),
        changed(axes={"density": {"one": options}}),
    ):
        sweep = Sweep.read(written(figure, tmp_path), "smoke")
        run, *_ = sweep.runs()
        assert f"--model.method={json.dumps(options['model.method'])}" in run.arguments
        assert "method=system" in run.name
        sweep.write(tmp_path / "sweep.yaml")
        again = Sweep.load(tmp_path / "sweep.yaml")
        assert (again.name, again.scale_name, again.figure) == ("figure3-smoke", "smoke", sweep.figure)
    assert not trace.exists()


def test_runs_have_the_same_name_if_and_only_if_their_arguments_are_the_same(tmp_path: Path) -> None:
    runs = list(Sweep.read(written(FIGURE, tmp_path), "paper").runs())
    assert len({run.name for run in runs}) == len(runs) == 16
    turned = FIGURE | {"axes": dict(reversed(FIGURE["axes"].items()))}
    assert {run.name for run in Sweep.read(written(turned, tmp_path), "paper").runs()} == {run.name for run in runs}
    namesakes = changed(axes={"density": {"a": {"model.x": "a.Same"}, "b": {"model.x": "b.Same"}}}, lines=["U_k"])
    assert len({run.name for run in Sweep.read(written(namesakes, tmp_path), "smoke").runs()}) == 2 * 2


def test_a_changed_config_gives_another_run(tmp_path: Path) -> None:
    path = written(FIGURE, tmp_path)

    def dense() -> str:
        return next(run.name for run in Sweep.read(path, "smoke").runs() if run.line == "dense")

    before, base = dense(), tmp_path / "digits" / "base.yaml"
    base.write_text("# The same.\nmodel.lr: 0.1\n")
    assert dense() == before
    base.write_text("model.lr: 0.2\n")  # the base of dense.yaml
    assert dense() != before
    config, names = tmp_path / "digits" / "dense.yaml", set()
    for shipped in ("quickstart", ROOT / "configs" / "quickstart.yaml"):
        config.write_text(f"config: {shipped}\nmodel.method: Dense\n")
        names.add(dense())
    assert len(names) == 1
    config.write_text("- model.method: Dense\n")
    with pytest.raises(UserError, match=r"dense.yaml is not a config: it must be a mapping from keys to values"):
        dense()


@pytest.mark.parametrize("base", ["base.yaml", "dense.yaml", "../digits/base.yaml"])
def test_a_config_that_is_based_on_itself_is_a_mistake(base: str, tmp_path: Path) -> None:
    path = written(FIGURE, tmp_path)
    (tmp_path / "digits" / "base.yaml").write_text(f"config: {base}\n")  # dense.yaml is based on base.yaml
    with pytest.raises(UserError, match=r"base.yaml is based on itself: its key `config` must name another file"):
        Sweep.read(path, "smoke")


def test_the_name_of_a_run_can_be_a_directory(tmp_path: Path) -> None:
    long = {"model.network.init_args.weights": "/etc/" + "long" * 100, "model.x": "a b\n$(c)"}
    for run in Sweep.read(written(changed(options=long), tmp_path), "smoke").runs():
        (tmp_path / f"{run.name}.failed").touch()
        assert run.name.replace("=", "").replace("-", "").replace("_", "").replace(".", "").isalnum()


def test_a_run_of_a_config_in_a_hidden_directory_has_a_visible_name(tmp_path: Path) -> None:
    path = written(changed(configs="../.mine"), tmp_path)
    (tmp_path / "digits").rename(tmp_path / ".mine")
    assert all(run.name.startswith("mine_") for run in Sweep.read(path, "smoke").runs())


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (changed(seeds=[0, 0]), r"seeds of figure3-smoke are \[0, 0\]: each once, and none below 0"),
        (changed(seeds=[-1]), r"seeds of figure3-smoke are \[-1\]: each once, and none below 0"),
        (changed(axes={"desnity": [0.5]}), r"unknown axis of the scale smoke .* 'desnity'. Did you mean 'density'"),
        (changed(axes={"density": 0.5}), r"figure3.yaml is not a figure"),
        (
            FIGURE | {"axes": {"density": [0.5], "network": {}}},
            r"the axis 'density' is \[0.5\]: give an option and its",
        ),
        (changed(axes={"density": {0.5: {}, "full": {}}}), r"the axis 'density' of .* has numbers and names"),
        (
            FIGURE | {"axes": FIGURE["axes"] | {"density": {"model.method": [{"class_path": "SNIP"}]}}},
            r"the axis 'density' has the value \{\"class_path\": \"SNIP\"\}, .*\{a name: \{model.method: .*\}\}",
        ),
        (
            FIGURE | {"axes": FIGURE["axes"] | {"density": {"trainer.gradient_clip_val": [None, 1.0]}}},
            r"the axis 'density' has the value null, .*\{a name: \{trainer.gradient_clip_val: null\}\}",
        ),
        (
            FIGURE | {"axes": FIGURE["axes"] | {"density": {None: {"model.x": 1}, 0.5: {}}}},
            r"the axis 'density' is \{None",
        ),
        (changed(axes={"density": [[0.5]]}), r"unknown value of density '\[0.5\]'"),
        (changed(options={"model.x": b"x"}), r"figure3.yaml is not a figure: .*bytes is not JSON"),
        (FIGURE | {"plots": []}, r"figure3-smoke has no runs or no plots"),
        (FIGURE | {"plots": [{"x": "network", "log_x": True}]}, r"draws 'network' on a logarithmic scale"),
        (FIGURE | {"plots": [{"x": "line", "log_x": True}]}, r"draws 'line' on a logarithmic scale, .* are names"),
        (
            changed(axes={"density": {"model.optimizer.weight_decay": [0, 1e-4]}})
            | {"plots": [{"x": "density", "log_x": True}]},
            r"draws 'density' on a logarithmic scale, but it has the value 0: remove log_x",
        ),
        (FIGURE | {"published": {"U_l": 3.0}}, r"unknown published line of .* 'U_l'. Did you mean 'U_k'"),
        (changed(lines=["U_l"]), r"unknown line 'U_l'. Did you mean 'U_k'"),
        (
            changed(configs="../digit"),
            r"digit/base.yaml is missing: it is the config of the line 'U_k' of figure3-smoke",
        ),
        (changed(sedes=[0]), r"figure3.yaml is not a figure.*sedes"),
        (
            FIGURE | {"lines": {"U_k": {"config": "base.yaml", "over": ["network"], "axes": {"width": {"w": [1]}}}}},
            r"the line 'U_k' of .* has an axis 'width' that its `over` lacks",
        ),
        (FIGURE | {"axes": {}}, r"unknown axis 'network'"),
        (FIGURE | {"plots": [{"x": "densty"}]}, r"unknown quantity of a plot of .*'densty'. Did you mean 'density'"),
        (FIGURE | {"plots": [{"y": "accuracy"}]}, r"unknown quantity of a plot of .*'accuracy'. Did .*test_accuracy"),
        (FIGURE | {"plots": [{"panels": "depth"}]}, r"unknown axis of a plot of .*'depth'.*Known: density, network"),
        (over("kept"), r"calls an axis 'kept', which is a column of the results: rename the axis"),
        (over("planned"), r"calls an axis 'planned', which is a column of the results: rename the axis"),
    ],
)
def test_a_mistake_in_a_figure_is_named(figure: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        Sweep.read(written(figure, tmp_path), "smoke")


def test_a_number_is_written_as_in_the_config_of_a_run(tmp_path: Path) -> None:
    path = written(FIGURE | {"axes": FIGURE["axes"] | {"density": {"model.optimizer.lr": [0.125, 0.25]}}}, tmp_path)
    path.write_text(path.read_text().replace("0.125", "1e-3").replace("0.25", "+2E3"))
    assert {run.values["density"] for run in Sweep.read(path, "paper").runs() if "density" in run.values} == {1e-3, 2e3}


def test_an_unknown_scale_or_file_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"name": "a", "scale": ["smoke"], "figure": FIGURE}))
    with pytest.raises(UserError, match=r"unknown scale of .*sweep.yaml"):
        Sweep.load(tmp_path / "sweep.yaml")
    with pytest.raises(UserError, match=r"figure3.yaml is not a file of subnets sweep: repeat the sweep"):
        Sweep.load(written(FIGURE, tmp_path))
    assert Sweep.read(written(FIGURE, tmp_path), None).scale_name == "smoke"
    only = FIGURE | {"scales": {"paper": FIGURE["scales"]["paper"]}}
    assert Sweep.read(written(only, tmp_path), None).scale_name == "paper"
    others = FIGURE | {"scales": {"a": FIGURE["scales"]["paper"], "b": FIGURE["scales"]["smoke"]}}
    with pytest.raises(UserError, match="has several scales: name one with --scale, a or b"):
        Sweep.read(written(others, tmp_path), None)
    with pytest.raises(UserError, match=r"unknown scale of .* 'laptop'.*Known: paper, smoke"):
        Sweep.read(written(FIGURE, tmp_path), "laptop")
    with pytest.raises(UserError, match=r"none.yaml cannot be read: No such file"):
        Sweep.read(tmp_path / "none.yaml", "smoke")
    for text, message in (("title: &a [*a]", "is not a figure: Circular"), ("title: [", "is not YAML")):
        (tmp_path / "broken.yaml").write_text(text)
        with pytest.raises(UserError, match=f"broken.yaml {message}"):
            Sweep.read(tmp_path / "broken.yaml", "smoke")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: &a [1, 1]\nscale: [*a, *a]", "has aliases, as .*name, which subnets sweep does not write"),
        ("name: !!int x", "is not YAML"),
        ("name: 1" + ":1" * 5_000 + ".5", "is not YAML: int too large"),
    ],
)
def test_a_strangers_sweep_is_read_in_little_time_and_memory(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(UserError, match=f"sweep.yaml {message}"):
        Sweep.load(tmp_path / "sweep.yaml")
