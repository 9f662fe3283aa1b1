from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import a_run, figure3, made
from matplotlib.figure import Figure
from PIL import Image

from lightning_subnets.errors import UserError
from lightning_subnets.experiments.report import find, page, report
from lightning_subnets.experiments.sweep import results
from lightning_subnets.experiments.sweep.figure import Plot
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.run_files import drawing
from lightning_subnets.training.csv_text import Row

SUMMARY = {
    "data": "ImageNet",
    "method": "EdgePopup",
    "weights": "signed_constant",
    "seed": 0,
    "test_accuracy": 0.7,
    "kept": 7650000,
    "total": 25_502_912,
    "density": 0.3,
}
SUMMARY |= {"epochs": 100, "seconds": 9.123456, "weights_unchanged": True, "versions": {"torch": "2.15.0"}}


class Page(HTMLParser):
    """The tags of a page, what it loads, what it links to, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.loaded, self.links, self.text = list[str](), list[str](), list[str](), ""
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster", "background"):
                self.loaded.append(str(value))
            elif name == "href":
                (self.links if tag == "a" else self.loaded).append(str(value))

    def handle_data(self, data: str) -> None:
        self.text += data


def put(monkeypatch: pytest.MonkeyPatch, folder: Path, *sweeps: tuple[Sweep, list[Row]]) -> None:
    """Make folders of sweeps, and patch what is read from them."""
    for sweep, _ in sweeps:
        (folder / sweep.name).mkdir(parents=True)
        (folder / sweep.name / "sweep.yaml").touch()
    named = {sweep.name: (sweep, rows) for sweep, rows in sweeps}
    monkeypatch.setattr(results, "read", lambda path: named[path.name])


def test_a_report_has_pictures_tables_and_a_page_that_loads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(monkeypatch, tmp_path, figure3())
    report(str(tmp_path))
    out = tmp_path / "report"
    folder = out / "figure0-smoke"
    assert sorted(path.name for path in out.iterdir()) == ["figure0-smoke", "index.html"]
    assert sorted(path.name for path in folder.iterdir()) == ["figure.pdf", "figure.png", "table.csv", "table.md"]
    with Image.open(folder / "figure.png") as image:
        assert image.info["dpi"][0] == pytest.approx(150, abs=0.1)
    assert (folder / "figure.pdf").read_bytes().startswith(b"%PDF")
    page = Page(out / "index.html")
    icon, picture = page.loaded
    assert icon == "data:,", "an empty icon, so that no browser asks for one"
    assert picture.startswith("data:image/png;base64,")
    assert "script" not in page.tags
    assert "url(" not in page.source
    assert all(link.startswith("#") or (out / link).is_file() for link in page.links)
    assert "figure0-smoke/figure.pdf" in page.links
    for words in ("Figure 0", "What is to be seen.", "a paper", "81.00 ± 1.41", "16 of 16", "2026-01-02", "0:08:00, s"):
        assert words in page.text
    assert page.text.count("lightning fit -c base.yaml --seed_everything=1") == 8
    assert str(out / "index.html") in capsys.readouterr().out
    (out / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    report(str(tmp_path))
    assert {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()} == before


def test_missing_and_failed_runs_are_named_on_the_page_in_the_table_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, rows = figure3()
    rows[0] |= {"status": "failed", "error": "RuntimeError: out of <memory>"}
    rows[9] |= {"status": "missing", "test_accuracy": None}
    put(monkeypatch, tmp_path, (sweep, rows))
    report(str(tmp_path / sweep.name), out=str(tmp_path / "elsewhere"))
    words = "1 of 16 runs missing (signed constant, Conv2, 50 % kept, seed 1), 1 failed (signed constant, Conv2, 10 %"
    page = Page(tmp_path / "elsewhere" / "index.html")
    assert words in page.text
    assert "RuntimeError: out of <memory>" in page.text
    assert "1 of 2" in page.text
    assert words in (tmp_path / "elsewhere" / sweep.name / "table.md").read_text()
    assert words in " ".join(capsys.readouterr().out.split())


def test_no_name_in_a_run_changes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = '<script src="http://x"></script>&"|'

    def measure(row: Row) -> dict[str, str]:
        return {"status": "failed", "error": bad, "command": bad, "device": bad, "torch": bad}

    sweep, rows = made({bad: None}, {"network": {bad: {}}}, [Plot("network")], measure, title=bad)
    rows.append(rows[0] | {"status": "finished"})
    put(monkeypatch, tmp_path, (sweep, rows))
    a_run(tmp_path / "&<img src=x>" / "version_0", {**SUMMARY, "method": bad})
    report(str(tmp_path))
    page = Page(tmp_path / "report" / "index.html")
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert page.text.count(bad) > 5
    assert "&<img src=x>" in page.text
    assert "\\|" in (tmp_path / "report" / sweep.name / "table.md").read_text()


def test_other_runs_are_in_a_table_with_published_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, tmp_path / "figures", figure3())
    a_run(tmp_path / "figures" / "runs" / "Conv2-0.1-seed0", SUMMARY)  # the sweep's own
    a_run(tmp_path / "rn50_signed" / "version_0", SUMMARY)
    a_run(tmp_path / "rn50_signed" / "version_1", {**SUMMARY, "epochs": 3})
    a_run(tmp_path / "mine" / "version_0", None)
    others: tuple[dict[str, object], ...] = (
        {"data": "TinyImageNet"},
        {"density": 0.9},
        {"weights": "kaiming_uniform"},
        {"total": 9},
        {"method": "DNW"},
    )
    for number, other in enumerate(others, 2):
        a_run(tmp_path / "rn50_signed" / f"version_{number}", SUMMARY | other)
    report(str(tmp_path))
    page = Page(tmp_path / "report" / "index.html")
    assert "Figure 0" in page.text
    assert "not finished" in page.text
    (mine, whole, short, *different) = csv.DictReader((tmp_path / "report" / "runs.csv").read_text().splitlines())
    assert (mine["name"], mine["published_percent"]) == ("mine", "")
    assert whole["published_percent"] == short["published_percent"] == "68.6"
    assert float(whole["difference"]) == pytest.approx(1.4)
    assert short["difference"] == ""
    assert [row["published_percent"] for row in different] == [""] * len(others)
    found = find(tmp_path / "figures")
    assert list(found.sweeps) == ["figure0-smoke"]
    assert not found.runs


def test_runs_are_sorted_by_number_with_the_columns_that_have_values_and_the_reasons_of_failures(
    tmp_path: Path,
) -> None:
    found = {"network": "Conv2", "data": "Digits", "density": 0.512345, "best_val_accuracy": 0.75, "best_epoch": 3}
    for number, seed in ((10, 20261130), (9, 20261129)):
        a_run(tmp_path / "mine" / f"version_{number}", SUMMARY | found | {"seed": seed})
    crashed = a_run(tmp_path / "mine" / "version_11", None)
    (crashed / "metrics.csv").unlink()  # it failed before its first row
    (crashed / "failure.txt").write_text("ValueError: <no> memory\n")
    a_run(tmp_path / "mine" / "version_100", None)
    report(str(tmp_path))
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (tmp_path / "report" / "runs.md").read_text().splitlines()
    ]
    assert head == [
        *("name", "version", "status", "network", "data", "method", "weights", "density (%)", "weights kept"),
        *("best validation (%)", "after epoch", "test accuracy, last (%)", "epochs", "seed", "seconds"),
    ]
    assert [row[1] for row in rows] == ["version_9", "version_10", "version_11", "version_100"]
    assert [row[2] for row in rows] == ["", "", "not finished", "not finished"]
    assert rows[0][3:12] == [
        "Conv2",
        "Digits",
        "EdgePopup",
        "signed_constant",
        "51.23",
        "7,650,000",
        "75.00",
        "3",
        "70.00",
    ]
    assert [row[-2] for row in rows[:2]] == ["20261129", "20261130"]
    text = Page(tmp_path / "report" / "index.html").text
    assert "mine, version_11 failed: ValueError: <no> memory" in text
    assert "mine, version_100 was stopped or killed; the same command with its --version resumes it" in text
    assert "Published" not in text


def test_the_report_of_one_run_has_its_pictures_and_its_summary(tmp_path: Path) -> None:
    run = a_run(tmp_path / "rn50_signed" / "version_3", SUMMARY | {"log10_paths": 12345.6})
    report(str(run))
    out = run / "report"
    names = {"curves.pdf", "curves.png", "layers.pdf", "layers.png", "index.html"}
    assert {path.name for path in out.iterdir()} == names
    assert not (run / "curves.png").exists()
    page = Page(out / "index.html")
    assert [address[:22] for address in page.loaded] == ["data:,", *["data:image/png;base64,"] * 2]
    assert "rn50_signed, version_3" in page.text
    assert "+1.40" in page.text
    assert "9.123456" not in page.text
    assert "9.123" in page.text
    assert "12346" in page.text
    assert "2.15.0" in page.text
    (run / "summary.json").write_text('{"epochs": 1')
    for path in (run, tmp_path):
        with pytest.raises(UserError, match=r"version_3/summary.json is damaged .*remove it"):
            report(str(path))


def test_a_checkpoint_gives_the_order_of_layers_and_the_diagnosis(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def figures_of(run: Path, **options: Any) -> dict[str, Figure]:
        asked.append(options)
        return {}

    monkeypatch.setattr(drawing, "figures_of", figures_of)
    page.run_section(finished_run, {"validated_on": "test set"})
    (options,) = asked
    layers = [f"{layer}.weight" for layer in ("features.0", "features.3", *(f"classifier.{n}" for n in (1, 4, 7)))]
    assert list(options["diagnosis"].layers) == options["layers"] == layers
    assert options["evaluated_on"] == "test set"
    page.run_section(finished_run, None)
    assert asked[-1]["evaluated_on"] == "validation set"


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a directory: name one"):
        report(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"contains neither runs nor sweeps"):
        report(str(tmp_path))
    a_run(tmp_path / "mine" / "version_0", None)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"no report can be written to .*file .*: name another --out"):
        report(str(tmp_path), out=str(tmp_path / "file"))


@pytest.mark.thorough
def test_two_sweeps_of_one_name_are_both_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("", "b"):
        put(monkeypatch, tmp_path / folder, figure3())
    report(str(tmp_path), str(tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("**/table.csv"))) == 2
    assert len(set(re.findall(r'<h2 id="([^"]+)"', (tmp_path / "out" / "index.html").read_text()))) == 2
