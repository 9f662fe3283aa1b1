"""Run a function in its own process, where it may crash, hang, be killed, or start processes."""

from __future__ import annotations

from collections.abc import Callable

from fork_server import CONTEXT


def run_apart(function: Callable[..., object], *arguments: object, limit: float = 60.0) -> int | None:
    """Return the exit code of a process: negative for a signal, None if it took longer than ``limit`` seconds."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    process.join(limit)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    process.close()
    return code
