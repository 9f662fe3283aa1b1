"""A report on a stranger's directory is safe: it writes only its own files, whatever the directory contains."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_sweeps import METRICS, a_run

from lightning_subnets.errors import UserError
from lightning_subnets.experiments.report import find, page, report, tables
from lightning_subnets.experiments.sweep import results
from lightning_subnets.experiments.sweep.figure import Figure, Line, Plot, Scale
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.graph.diagnostics import Diagnosis, LayerDiagnosis
from lightning_subnets.run_files import drawing, summary

FORMULA = '=HYPERLINK("http://x")'
SUMMARY: dict[str, Any] = {"method": "EdgePopup", "epochs": 1}
MATHS = r"$\nothing{$_^ $a$"


def a_sweep(folder: Path) -> Sweep:
    """Write a sweep without results into ``folder/figure0-smoke``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.yaml").write_text("a: 1\n")
    lines, scales = {"a": Line("base.yaml")}, {"smoke": Scale(str(folder), "digits", [0])}
    figure = Figure("Figure 0", "a paper", "To see.", lines, [Plot("width")], scales, {"width": {"x": [1]}})
    sweep = Sweep("figure0-smoke", figure, "smoke", folder)
    results.write(sweep, folder)
    return sweep


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["../victim", 7])
def test_the_name_of_a_sweep_cannot_be_a_path(name: Any, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "table.csv").write_text("mine")
    a_sweep(tmp_path / "sent")
    settings = tmp_path / "sent" / "figure0-smoke" / "sweep.yaml"
    settings.write_text(yaml.safe_dump(yaml.safe_load(settings.read_text()) | {"name": name}))
    before = everything(tmp_path)
    with pytest.raises(UserError, match=re.escape(f"the name in {settings} is {name!r}: it names a directory")):
        report(str(settings.parent))
    assert everything(tmp_path) == before


def test_a_page_that_is_not_a_report_is_not_replaced(tmp_path: Path) -> None:
    a_run(tmp_path / "mine" / "version_0", SUMMARY)
    page = tmp_path / "site" / "index.html"
    for _ in range(2):
        report(str(tmp_path), str(page.parent))
    page.write_text("<h1>My site</h1>")
    with pytest.raises(UserError, match=r"index.html is not of a report, and would be replaced"):
        report(str(tmp_path), str(page.parent))
    assert page.read_text() == "<h1>My site</h1>"


@pytest.mark.parametrize("name", ["runs.csv", "runs.md"])
def test_tables_of_ones_own_are_not_replaced(name: str, tmp_path: Path) -> None:
    a_run(tmp_path / "mine" / "version_0", SUMMARY)
    (tmp_path / name).write_text("my table")
    before = everything(tmp_path)
    with pytest.raises(UserError, match=f"{name} is not of a report, and would be replaced: name another --out"):
        report(str(tmp_path), str(tmp_path))
    assert everything(tmp_path) == before


def test_figures_of_a_sweep_are_drawn_again_beside_it(tmp_path: Path) -> None:
    a_sweep(tmp_path / "sweeps")
    for _ in range(2):
        report(str(tmp_path / "sweeps"), str(tmp_path / "sweeps"))
        (tmp_path / "sweeps" / "index.html").unlink()  # as in a copy of results/


def test_every_run_of_a_directory_has_a_row(tmp_path: Path) -> None:
    for user in ("alice", "bob"):
        a_run(tmp_path / user / "quickstart" / "version_0", SUMMARY)
        (tmp_path / "all" / user).parent.mkdir(exist_ok=True)
        (tmp_path / "all" / user).symlink_to(tmp_path / user / "quickstart")
    a_run(tmp_path / "all" / "sweep" / "first" / "version_0", SUMMARY)
    (a_run(tmp_path / "all" / "mine" / "version_0", SUMMARY) / "metrics.csv").unlink()
    report(str(tmp_path / "all"))
    rows = csv.DictReader((tmp_path / "all" / "report" / "runs.csv").read_text().splitlines())
    assert [row["name"] for row in rows] == ["alice", "bob", "mine", "sweep/first"]
    assert [*find(tmp_path / "all" / "alice").runs] == [("alice", "version_0")]


