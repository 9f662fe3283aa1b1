from __future__ import annotations

import csv
import io

import pytest

from lightning_subnets import csv_text

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


def test_a_table_is_read_as_it_was_written() -> None:
    rows = [dict.fromkeys((*FORMULAS, "b"), text) for text in [*FORMULAS, *TEXTS]]
    assert csv_text.rows(io.StringIO(csv_text.table(rows), newline="")) == rows
    with pytest.raises(ValueError, match="zip"):
        csv_text.rows(["a,b\n", "1\n"])
