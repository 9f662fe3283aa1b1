"""Edges that are never searched: a random part of a weight is always kept, another part never."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking import initialization, selection


@dataclass
class FrozenEdges:
    """The frozen edges of one weight, a function of the seed.

    Attributes:
        always: how many numbers are kept, whatever their scores.
        never: how many are not.
        seed: of the draw.
        stream: of random bits, see ``initialization.stream_of``.
        pattern: int8, shaped like the weight: 1 always kept, -1 never kept, 0 searched.
    """

    always: int
    never: int
    seed: int
    stream: str
    pattern: Tensor

    @classmethod
    def draw(cls, shape: torch.Size, *, always: int, never: int, seed: int, stream: str) -> FrozenEdges:
        """Draw the edges from u ~ U(0, 1): the largest u are always kept, the smallest never."""
        with torch.inference_mode(False):  # a pattern made in inference mode cannot be used in training
            chances = initialization.draw_chances(shape, seed=seed, stream=f"{stream} frozen")
            pattern = selection.top_k(chances, always).to(torch.int8) - selection.top_k(-chances, never).to(torch.int8)
        return cls(always, never, seed, stream, pattern)

    def on(self, device: torch.device) -> Tensor:
        """Return the pattern on a device, where it then stays."""
        if self.pattern.device != device:
            with torch.inference_mode(False):  # an evaluation may be the first to read it, and training the next
                self.pattern = self.pattern.to(device)
        return self.pattern


def check_frozen(frozen: float) -> float:
    """Return a share of frozen edges in [0, 1), and refuse any other."""
    if not 0.0 <= frozen < 1.0:
        raise UserError(f"frozen = {frozen} is outside [0, 1): it is the share of the edges that are not searched")
    return frozen


def searched_scores(scores: Tensor, edges: FrozenEdges | None, *, score_of_kept: float = math.inf) -> Tensor:
    """Return the scores of searched edges, ``score_of_kept`` for edges that are always kept, else -inf."""
    if edges is None:
        return scores
    pattern = edges.on(scores.device)
    return scores.masked_fill(pattern == 1, score_of_kept).masked_fill(pattern == -1, -math.inf)
