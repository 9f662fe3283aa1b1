"""The files beside a checkpoint are not trusted either: damage is an error of one line, and never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hostile_files import GONE, places, replaced

import lightning_subnets as ls
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.experiments.report import page, tables
from lightning_subnets.run_files import drawing, summary
from lightning_subnets.run_files.saved_config import read_config
from lightning_subnets.run_files.saved_run import SavedRun
from lightning_subnets.training import csv_text

VALUES: list[Any] = [
    *(5, None, [], {}, "__all__", -1, float("nan"), [1] * 5000, GONE, True, 10**400, "\x1b[2J\n", 1e308, "²"),
]
BYTES = [b"", b"\xff\xfe\0", b"[" * 100_000, b"{", b"\0" * 100, bytes(range(256)), b"- 1\n", b"a: b: c\n", b"5"]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_run, tmp_path / "quickstart" / "run")
    return tmp_path / "quickstart" / "run"


def refused(read: Callable[[], object], what: object) -> bool:
    """Return whether a file is refused, with a ``UserError`` of one line."""
    message = ""
    try:
        read()
    except ls.UserError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(what) from error
    assert len(message) < 2500, what
    assert "\n" not in message, what
    return bool(message)


def changes(content: Any, count: int) -> list[tuple[Any, Any]]:
    every = [(place, value) for place in places(content) for value in VALUES if place or value is not GONE]
    return [every[index] for index in np.random.default_rng(0).permutation(len(every))[:count]]


@pytest.mark.parametrize("count", [120, pytest.param(10**6, marks=pytest.mark.long)])
def test_a_config_of_any_values_builds_the_run_or_is_refused(count: int, run: Path) -> None:
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())

    def read() -> None:
        saved = SavedRun(str(run / "checkpoints" / "last.ckpt"))
        saved.details(saved.module().network)

    found = []
    read_here = {key: config[key] for key in ("model", "data", "seed_everything")}
    for place, value in changes(read_here, count):
        path.write_text(yaml.safe_dump(replaced(config, place, value)))
        found.append(refused(read, (place, value)))
    assert 0.2 < sum(found) / len(found) < 0.9
    for content in BYTES:
        path.write_bytes(content)
        assert refused(lambda: read_config(path), content)


@pytest.mark.parametrize("count", [200, pytest.param(10**6, marks=pytest.mark.long)])
def test_a_summary_of_any_values_is_reported_or_refused(count: int, run: Path) -> None:
    path = run / "summary.json"
    whole = json.loads(path.read_text())

    def read() -> None:
        found = summary.read(run)
        table = tables.of_runs({("quickstart", "run"): found})
        assert all((csv_text.table(table.data), tables.as_markdown(table)))
        assert page.render("report", [], table, page.RunSection("run", {}, [], table, found))

    found = []
    for place, value in changes(whole, count):
        path.write_text(json.dumps(replaced(whole, place, value)))
        found.append(refused(read, (place, value)))
    assert 0.3 < sum(found) / len(found) < 0.95
    for content in BYTES:
        path.write_bytes(content)
        assert refused(read, content)


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")  # of numbers that are as wide as the picture
@pytest.mark.parametrize("count", [8, pytest.param(150, marks=pytest.mark.long)])
def test_the_readable_rows_of_damaged_metrics_are_drawn(count: int, run: Path) -> None:
    path, rng = run / "metrics.csv", np.random.default_rng(0)
    rows = [line.split(b",") for line in path.read_bytes().splitlines()]
    layers = [name.removeprefix(b"density/").decode() for name in rows[0] if name.startswith(b"density/")]
    cells = [b"", b"5", b"-1", b"nan", b"1e400", b"x", b"\xff\xfe\0", b"9" * 5000, b'"', b"step", "²".encode()]

    def drawn() -> set[str]:
        paths = drawing.draw_run(run, layers=layers, evaluated_on="test set", diagnosis=None)
        return {path.name for path in paths if path.stat().st_size}

    whole = drawn()
    for _ in range(count):
        changed = [list(row) for row in rows]
        row = changed[int(rng.integers(len(changed)))]
        place, cell = int(rng.integers(len(row))), cells[int(rng.integers(len(cells)))]
        row[place:] = [[], [cell, *row[place:]], [cell, *row[place + 1 :]]][int(rng.integers(3))]
        path.write_bytes(b"\n".join(map(b",".join, changed)))
        assert {"curves.png"} <= drawn() <= whole
    for content in (b"step,x\n1,2\n", b"\xff\xfe\0", b"epoch,x\n1,2,3\n"):
        path.write_bytes(content)
        assert drawn() == {"curves.png"}


@pytest.mark.parametrize("content", [b"model: 5\n", pytest.param(b"\xff\xfe\0", marks=pytest.mark.thorough)])
def test_every_command_that_reads_a_damaged_config_refuses_it_in_one_line(
    content: bytes, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "config.yaml").write_bytes(content)
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    commands: list[tuple[Callable[[list[str]], None], list[str]]] = [
        (lightning, ["test", "--ckpt_path", checkpoint]),
        (subnets, ["inspect", checkpoint]),
    ]
    for main, arguments in commands:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert error.startswith("error: "), error
        assert error[:-1].isprintable(), error
    subnets(["report", str(run)])  # draws what metrics.csv and summary.json say
    assert (run / "report" / "index.html").is_file()
