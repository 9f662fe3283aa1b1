"""The size of the training images by epoch: small images first make early epochs cheaper."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_subnets.errors import UserError


@dataclass(frozen=True)
class Resizing:
    """Height and width of the training images by epoch: one size, a ramp, another size.

    The size is ``start`` up to ``start_epoch`` and ``end`` from ``end_epoch``. In between it is linear in the epoch,
    rounded to a multiple of 32 and clipped to the two sizes.

    Args:
        start: in pixels.
        end: in pixels.
        start_epoch: counted from 0.
        end_epoch: counted from 0.

    Raises:
        ValueError: if a size is below 1 or the ramp ends before it starts.

    Source: Howard 2018, "Training Imagenet in 3 hours for 25 minutes"; the ramp of Leclerc et al. 2023 (FFCV).
    """

    start: int
    end: int
    start_epoch: int = 0
    end_epoch: int = 0

    def __post_init__(self) -> None:
        if min(self.start, self.end) < 1:
            raise UserError(f"start = {self.start} and end = {self.end} must be at least 1 pixel")
        if self.start_epoch > self.end_epoch:
            raise UserError(f"end_epoch = {self.end_epoch} is before start_epoch = {self.start_epoch}")

    def __call__(self, epoch: int) -> int:
        if epoch >= self.end_epoch:
            return self.end
        if epoch <= self.start_epoch:
            return self.start
        share = (epoch - self.start_epoch) / (self.end_epoch - self.start_epoch)
        size = 32 * round((self.start + share * (self.end - self.start)) / 32)
        return max(min(self.start, self.end), min(size, max(self.start, self.end)))
