from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

from lightning_subnets.errors import UnwritableError, UserError
from lightning_subnets.experiments.sweep import results
from lightning_subnets.experiments.sweep.figure import Figure, Line, Plot, Scale
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.experiments.sweep.running import unfinished

SUMMARY: dict[str, Any] = {
    "test_accuracy": 0.75,
    "kept": 30,
    "total": 60,
    "log10_paths": 3.5,
    "log10_trace": None,
    "units_on_paths": {"features.0": 3, "classifier.1": 10},
    "epochs": 2,
    "weights_digest": "12",
    "finished": "2026-01-02T03:04:05+00:00",
    "versions": {"torch": "2.11"},
}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    (tmp_path / "base.yaml").write_text("a: 1\n")
    axes = {"width": {"x": [0.5, 1, 2]}, "@network": {"007": {"b": 1}}}
    scales = {"smoke": Scale(".", "digits", [0])}
    figure = Figure("Figure 0", "a paper", "To see.", {"=30": Line("base.yaml")}, [Plot("width")], scales, axes)
    return Sweep("figure0-smoke", figure, "smoke", tmp_path)


def finish(sweep: Sweep, out: Path, place: int, summary: dict[str, Any] | str) -> Path:
    run = results.directory_of(list(sweep.runs())[place].name, out)
    run.mkdir(parents=True)
    (run / "summary.json").write_text(summary if isinstance(summary, str) else json.dumps(summary))
    return run


def test_a_table_is_read_as_it_was_written(sweep: Sweep, tmp_path: Path) -> None:
    finish(sweep, tmp_path, 1, SUMMARY)
    finish(sweep, tmp_path, 0, '{"kept": 1')
    results.failure_of(list(sweep.runs())[2].name, tmp_path).write_text("out of memory\n")
    rows, folder = results.write(sweep, tmp_path), tmp_path / sweep.name
    read, again = results.read(folder)
    assert (read.name, read.figure) == (sweep.name, sweep.figure)
    assert again == rows
    assert [row["status"] for row in rows] == ["failed", "finished", "failed"]
    assert "summary.json is damaged" in str(rows[0]["error"])
    assert [row["error"] for row in rows[1:]] == [None, "out of memory"]
    # Names that look like numbers stay names, and no name is a formula in a spreadsheet.
    expected = {"line": "=30", "@network": "007", "width": 1, "seed": 0, "kept": 30, "weights_digest": "12"}
    assert {name: again[1][name] for name in expected} == expected
    assert (again[1]["torch"], again[1]["finished"]) == ("2.11", "2026-01-02T03:04:05+00:00")
    with (folder / "results.csv").open(newline="") as file:
        (_, row, _) = csv.DictReader(file)
    assert (row["line"], row["'@network"]) == ("'=30", "007")
    assert row["units_on_paths"] == json.dumps(SUMMARY["units_on_paths"])


def test_names_that_look_like_other_values_stay_names(sweep: Sweep, tmp_path: Path) -> None:
    names = ["1e-3", "5e-4", "0.5", "null", "true", "~", "2026-01-02", "0x1f", "._", "0x_", "a: b: c", "1:1.5"]
    values: list[Any] = [*names, 1e-3, 1e300, True, None, 3]
    lines = {name: Line("base.yaml", options={"a": value}) for name, value in zip(names, values, strict=False)}
    named = dataclasses.replace(
        sweep.figure, lines=lines, axes={"lr": {name: {"b": values} for name in names}}, plots=[Plot("lr")]
    )
    rows = results.write(Sweep(sweep.name, named, "smoke", tmp_path), tmp_path)
    assert "scale: smoke" in (tmp_path / sweep.name / "sweep.yaml").read_text()  # with no more quotes than are needed
    assert results.write(Sweep(sweep.name, named, "smoke", tmp_path), tmp_path) == rows
    read, again = results.read(tmp_path / sweep.name)
    assert (read.figure, again) == (named, rows)


def test_the_logarithm_of_no_path_is_minus_infinity(sweep: Sweep, tmp_path: Path) -> None:
    finish(sweep, tmp_path, 0, SUMMARY | {"log10_paths": None, "units_on_paths": {"features.0": 0, "classifier.1": 0}})
    finish(sweep, tmp_path, 1, SUMMARY)
    finish(sweep, tmp_path, 2, {"test_accuracy": 0.5})  # as an earlier version wrote it
    rows = results.write(sweep, tmp_path)
    found = [(row["status"], row["log10_paths"], row["log10_trace"]) for row in rows]
    assert found == [("finished", -math.inf, -math.inf), ("finished", 3.5, None), ("finished", None, None)]


def test_results_of_runs_that_are_not_here_stay_as_they_were_written(sweep: Sweep, tmp_path: Path) -> None:
    run, folder = finish(sweep, tmp_path, 1, SUMMARY), tmp_path / sweep.name
    results.write(sweep, tmp_path)
    finish(sweep, tmp_path, 0, SUMMARY | {"kept": 31})
    (run / "summary.json").write_text(json.dumps(SUMMARY | {"kept": 32}))
    assert [row["kept"] for row in results.read(folder)[1]] == [31, 32, None], "as they are now"
    shutil.rmtree(run)
    assert [row["kept"] for row in results.read(folder)[1]] == [31, 30, None]


