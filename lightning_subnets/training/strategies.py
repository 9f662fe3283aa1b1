"""DistributedDataParallel with the options of this package.

``register()`` sets them for ``--trainer.strategy=ddp``, the default for several devices or nodes, and for its variants,
and ``complete_()`` for any other ``DDPStrategy`` of a ``SubnetModule``.

- **DDP does not broadcast buffers before each forward pass.** They are the running statistics of norms, which no
  training step reads. ``RankConsistency`` averages them before an evaluation and in a checkpoint; DDP would send those
  of rank 0 at every step and discard those of the others.
- **DDP copies nothing from rank 0 when training begins.** Each rank gets its weights and scores from the seed or the
  checkpoint. A copy would hide that a rank has different ones, and leave its optimizer different; ``RankConsistency``
  compares all parameters instead.
- **Gradients are views of DDP's buckets**, so they are stored once: 98 MiB less for ResNet-50.
- **A rank waits 10 minutes for the others**, torch's default on GPUs; Lightning's is half an hour. No rank does
  anything alone that takes longer.
- ``static_graph`` is off, because it only saves a search for unused parameters, which is off too.

``ddp_bf16`` sends gradients in bfloat16, half the bytes; scores, momentum and steps stay float32.
``ddp_find_unused_parameters_true`` is for networks with parameters that get no gradient, such as GoogLeNet's auxiliary
classifiers. docs/scaling.md has the arithmetic.
"""

from __future__ import annotations

from datetime import timedelta
from inspect import signature
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, Strategy, StrategyRegistry
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from lightning_subnets.training import lightning_internals as internals


class DDPInBfloat16(DDPStrategy):
    """DDP that averages gradients in bfloat16.

    g = float32(sum over ranks of bfloat16(g_rank / ranks)), with the sum in bfloat16. Nothing over- or underflows,
    because bfloat16 has the exponents of float32. Each hop of the all-reduce rounds once, by at most 2^-8 of the value.
    """

    def configure_ddp(self) -> None:
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        # Lightning ignores its own ddp_comm_hook silently if there is no GPU.
        self.model.register_comm_hook(None, bf16_compress_hook)


# torch 2.15 has renamed the option and warns of the old name.
_BUFFERS = {"forward_sync_buffers", "broadcast_buffers"}
_RENAMED = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
OPTIONS: dict[str, Any] = {
    "forward_sync_buffers" if _RENAMED else "broadcast_buffers": False,
    "init_sync": False,
    "gradient_as_bucket_view": True,
    "timeout": timedelta(minutes=10),
}


def register() -> None:
    """Set the options of ``ddp`` and its variants for every Trainer that is built later.

    The ``lightning`` command calls this. A module that is not a ``SubnetModule`` must then ensure itself that it is the
    same on all ranks.
    """
    StrategyRegistry.register("ddp", DDPStrategy, override=True, **OPTIONS)
    StrategyRegistry.register("ddp_bf16", DDPInBfloat16, override=True, **OPTIONS)
    for unused in (True, False):
        name = f"ddp_find_unused_parameters_{unused}".lower()
        StrategyRegistry.register(name, DDPStrategy, override=True, find_unused_parameters=unused, **OPTIONS)


def complete_(strategy: Strategy) -> None:
    """Set those of our options that a ``DDPStrategy`` of the user's own leaves open, except the timeout.

    The process group has begun with the strategy's own timeout, and DDP has not wrapped the network yet.
    """
    if isinstance(strategy, DDPStrategy):
        given = internals.ddp_options(strategy)
        for name, value in OPTIONS.items():
            chosen = given.keys() & (_BUFFERS if name in _BUFFERS else {name})
            if name != "timeout" and not chosen:
                given[name] = value
