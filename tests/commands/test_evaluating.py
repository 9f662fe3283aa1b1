"""A run that cannot be evaluated as asked ends with an error that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Mistake = Callable[..., str]


def test_data_with_other_classes_are_an_error_that_does_not_propose_another_network(
    finished_run: Path, mistake: Mistake
) -> None:
    error = mistake(["test", f"--ckpt_path={finished_run}", "--data.num_classes=9"])
    assert "has 10 outputs and Digits has 9 classes: evaluate it on data with the 10 classes that it has" in error
    assert "model" not in error


@pytest.mark.parametrize(("verb", "name"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_nothing_to_evaluate_is_an_error(verb: str, name: str, finished_run: Path, mistake: Mistake) -> None:
    error = mistake([verb, f"--ckpt_path={finished_run}", f"--trainer.limit_{name}_batches=0"])
    assert f"trainer.limit_{name}_batches is 0, here or in the config of the run, which leaves nothing to" in error
