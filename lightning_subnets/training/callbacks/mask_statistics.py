"""How the mask moves: kept density and share of edges swapped, layer by layer."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_subnets import masking
from lightning_subnets.masking.method import current_masks
from lightning_subnets.training.checkpoint import check_shapes


class MaskStatistics(Callback):
    """Logs ``density/<layer>`` and ``swapped/<layer>`` at the end of each training epoch.

    density = kept / total. swapped = the share of the kept edges of an epoch ago that are not kept any more,
    |m_before and not m_now| / |m_before|: under a constant number kept as many came in as went out. A dense
    network has nothing to log.
    """

    def __init__(self) -> None:
        self._layers: dict[str, masking.MaskedLayer] = {}
        self._before: dict[str, Tensor] = {}
        self._resumed: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = pl_module.network
        assert isinstance(network, nn.Module)
        layers = dict(masking.masked_layers(network))
        # One that has no scores and keeps all will go on to do so.
        constant = all(layer.scores is None and layer.method.density == 1 for layer in layers.values())
        self._layers = {} if constant else layers
        self._before = self._masks()
        if self._resumed:
            check_shapes(self._resumed, self.state_dict())
        for name, packed in self._resumed.items():
            self._before[name] = _unpacked(packed, like=self._before[name])
        self._resumed = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._layers:
            return
        now = self._masks()
        density = torch.stack([mask.float().mean() for mask in now.values()])
        swapped = torch.stack(
            [
                (before & ~mask).sum() / before.sum().clamp(min=1)  # of an empty layer, 0
                for before, mask in zip(self._before.values(), now.values(), strict=True)
            ]
        )
        # One copy from the device for all layers.
        for name, kept, moved in zip(now, density.tolist(), swapped.tolist(), strict=True):
            pl_module.log(f"density/{name}", kept, sync_dist=True)
            pl_module.log(f"swapped/{name}", moved, sync_dist=True)
        self._before = now

    def state_dict(self) -> dict[str, Tensor]:
        """The masks of an epoch ago, a bit a weight: they cannot be had from the scores any more."""
        return {name: _packed(mask) for name, mask in self._before.items()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        self._resumed = state_dict

    def _masks(self) -> dict[str, Tensor]:
        masks = current_masks(list(self._layers.values())) if self._layers else []
        return dict(zip(self._layers, masks, strict=True))


def _packed(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.cpu().numpy()))


def _unpacked(packed: Tensor, *, like: Tensor) -> Tensor:
    bits = np.unpackbits(packed.numpy(), count=like.numel())
    return torch.from_numpy(bits.astype(bool)).view(like.shape).to(like.device)
