from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from lightning_subnets.training import csv_text

FORMULAS = ['=HYPERLINK("http://x","y")', "+1+1", "-2+3", "@SUM(A1)", "\t=1", "'=1", "''@x", "-"]
TEXTS = ["", "'", "'quoted'", "a=b", "n01440764", "Conv2, 10 %", 'a "word"', "two\nlines", "ä"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_that_would_be_computed_begins_with_an_apostrophe(text: str) -> None:
    (_, (cell,)) = csv.reader(io.StringIO(csv_text.table([{"name": text}])))
    assert cell == f"'{text}"


@pytest.mark.parametrize("text", TEXTS)
def test_any_other_text_stays_as_it_is(text: str) -> None:
    assert csv_text.escape(text) == text


def test_numbers_stay_numbers() -> None:
    assert csv_text.table([{"=a": -0.5, "b": -3}, {"=a": None, "b": float("-inf")}]) == "'=a,b\n-0.5,-3\n,-inf\n"


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    rows = [dict.fromkeys((*FORMULAS, "b"), text) for text in [*FORMULAS, *TEXTS]]
    path.write_text(csv_text.table(rows), encoding="utf-8", newline="")
    assert csv_text.read(path) == rows


def test_a_file_that_is_no_table_is_a_value_error(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for content, message in (("a,b\n1\n", "zip"), (f"a\n{'1' * 200_000}\n", "field larger than field limit")):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            csv_text.read(path)
