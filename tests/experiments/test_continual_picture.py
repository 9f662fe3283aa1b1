"""The picture of ``subnets continual``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from readable_text import assert_readable_on_a_phone

from lightning_subnets.experiments.continual import picture


class Tested:
    rows = [{"test_accuracy": 0.9 + index / 1000} for index in range(30)]  # noqa: RUF012

    def inferred(self, size: int) -> float:
        return 0.5 + size / 200


def test_all_text_is_readable_on_a_phone(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Figure] = []
    monkeypatch.setattr(picture, "save", lambda figure, _: saved.append(figure))
    tested: Any = Tested()
    picture.draw(tested, (np.eye(30) + np.random.default_rng(0).random((30, 30))).tolist(), Path("a.png"), "30 tasks")
    saved[0].draw_without_rendering()
    assert_readable_on_a_phone(saved[0])
    image = saved[0].axes[0].images[0].get_array()
    assert image is not None
    assert (np.argmax(image, axis=1) == np.arange(30)).all()


def test_tasks_with_the_same_mask_are_drawn_without_a_warning(tmp_path: Path) -> None:
    tested: Any = Tested()
    picture.draw(tested, np.ones((30, 30)).tolist(), tmp_path / "a.png", "30 tasks")
    assert (tmp_path / "a.png").exists()
