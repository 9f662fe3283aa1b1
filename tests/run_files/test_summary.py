from __future__ import annotations

import torch

from lightning_subnets.run_files.summary import device_description


def test_a_device_is_described_by_its_kind_and_a_cpu_by_its_threads_too() -> None:
    assert device_description(torch.device("mps")) == "MPS"
    assert device_description(torch.device("cpu")).startswith(f"CPU, {torch.get_num_threads()} threads, ")
