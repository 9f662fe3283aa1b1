"""The end of a rank when another rank of its run is lost, ends with an error, or gets SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lightning.pytorch import Trainer
from torch import distributed

from lightning_subnets.training.lightning_internals import disable_signal_handlers

GRACE = 30.0  # seconds in which rank 0 may end by itself, and tell W&B how the run ended


def lost_rank(error: BaseException) -> bool:
    """Return whether gloo or NCCL raised an error because another rank cannot be reached."""
    by_gloo = isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    return by_gloo or isinstance(error, distributed.DistBackendError | distributed.DistNetworkError)


def end_on_sigterm(trainer: Trainer) -> None:
    """Let SIGTERM end this process and the ranks that it has started, with exit code 143.

    With Lightning's handler, a test would end with exit code 0 and no result. ``LastCheckpoint`` has one of its own.
    """
    disable_signal_handlers(trainer)

    def end(number: int, _: object) -> None:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(number)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


@contextmanager
def ending_with_launcher() -> Iterator[None]:
    """End this rank soon after the rank 0 that started it, and not before it.

    Lightning starts the other ranks of a node from rank 0. SLURM and torchrun end the ranks that they have started.

    - If rank 0 is killed before the process group is initialized, each of the others would wait for the whole timeout,
      twice. Afterwards gloo sees the lost connection, see ``lost_rank``. NCCL on one node has none to lose, and the
      GPUs would be occupied until its timeout.
    - If all ranks fail, rank 0 would be killed because the others have ended, before it has ended by itself. If this
      rank alone fails, rank 0 learns of it 30 seconds later.
    """
    started_by = os.environ.get(_LAUNCHER)
    launcher = int(started_by) if started_by and os.environ.get("LOCAL_RANK", "0") != "0" else None
    if launcher is not None:
        threading.Thread(target=_end_with, args=(launcher,), daemon=True).start()
    os.environ[_LAUNCHER] = str(os.getpid())  # for the ranks that are started from here
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except BaseException as error:
        if launcher is not None and not (isinstance(error, SystemExit) and error.code in (0, None)):
            deadline = time.monotonic() + GRACE
            with suppress(KeyboardInterrupt):
                while os.getppid() == launcher and time.monotonic() < deadline:
                    time.sleep(0.1)
        raise
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
        del os.environ[_LAUNCHER]


def _end_with(launcher: int) -> None:
    while os.getppid() == launcher:
        with suppress(ValueError):  # the process group may end between the two calls
            if distributed.is_initialized() and distributed.get_backend() != "nccl":
                return
        time.sleep(1)
    if distributed.is_initialized():
        time.sleep(GRACE)  # rank 0 may have ended as it should, and this rank be about to
    rank = os.environ["LOCAL_RANK"]
    print(f"error: rank {rank} ends because rank 0, which started it, was killed or has ended", file=sys.stderr)
    os._exit(1)


_LAUNCHER = "SUBNETS_LAUNCHER"  # an environment variable of a rank: the id of the process that started it
