"""What a run of several processes needs: to know who they are, that they train one network, and what all have seen."""

from __future__ import annotations

import platform
import socket
import sys
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed, nn

import lightning_subnets
from lightning_subnets.errors import UserError
from lightning_subnets.masking import digest
from lightning_subnets.training.callbacks.averaging import averaged_networks


class RankConsistency(Callback):
    """Keeps the ranks of a fit together; does nothing where there is one.

    - When it begins, rank 0 says what runs where, and with which versions, which have to be the same everywhere.
    - At the start of training and in each checkpoint all ranks must hold the same parameters and masks, to the bit:
      see ``digest.fingerprints``. If they do not, the run stops, on all of them, and names ranks and layers.
    - Running statistics of norms are each rank's own during training, as in the paper's recipe, and averaged over the
      ranks before an evaluation, in each checkpoint and at the end. The average is linear, and so is a running average:
      it is the running average of the ranks' means and variances. Left out is the variance of the ranks' means about
      their common one, as a running average leaves out that of the batches'. ``--trainer.sync_batchnorm=true`` trains
      by the statistics of the global batch instead, which are the same on all ranks.

    Raises:
        ValueError: on rank 0, if versions, parameters or masks differ; the other ranks then end too.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or stage != "fit":
            return
        ranks: list[Rank] = [Rank.this(trainer.strategy.root_device)] * trainer.world_size
        distributed.all_gather_object(ranks, ranks[0])
        for rank, other in enumerate(ranks):
            if other.versions != ranks[0].versions:
                _stop(
                    trainer,
                    f"rank {rank} on {other.node} has {other.versions}, and rank 0 on {ranks[0].node} has "
                    f"{ranks[0].versions}: install the same on all nodes",
                )
        if trainer.is_global_zero:
            print(roll_call(ranks), file=sys.stderr)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            check_agreement(trainer, _network(pl_module))

    # After callbacks that exchange the network for an average of it.
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1 and trainer.state.fn == TrainerFn.FITTING:
            average_norms_(trainer, _network(pl_module))

    # The test that follows would begin with the statistics of rank 0.
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            average_norms_(trainer, _network(pl_module))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.world_size > 1:
            # In place, and what the checkpoint holds are the same tensors.
            for network in (_network(pl_module), *averaged_networks(trainer)):
                average_norms_(trainer, network)
            check_agreement(trainer, _network(pl_module))


class Rank(NamedTuple):
    """Where a process runs, and with what."""

    node: str
    device: str
    versions: str

    @classmethod
    def this(cls, device: torch.device) -> Rank:
        versions = {
            "lightning-subnets": lightning_subnets.__version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "Python": platform.python_version(),
        }
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
        return cls(socket.gethostname(), name, ", ".join(map(" ".join, versions.items())))


def roll_call(ranks: list[Rank]) -> str:
    """What runs where, in a line: ``16 processes: n1, n2: 8 x NVIDIA H200 each; lightning-subnets 0.1.0, torch ...``"""
    nodes: dict[str, Counter[str]] = defaultdict(Counter)
    for rank in ranks:
        nodes[rank.node][rank.device] += 1
    alike: dict[str, list[str]] = defaultdict(list)
    for node, devices in nodes.items():
        alike[" + ".join(f"{count} x {device}" for device, count in devices.items())].append(node)
    places = [f"{listed(names)}: {what}{' each' * (len(names) > 1)}" for what, names in alike.items()]
    return f"{len(ranks)} processes: {'; '.join(places)}; {ranks[0].versions}"


def check_agreement(trainer: Trainer, network: nn.Module) -> None:
    """Stop the run on all ranks if they do not hold the same parameters and masks."""
    found = digest.fingerprints(network)
    mine = torch.stack(list(found.values()))
    of_ranks = [torch.empty_like(mine) for _ in range(trainer.world_size)]
    distributed.all_gather(of_ranks, mine)
    odd: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, column in zip(found, torch.stack(of_ranks, dim=1).tolist(), strict=True):
        # Of two that are as frequent, that of the lower rank.
        most, _ = Counter(column).most_common(1)[0]
        for rank, value in enumerate(column):
            if value != most:
                layer, _, what = name.rpartition(".")
                odd[rank][layer].append(what)
    if odd:
        apart = [
            f"rank {rank} differs in " + listed([f"{layer} ({', '.join(what)})" for layer, what in layers.items()])
            for rank, layers in odd.items()
        ]
        _stop(
            trainer,
            f"the ranks do not hold the same network at step {trainer.global_step}: {listed(apart, '; ')}. "
            "All need the same seed, score on the same data or with scores reduced over ranks, and go on from the same "
            "checkpoint",
        )


@torch.no_grad()
def average_norms_(trainer: Trainer, network: nn.Module) -> None:
    """Average the running means and variances of all norms over ranks, in place, by one exchange.

    Those of SyncBatchNorm are the same everywhere. Batches are counted on every rank, and are as many.
    """
    own = [
        statistic
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and not isinstance(module, nn.SyncBatchNorm)
        for statistic in (module.running_mean, module.running_var)
        if statistic is not None
    ]
    if not own:
        return
    # The average of a network may be on another device.
    averages = trainer.strategy.reduce(torch.cat(own).to(trainer.strategy.root_device), reduce_op="mean")
    assert isinstance(averages, Tensor)
    for statistic, average in zip(own, torch.split(averages, [len(statistic) for statistic in own]), strict=True):
        statistic.copy_(average)


def _network(module: LightningModule) -> nn.Module:
    network = module.network
    assert isinstance(network, nn.Module)
    return network


def listed(names: list[str], separator: str = ", ") -> str:
    """All of a few names; of many the first and the number of the others."""
    if len(names) > _LISTED + 1:
        names = [*names[:_LISTED], f"and {len(names) - _LISTED} more"]
    return separator.join(names)


def _stop(trainer: Trainer, why: str) -> None:
    # All ranks come here together. One tells of it, so that it is told once; what starts the ranks may kill it when
    # another fails, so that the others do not.
    if trainer.is_global_zero:
        raise UserError(why)
    sys.exit(0)


_LISTED = 4
