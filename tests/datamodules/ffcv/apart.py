"""Functions run in a process of their own, where they may crash, hang, be killed, or start processes themselves."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess

# A process is forked from one that has imported these and has no threads: in milliseconds, rather than 10 seconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["pytest", "lightning_subnets.datamodules.ffcv.preparation", "ffcv.loader", "ffcv.writer"]
)


def get_ready() -> None:
    """Begin with those imports, for processes that are wanted later."""
    forkserver.ensure_running()


def started(function: Callable[..., object], *arguments: object) -> ForkServerProcess:
    process = _CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def run_apart(function: Callable[..., object], *arguments: object, limit: float = 60.0) -> int | None:
    """Exit code of a process that does this: negative for the signal that ended it, None if it took too long.

    Args:
        limit: in seconds.
    """
    process = started(function, *arguments)
    process.join(limit)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    process.close()
    return code
