"""What ``subnets continual`` keeps of its tasks, and how it sums them up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lightning_subnets import EdgePopup, SupSup, mask_
from lightning_subnets.experiments.continual.learning import SIZES, Learning
from lightning_subnets.networks import MLP
from lightning_subnets.training.csv_text import table

SMALL: dict[str, Any] = {"in_channels": 1, "image_size": 8, "width_multiplier": 0.1}
NETWORK = {"class_path": "lightning_subnets.networks.MLP", "init_args": SMALL}


def built(number: int) -> Any:
    network = mask_(MLP(**SMALL), EdgePopup(0.5), weights="signed_constant")
    return SimpleNamespace(network=network), SimpleNamespace(classes=[*"0123456789"]), None


def test_a_task_whose_row_was_written_before_it_was_killed_is_learned_again(tmp_path: Path) -> None:
    tasks = SupSup(built(0)[0].network)
    tasks.add("0")
    tasks.save(tmp_path / "tasks.subnet", network=NETWORK)
    rows: list[dict[str, str | float | None]]
    rows = [{"task": name, "test_accuracy": 0.5, "answers": "a"} for name in "01"]
    (tmp_path / "results.csv").write_text(table(rows))
    learning = Learning(tmp_path, built, NETWORK)
    assert (learning.rows, learning.tasks.names) == (rows[:1], ["0"])


def test_the_summary_states_the_mean_and_the_worst_and_counts_what_is_inferred(tmp_path: Path) -> None:
    learning = Learning(tmp_path, built, NETWORK)
    learning.file.write_bytes(bytes(4000))
    for name, accuracy, unchanged in (("0", 0.9, "true"), ("1", 0.5, "false")):
        row: dict[str, str | float | None] = {"task": name, "test_accuracy": accuracy, "unchanged": unchanged}
        inferred = {f"inferred_from_{size}": "0" if size < SIZES[-1] else name for size in SIZES}
        learning.rows.append(row | inferred | {"answers": name})
    assert learning.summary() == {
        "tasks": "2 on one seed, 2 different answers",
        "accuracy, task known": "70.00%, 50.00% or more in each task",
        "task inferred": "100.0% by one gradient on 64 unlabelled test images",
        "from fewer images": "50.0% from 1, 50.0% from 4, 50.0% from 16, 100.0% from 64",
        "chance": "50.0%",
        "answers unchanged": "1 of 2, bit for bit",
        "file": "4 kB, 2.00 kB a task",
    }
