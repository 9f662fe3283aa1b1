"""A maximum over the ranks that makes no rank wait for its GPU, and the detection of lost ranks."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed


def lost_rank(error: BaseException) -> bool:
    """Return whether gloo or NCCL raised an error because another rank cannot be reached."""
    by_gloo = isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    return by_gloo or isinstance(error, distributed.DistBackendError | distributed.DistNetworkError)


@contextmanager
def ending_with_launcher() -> Iterator[None]:
    """End this rank if the rank 0 that started it ends before the process group is initialized.

    Lightning starts the other ranks of a node from rank 0. If rank 0 is killed, each of them would wait for the whole
    timeout, twice. SLURM and torchrun end the ranks that they have started. Once the process group is initialized, a
    lost connection shows that a rank is lost, see ``lost_rank``.
    """
    launcher = os.environ.get(_LAUNCHER)
    if launcher and os.environ.get("LOCAL_RANK", "0") != "0":
        threading.Thread(target=_end_with, args=(int(launcher),), daemon=True).start()
    os.environ[_LAUNCHER] = str(os.getpid())  # for the ranks that are started from here
    try:
        yield
    finally:
        del os.environ[_LAUNCHER]


def _end_with(launcher: int) -> None:
    while not distributed.is_initialized():
        if os.getppid() != launcher:
            rank = os.environ["LOCAL_RANK"]
            print(f"error: rank {rank} ends because rank 0, which started it, was killed or has ended", file=sys.stderr)
            os._exit(1)
        time.sleep(1)


_LAUNCHER = "SUBNETS_LAUNCHER"  # an environment variable of a rank: the id of the process that started it


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
