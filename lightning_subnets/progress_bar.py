"""A progress bar for work of several seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from torch import distributed

from lightning_subnets.errors import printable

Item = TypeVar("Item")


def progress(items: Sequence[Item], description: str) -> Iterator[Item]:
    """Yield the items, and show a bar with the time left if standard error is a terminal, on the first rank only."""
    if not sys.stderr.isatty() or (distributed.is_initialized() and distributed.get_rank()):
        yield from items
        return
    # Import rich after Lightning. Rich mentions Optional[float | int]. typing would return that cached type for
    # Lightning's Optional[int | float], and the command line would read limit_train_batches=1 as 1.0, all of them.
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    yield from track(items, escape(printable(description)), console=Console(stderr=True), transient=True)
