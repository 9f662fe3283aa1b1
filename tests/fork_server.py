"""The process that all tests fork from: it has imported everything, so that a fork starts in milliseconds."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
# The list is global: a second one would replace it. An import of FFCV takes as long as that of torch.
CONTEXT.set_forkserver_preload(
    [
        "pytest",
        "lightning_subnets.commands.cli",
        "lightning_subnets.datamodules.ffcv.preparation",
        "ffcv.loader",
        "ffcv.writer",
    ]
)
