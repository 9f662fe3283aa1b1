"""A maximum over the ranks that makes no rank wait for its GPU."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


class DelayedAllReduceMax:
    """The maximum of a number over all ranks, one step late.

    Reading the result of a collective makes the host wait until the device has finished all earlier work. So the result
    of a step is read at the next step, when the device has finished it.

    Args:
        device: on which the ranks exchange tensors.
        ranks: the number of ranks.
    """

    def __init__(self, device: torch.device, ranks: int) -> None:
        self.device, self.ranks = device, ranks
        self._pending: tuple[Tensor, torch.cuda.Event | None] | None = None

    def exchange(self, number: int) -> int:
        """Start the exchange of this step's number, and return the maximum of the step before; 0 at the first step.

        With a single rank, return this step's number.
        """
        if self.ranks == 1:
            return number
        before = self.last()
        shared = torch.tensor([number], dtype=torch.int32)
        event = None
        if self.device.type == "cuda":
            on_device = shared.pin_memory().to(self.device, non_blocking=True)
            distributed.all_reduce(on_device, op=distributed.ReduceOp.MAX)
            shared = torch.empty_like(shared, pin_memory=True).copy_(on_device, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        else:
            distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
        self._pending = shared, event
        return before

    def last(self) -> int:
        """Wait for the last exchange and return its maximum; 0 if it has been returned before."""
        if self._pending is None:
            return 0
        shared, event = self._pending
        self._pending = None
        if event is not None:
            event.synchronize()
        return int(shared)

    def now(self, number: int) -> int:
        """Return the maximum of this step's number and of the step before over all ranks, without the delay."""
        return max(self.exchange(number), self.last())
