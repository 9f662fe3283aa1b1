"""Checks that all ranks of a run train the same network, and the average of their norm statistics."""

from __future__ import annotations

import platform
import socket
import sys
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed, nn

from lightning_subnets._version import versions
from lightning_subnets.errors import UserError, listed
from lightning_subnets.masking import digest
from lightning_subnets.training.callbacks.averaging import averaged_networks
from lightning_subnets.training.masked_module import network_of
from lightning_subnets.training.strategies import complete_


class RankConsistency(Callback):
    """Keeps the ranks of a fit consistent; does nothing with a single rank.

    - DDP has the options of ``strategies.py``, unless the user's own strategy sets others.
    - At the start, rank 0 prints one line about nodes, devices and versions. The versions must be equal.
    - At the start of training and in each checkpoint, all ranks must hold the same parameters and masks to the bit, see
      ``digest.fingerprints``. Otherwise the run stops on all ranks and names ranks and parameters.
    - Each rank has its own running statistics of norms during training. They are averaged over the ranks before an
      evaluation, in each checkpoint and at the end. The average of running averages is the running average of the
      ranks' means and variances; it omits the variance of the ranks' means about their common mean. With
      ``--trainer.sync_batchnorm=true``, training uses the statistics of the global batch instead.

    Raises:
        ValueError: on rank 0, if versions, parameters or masks differ; the other ranks then end too.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or stage != "fit":
            return
        complete_(trainer.strategy)
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
            check_agreement(trainer, network_of(pl_module))

    # This callback comes after those that replace the network by an average of it.
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            average_norms_(trainer, network_of(pl_module))

    # Otherwise a test after training would use the statistics of rank 0.
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        average_norms_(trainer, network_of(pl_module))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.world_size > 1:
            # The checkpoint holds the same tensors, so averaging them in place changes it too.
            for network in (network_of(pl_module), *averaged_networks(trainer)):
                average_norms_(trainer, network)
            check_agreement(trainer, network_of(pl_module))


class Rank(NamedTuple):
    """The node, device and versions of a rank."""

    node: str
    device: str
    versions: str

    @classmethod
    def this(cls, device: torch.device) -> Rank:
        numbers = versions() | {"Python": platform.python_version()}
        return cls(socket.gethostname(), device_name(device), ", ".join(map(" ".join, numbers.items())))


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the kind of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


def roll_call(ranks: list[Rank]) -> str:
    """Describe all ranks in a line: ``16 processes: n1, n2: 8 x NVIDIA H200 each; lightning_subnets 0.1.0, ...``."""
    devices: dict[str, Counter[str]] = defaultdict(Counter)
    for rank in ranks:
        devices[rank.node][rank.device] += 1
    nodes: dict[str, list[str]] = defaultdict(list)
    for node, counts in devices.items():
        nodes[" + ".join(f"{count} x {device}" for device, count in counts.items())].append(node)
    places = [f"{listed(names)}: {devices}{' each' * (len(names) > 1)}" for devices, names in nodes.items()]
    return f"{len(ranks)} processes: {'; '.join(places)}; {ranks[0].versions}"


def check_agreement(trainer: Trainer, network: nn.Module) -> None:
    """Stop the run on all ranks if they do not hold the same parameters and masks."""
    found = digest.fingerprints(network)
    # After a run the network is on the CPU again, and the group of the ranks exchanges tensors on GPUs alone.
    mine = torch.stack(list(found.values())).to(trainer.strategy.root_device)
    of_ranks = [torch.empty_like(mine) for _ in range(trainer.world_size)]
    distributed.all_gather(of_ranks, mine)
    odd: dict[int, list[str]] = defaultdict(list)
    for name, column in zip(found, torch.stack(of_ranks, dim=1).tolist(), strict=True):
        most, _ = Counter(column).most_common(1)[0]  # if two values are equally frequent, the one of the lower rank
        for rank, value in enumerate(column):
            if value != most:
                odd[rank].append(name)
    if odd:
        differences = [f"rank {rank} differs in {listed(names)}" for rank, names in odd.items()]
        _stop(
            trainer,
            f"the ranks do not hold the same network at step {trainer.global_step}: {listed(differences, '; ')}. "
            "All ranks need the same seed and checkpoint, and the same scores: score on the same data, or reduce the "
            "scores over the ranks",
        )


@torch.no_grad()
def average_norms_(trainer: Trainer, network: nn.Module) -> None:
    """Average the running means and variances of all norms over the ranks, in place, in one exchange.

    Those of SyncBatchNorm are the same on all ranks, and so are the numbers of batches that norms count.
    """
    own = [
        statistic
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and not isinstance(module, nn.SyncBatchNorm)
        for statistic in (module.running_mean, module.running_var)
        if statistic is not None
    ]
    if trainer.world_size == 1 or not own:
        return
    # The average of a network may be on another device.
    averages = trainer.strategy.reduce(torch.cat(own).to(trainer.strategy.root_device), reduce_op="mean")
    assert isinstance(averages, Tensor)
    for statistic, average in zip(own, torch.split(averages, [len(statistic) for statistic in own]), strict=True):
        statistic.copy_(average)


def _stop(trainer: Trainer, why: str) -> None:
    """End all ranks together; only rank 0 fails, because a launcher may kill rank 0 if another rank fails."""
    if trainer.is_global_zero:
        raise UserError(why)
    sys.exit(0)
