"""The density of each masked weight, and the share of its edges that an epoch has swapped."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_subnets import masking
from lightning_subnets.masking.masked_weight import check_shapes
from lightning_subnets.training.masked_module import network_of


class MaskStatistics(Callback):
    """Logs ``density/<weight>`` and ``swapped/<weight>`` at the end of each training epoch.

    density = kept / total. swapped = |m_before and not m_now| / |m_before|, where m_before is the mask of an epoch ago:
    the share of the edges kept then that are not kept now; 0 for an empty mask. If the number of edges is constant,
    equally many were added. A dense network logs nothing.
    """

    def __init__(self) -> None:
        self._before: dict[str, Tensor] = {}
        self._resumed: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = network_of(pl_module)
        weights = masking.masked_weights(network).values()
        dense = all(weight.scores is None and weight.method.density == 1 for weight in weights)
        self._before = {} if dense else masking.masks(network)
        if self._resumed:
            check_shapes(self._resumed, self.state_dict(), "the checkpoint is")
        for name, packed in self._resumed.items():
            self._before[name] = _unpacked(packed, like=self._before[name])
        self._resumed = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._before:
            return
        now = masking.masks(network_of(pl_module))
        density = torch.stack([mask.float().mean() for mask in now.values()])
        swapped = torch.stack(
            [
                (before & ~mask).sum() / before.sum().clamp(min=1)
                for before, mask in zip(self._before.values(), now.values(), strict=True)
            ]
        )
        # One copy from the device for all weights.
        for name, kept, moved in zip(now, density.tolist(), swapped.tolist(), strict=True):
            pl_module.log(f"density/{name}", kept, sync_dist=True)
            pl_module.log(f"swapped/{name}", moved, sync_dist=True)
        self._before = now

    def state_dict(self) -> dict[str, Tensor]:
        """Return the masks of an epoch ago, a bit per weight, because the scores do not give them any more."""
        return {name: _packed(mask) for name, mask in self._before.items()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        self._resumed = state_dict


def _packed(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def _unpacked(packed: Tensor, *, like: Tensor) -> Tensor:
    bits = np.unpackbits(packed.numpy(), count=like.numel())
    return torch.from_numpy(bits.astype(bool)).view(like.shape).to(like.device)
