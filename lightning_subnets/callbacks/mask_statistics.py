"""How the mask moves: kept density and share of edges swapped, layer by layer."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_subnets import masking
from lightning_subnets.module import SubnetModule


class MaskStatistics(Callback):
    """Logs ``density/<layer>`` and ``swapped/<layer>`` at the end of each training epoch.

    density = kept / total. swapped = the share of the kept edges of an epoch ago that are not kept any more,
    |m_before and not m_now| / |m_before|: under a constant number kept as many came in as went out. A network
    of density 1 has nothing to log.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SubnetModule)
        self._method = pl_module.method
        self._layers = dict(masking.masked_layers(pl_module.network)) if pl_module.method.density < 1 else {}
        self._before = self._masks()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._layers:
            return
        now = self._masks()
        density = torch.stack([mask.float().mean() for mask in now.values()])
        swapped = torch.stack(
            [
                (before & ~mask).sum() / before.sum()
                for before, mask in zip(self._before.values(), now.values(), strict=True)
            ]
        )
        # One copy from the device for all layers.
        for name, kept, moved in zip(now, density.tolist(), swapped.tolist(), strict=True):
            pl_module.log(f"density/{name}", kept, sync_dist=True)
            pl_module.log(f"swapped/{name}", moved, sync_dist=True)
        self._before = now

    def _masks(self) -> dict[str, Tensor]:
        masks = self._method.masks(list(self._layers.values())) if self._layers else []
        return dict(zip(self._layers, masks, strict=True))
