"""How several processes train one network: DistributedDataParallel, with its choices made on purpose.

``register()`` puts them under the names that ``--trainer.strategy`` takes, ``ddp`` among them, which is what several
devices or nodes get when nothing is said.

- **Buffers are not broadcast before each forward pass.** They are the running statistics of norms, which no training
  step reads; each rank gathers its own, and they are averaged where they are read: before an evaluation and in a
  checkpoint, see ``callbacks.RankConsistency``. DDP would send rank 0's, every step, and throw away what the
  others have seen.
- **Nothing is copied from rank 0 when training begins.** The seed gives each rank its weights and scores, or the
  checkpoint does. A copy would cover up that a rank has made others, by scoring on data of its own for instance, and
  leave the rest of it, its optimizer's state say, different; ``RankConsistency`` compares all parameters instead.
- **Gradients are views of DDP's buckets**, so that they are not held twice: 98 MiB less for ResNet-50.
- **A rank waits 10 minutes for the others**, as torch does on GPUs, where Lightning has them wait half an hour: longer
  than anything that one of them does alone, and a run that hangs still costs.
- ``static_graph`` is off. It would spare a search for unused parameters that is not made anyway.

``ddp_bf16`` rounds gradients to bfloat16 on their way, half the bytes; scores, momentum and steps stay float32.
``ddp_find_unused_parameters_true`` is for networks of which a part has no gradient, GoogLeNet's auxiliary classifiers
for instance. docs/scaling.md has the arithmetic.
"""

from __future__ import annotations

from datetime import timedelta
from inspect import signature
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel


class DDPInBfloat16(DDPStrategy):
    """DDP that averages gradients in bfloat16.

    g = float32(sum over ranks of bfloat16(g_rank / ranks)), the sum in bfloat16 too. Exponents are those of float32:
    nothing over- or underflows. Each rounding, one a hop of the all-reduce, is off by at most 2^-8 of the value.
    """

    def configure_ddp(self) -> None:
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        # Lightning's own ddp_comm_hook is passed over without a word where there is no GPU.
        self.model.register_comm_hook(None, bf16_compress_hook)


# torch 2.15 warns of the name that it had before.
_RENAMED = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
OPTIONS: dict[str, Any] = {
    "forward_sync_buffers" if _RENAMED else "broadcast_buffers": False,
    "init_sync": False,
    "gradient_as_bucket_view": True,
    "timeout": timedelta(minutes=10),
}


def register() -> None:
    """Make ``ddp`` and its kin what this page says, for every Trainer that is built from now on.

    The ``lightning`` command does. Modules other than ``SubnetModule`` then have to be the same on all ranks by
    themselves.
    """
    StrategyRegistry.register("ddp", DDPStrategy, override=True, **OPTIONS)
    StrategyRegistry.register("ddp_bf16", DDPInBfloat16, override=True, **OPTIONS)
    unused = OPTIONS | {"find_unused_parameters": True}
    StrategyRegistry.register("ddp_find_unused_parameters_true", DDPStrategy, override=True, **unused)
