"""The learning rate by optimizer step."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "constant"]


def learning_rate_factor(step: int, steps: float, warmup: float, schedule: Schedule) -> float:
    """The share of the learning rate used at an optimizer step.

    Linear warm-up: (t + 1) / W for t < W. Then cosine: (1 + cos(pi (t - W) / (T - W))) / 2, which is 0 at
    t = T, after the last step; or constant: 1.

    Args:
        step: t, the number of steps taken before.
        steps: T, of the whole run.
        warmup: W, steps of warm-up.
    Source: Loshchilov and Hutter 2017, Eq. 5; Goyal et al. 2017, section 2.2.
    """
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, steps - warmup)))) / 2
