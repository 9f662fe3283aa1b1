"""The tables of a report."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from made_sweeps import figure3

from lightning_subnets.experiments.report import tables
from lightning_subnets.experiments.sweep.figure import Plot
from lightning_subnets.training import csv_text

PUBLISHED = {"signed constant": 70.0, "dense": {"Conv4": 93.5}}


def test_differences_from_the_paper_are_given_at_the_scale_of_the_paper_only() -> None:
    table = tables.of_sweep(*figure3(scale="paper", published=PUBLISHED))
    assert table.columns[-2:] == ["published (%)", "measured - published"]
    assert table.cells[0][-2:] == ["", ""], "one number is not for the points of a line that varies"
    assert tables.published_for(PUBLISHED, "signed constant", []) == 70
    assert table.cells[-1][-2:] == ["93.5", "-2.50"]
    assert [row["difference"] for row in table.data[-2:]] == [None, pytest.approx(91 - 93.5)]
    smoke = tables.of_sweep(*figure3(scale="smoke", published=PUBLISHED))
    assert "difference" not in smoke.data[0]
    assert smoke.columns[-1] == "in the paper, not on these data (%)"
    assert smoke.cells[-1][-1] == "93.5"
    assert len(tables.of_sweep(*figure3()).columns) == len(smoke.columns) - 1


def test_a_table_has_mean_and_deviation_of_each_point() -> None:
    sweep, rows = figure3()
    rows[0] |= {"status": "missing", "test_accuracy": None}
    table = tables.of_sweep(sweep, rows)
    assert "log10_trace" not in table.data[0]
    traced = replace(sweep, figure=replace(sweep.figure, plots=[Plot("log10_trace")]))
    values = tables.of_sweep(traced, [row | {"log10_trace": 3.0 + float(row["seed"] or 0)} for row in rows])
    assert values.data[1]["log10_trace"] == 3.5, "another plotted quantity has a column"
    sized = replace(sweep, figure=replace(sweep.figure, plots=[Plot("file_bytes")]))
    sizes = tables.of_sweep(sized, [row | {"file_bytes": 14_380} for row in rows])
    assert (sizes.columns[-1], sizes.cells[1][-1], sizes.data[1]["file_bytes"]) == ("file size (kB)", "14.38", 14_380)
    many = tables.of_sweep(sized, [row | {"file_bytes": 123_456_789} for row in rows])
    assert many.cells[1][-1] == "123457", "no exponent"
    by_line = replace(sweep, figure=replace(sweep.figure, plots=[Plot(x="line")]))
    assert tables.of_sweep(by_line, rows) == table, "a plot by line adds no column"
    assert table.columns == ["", "network", "density", "seeds", "test accuracy (%)", "weights kept"]
    assert table.cells[0] == ["signed constant", "Conv2", "10 %", "1 of 2", "54.00", "500,000"]
    assert table.cells[1] == ["signed constant", "Conv2", "50 %", "2", "61.00 ± 1.41", "500,000"]
    assert table.cells[-1] == ["dense", "Conv4", "", "2", "91.00 ± 1.41", "500,000"]
    (first, second, *_) = csv.DictReader(csv_text.table(table.data).splitlines())
    assert (first["finished"], first["planned"], first["deviation"]) == ("1", "2", "")
    assert float(second["deviation"]) == pytest.approx(2**0.5)
    markdown = tables.as_markdown(table).splitlines()
    assert markdown[3] == "| signed constant | Conv2 | 50 % | 2 | 61.00 ± 1.41 | 500,000 |"
