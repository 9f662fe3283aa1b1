"""What the ranks of a run decide together, and how one of them knows that another is gone."""

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
    """Whether an error says that another rank cannot be reached any more: what gloo and NCCL raise then."""
    by_gloo = isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    return by_gloo or isinstance(error, distributed.DistBackendError | distributed.DistNetworkError)


@contextmanager
def ending_with_launcher() -> Iterator[None]:
    """End this rank if the rank 0 that started it is gone before the process group is initialized.

    Lightning starts the other ranks of a node from rank 0. If rank 0 is killed, each of them would wait for it for the
    whole timeout, twice. SLURM and torchrun end the ranks that they have started themselves. Once the process group is
    initialized, a rank notices the loss of another one by their connection, see ``lost_rank``.
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


_LAUNCHER = "SUBNETS_LAUNCHER"  # in the environment of ranks: the id of the process that has started them


class DelayedAllReduceMax:
    """The largest of the ranks' numbers, the same on all of them, a step late.

    A collective's result is on the device only when the device has come that far; who asks for it at once waits for
    all that the device has still to do. So a step's numbers are asked for a step later, when they are there.

    Args:
        device: that the ranks exchange tensors on.
        ranks: of the run.
    """

    def __init__(self, device: torch.device, ranks: int) -> None:
        self.device, self.ranks = device, ranks
        self._under_way: tuple[Tensor, torch.cuda.Event | None] | None = None

    def exchange(self, number: int) -> int:
        """Hand in this step's number; the largest that the ranks handed in at the step before, or 0 at the first.

        With one rank there is nothing to wait for, and it is this step's.
        """
        if self.ranks == 1:
            return number
        agreed = self.last()
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
        self._under_way = shared, event
        return agreed

    def last(self) -> int:
        """What was agreed at the last exchange, waiting for it; 0 if that has been asked for."""
        if self._under_way is None:
            return 0
        shared, event = self._under_way
        self._under_way = None
        if event is not None:
            event.synchronize()
        return int(shared)

    def now(self, number: int) -> int:
        """The largest of the ranks' numbers, waiting for it; also of those that are under way."""
        return max(self.exchange(number), self.last())
