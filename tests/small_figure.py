"""A figure of two runs, as quick as runs can be."""

from __future__ import annotations

from typing import Any

# Digits, a network of 300 weights, three steps: most of the time is the start.
CONFIG = """\
data: {class_path: lightning_subnets.datamodules.Digits, init_args: {batch_size: 32}}
model:
  network:
    class_path: lightning_subnets.networks.Conv2
    init_args: {in_channels: 1, image_size: 8, width_multiplier: 0.05}
  method: {class_path: EdgePopup, init_args: {density: 0.5}}
  weights: signed_constant
  optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}
trainer: {max_epochs: 1, limit_train_batches: 3, accelerator: cpu}
"""
FIGURE: dict[str, Any] = {
    "title": "A figure",
    "source": "nobody",
    "caption": "Accuracy by density.",
    "axes": {"density": {"model.method.init_args.density": [0.5, 0.9]}},
    "lines": {"U_k": {"config": "small.yaml"}},
    "plots": [{"x": "density"}],
    "scales": {"smoke": {"configs": "configs", "note": "digits", "seeds": [0]}},
}