def test_why_a_run_failed_is_known_where_the_run_is_not(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    results.failure_of(next(sweep.runs()).name, tmp_path).write_text("out of memory\n")
    rows = results.write(sweep, tmp_path)
    assert [row["error"] for row in rows] == ["out of memory", None, None]
    shutil.copytree(tmp_path / sweep.name, tmp_path / "sent" / sweep.name)
    assert results.read(tmp_path / "sent" / sweep.name)[1] == rows


def test_a_sweep_keeps_the_results_of_runs_whose_directories_were_removed(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finish(sweep, tmp_path, 1, SUMMARY)
    finish(sweep, tmp_path, 0, "damaged")
    before = results.write(sweep, tmp_path)
    shutil.rmtree(tmp_path / "runs")
    more = dataclasses.replace(sweep.figure, scales={"smoke": Scale(".", "digits", [0, 1])})
    longer = Sweep(sweep.name, more, "smoke", tmp_path)
    names = [run.name for run in longer.runs()]
    assert results.finished(longer, tmp_path) == {first.name}
    assert [run.name for run in unfinished(longer, tmp_path)] == [name for name in names if name != first.name]
    text = (tmp_path / sweep.name / "results.csv").read_text().splitlines()[2]
    first.mkdir(parents=True)  # by another figure that has the run too, and has not finished it
    results.failure_of(first.name, tmp_path).write_text("an earlier time")
    rows = results.write(longer, tmp_path)
    assert rows[1] == before[1]
    assert (tmp_path / sweep.name / "results.csv").read_text().splitlines()[2] == text
    assert results.read(tmp_path / sweep.name)[1][1] == before[1]
    assert [row["status"] for row in rows] == ["missing", "finished", *["missing"] * 4]
    finish(longer, tmp_path, 4, SUMMARY)
    with monkeypatch.context() as full:  # after the table has been written
        full.setattr(Sweep, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        wider = dataclasses.replace(more, axes=more.axes | {"depth": {"d": {}}})
        with pytest.raises(UserError, match="No space left on device"):
            results.write(Sweep(sweep.name, wider, "smoke", tmp_path), tmp_path)
    assert [row["status"] for row in results.write(longer, tmp_path)].count("finished") == 2

    (tmp_path / "base.yaml").write_text("a: 2\n")  # so its runs are other ones
    assert len(unfinished(longer, tmp_path)) == 6
    with pytest.raises(UserError, match=f"results of 1 of the figure.* {re.escape(first.name)}: move"):
        results.write(longer, tmp_path)


def test_damaged_results_are_a_mistake(sweep: Sweep, tmp_path: Path) -> None:
    folder = tmp_path / sweep.name
    results.write(sweep, tmp_path)
    table, whole = folder / "results.csv", (folder / "results.csv").read_text()
    for text, message in (
        (whole.replace("status", "state"), "it lacks columns, or has unknown ones"),
        ("", "it has no rows"),
        (whole.splitlines()[0], "it has no rows"),
        (whole.replace("007,0,", "007,zero,"), ""),
        (whole.replace("007", "008"), ""),
    ):
        table.write_text(text)
        with pytest.raises(
            UserError, match=rf"results.csv cannot be read \({message}.*move it away, and repeat the sweep"
        ):
            results.read(folder)
    settings = folder / "sweep.yaml"
    settings.write_text(settings.read_text().replace("scale: smoke", "scale: paper"))
    with pytest.raises(UserError, match=r"unknown scale of .*sweep.yaml 'paper'"):
        results.read(folder)


def test_the_results_of_another_figure_are_not_overwritten(sweep: Sweep, tmp_path: Path) -> None:
    results.write(sweep, tmp_path)
    other = Figure("Mine", "nobody", "", sweep.figure.lines, sweep.figure.plots, sweep.figure.scales, sweep.figure.axes)
    with pytest.raises(UserError, match=r"figure0-smoke holds another figure, 'Figure 0': name another --out"):
        results.write(Sweep(sweep.name, other, "smoke", tmp_path), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableError, match=r"no results can be kept in .*/file/figure0-smoke \(Not a directory\)"):
        results.write(sweep, tmp_path / "file")


def test_the_shipped_results_are_those_of_the_shipped_figures() -> None:
    shown = sorted(path.parent for path in ROOT.glob("results/*/sweep.yaml"))
    assert len(shown) >= 6
    for folder in shown:
        sweep, rows = results.read(folder)
        assert {row["status"] for row in rows} == {"finished"}
        figure, scale = folder.name.rsplit("-", 1)
        planned = Sweep.read(ROOT / "configs" / "figures" / f"{figure}.yaml", scale)
        assert {row["directory"] for row in rows} == {run.name for run in planned.runs()}
        assert {path.suffix for path in folder.glob("figure*")} == {".png", ".pdf"}
        assert sweep.name == folder.name
