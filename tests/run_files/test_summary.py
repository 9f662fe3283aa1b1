from __future__ import annotations

from pathlib import Path

import torch

from lightning_subnets.run_files.summary import best_epoch, device_description


def test_a_device_is_described_by_its_kind_and_a_cpu_by_its_threads_too() -> None:
    assert device_description(torch.device("mps")) == "MPS"
    assert device_description(torch.device("cpu")).startswith(f"CPU, {torch.get_num_threads()} threads, ")


def test_the_best_epoch_is_the_first_of_equal_ones_as_in_the_best_checkpoint(tmp_path: Path) -> None:
    assert best_epoch(tmp_path) == {}
    accuracies = (0.5, "nan", 0.75, 0.75)
    rows = [f"{epoch},{10 * epoch + 9},{accuracy}" for epoch, accuracy in enumerate(accuracies)]
    (tmp_path / "metrics.csv").write_text("\n".join(["epoch,step,val/accuracy", *rows, ""]))
    assert best_epoch(tmp_path) == {"best_val_accuracy": 0.75, "best_epoch": 3}