def test_the_directory_of_a_run_cannot_be_a_path(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path)
    table = tmp_path / sweep.name / "results.csv"
    (row,) = results.write(sweep, tmp_path)
    table.write_text(table.read_text().replace(str(row["directory"]), "../secret"))
    with pytest.raises(UserError, match=r"the directory of a run in .*results.csv is '../secret': it names a"):
        report(str(tmp_path))


@pytest.mark.parametrize("link", ["report", "report/figure0-smoke"])
def test_a_link_does_not_lead_a_report_elsewhere(link: str, tmp_path: Path) -> None:
    victim, sent = tmp_path / "victim", tmp_path / "sent"
    victim.mkdir()
    for name in ("index.html", "table.csv", "figure.png"):
        (victim / name).write_text("mine")
    a_sweep(sent)
    (sent / link).parent.mkdir(exist_ok=True)
    (sent / link).symlink_to(victim, target_is_directory=True)
    before = everything(victim)
    with pytest.raises(UserError, match=r"is a link .*name.* --out"):
        report(str(sent))
    assert everything(victim) == before


def test_a_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    run = a_run(tmp_path / "sent" / "version_0", SUMMARY)
    names = ["index.html", ".index.html.01234567.partial", "curves.png", ".curves.png.0.partial"]
    (run / "report").mkdir()
    for name in names:
        (run / "report" / name).symlink_to(tmp_path / "mine")
        (run / name).symlink_to(tmp_path / "mine")
    report(str(run))
    drawing.draw_run(run, layers=["a.2"], evaluated_on="test set", diagnosis=None)
    assert (tmp_path / "mine").read_text() == "mine"
    assert (run / "report" / "index.html").read_text().startswith("<!DOCTYPE html>")
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    a_run(tmp_path / "=1+1" / "@version", SUMMARY | {"method": FORMULA, "weights": "-x", "test_accuracy": -0.5})
    report(str(tmp_path))
    with (tmp_path / "report" / "runs.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [row[name] for name in ("name", "version", "method", "weights")] == [
        f"'{text}" for text in ("=1+1", "@version", FORMULA, "-x")
    ]
    assert row["test_accuracy"] == "-0.5"


def test_no_text_of_a_table_is_markdown() -> None:
    table = tables.Table([], ["text"], [["<img src=x>\n\n# ![x](http://y)"], ["a|b `c` *d* e\\"]])
    assert tables.as_markdown(table).splitlines()[2:] == [
        r"| \<img src=x\>  # !\[x\](http://y) |",
        r"| a\|b \`c\` \*d\* e\\ |",
    ]


def test_no_name_in_the_pictures_of_a_run_is_read_as_mathematics(tmp_path: Path) -> None:
    run = tmp_path / MATHS / "version_0"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text(METRICS.replace("a.10", MATHS))
    layers, _ = page._layers(run)
    assert layers == [MATHS, "a.2"]
    diagnosis = Diagnosis({MATHS: LayerDiagnosis(6, 24, on_paths=5, units=4, width=3, alive=2, used=True)}, 2.5)
    drawn = drawing.draw_run(run, layers=layers, evaluated_on="test set", diagnosis=diagnosis)
    assert [path.stem for path in drawn] == ["curves", "layers", "widths"]


def test_a_name_with_the_markup_of_rich_is_printed_literally(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    found: dict[str, Any] = {"test_accuracy": 0.5, "kept": 1, "total": 2, "density": 0.5, "weights_unchanged": False}
    found |= {"epochs": 1, "steps": 1, "seconds": 1.0, "method": "[/bold]"}
    found |= {"best_val_accuracy": 0.25, "best_epoch": 3, "validated_on": "held-out images"}
    found |= {"file_bytes": 57_012}
    summary.show(found, Path("[red]x[/y]", "version_0"), [])
    said = capsys.readouterr().out
    assert "[red]x[/y]/version_0" in said
    assert "25.00% after epoch 3, on the held-out images" in said
    assert "50.00% after the last epoch " in said
    assert "y]: [/bold]" in said
    assert "57.0 kB (last.subnet)" in said
