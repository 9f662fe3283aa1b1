"""biprop: edge-popup with binary weights and one gain for each layer."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_subnets.methods.edge_popup import EdgePopup


class Biprop(EdgePopup):
    """A multi-prize ticket: a subnetwork of random weights, each replaced by +a or -a with one gain a per layer.

    Forward:  w_eff = a * sign(w) * h(|s|), a = sum |w| h / sum h; this a brings w_eff nearest to w * h.
    Backward: ds = sign(s) * w * dL/dw_eff, straight through h, with the gain a as a constant.

    As in the public code, ds has the factor w and not a * sign(w). On signed constants this is edge-popup. The authors
    use Kaiming normal weights on CIFAR-10, and signed constants for Wide ResNet-50 on ImageNet.

    Args:
        density: fraction of the weights kept, in (0, 1].
        allocation: as for ``EdgePopup``.
        absolute: as for ``EdgePopup``.

    Raises:
        ValueError: if the density is out of range or the allocation is unknown; or, by ``mask_``, if ``smart_ratio``
            would keep more of the last layer than the density keeps in all.
    Source: Diffenderfer and Kailkhura 2021, "Multi-Prize Lottery Ticket Hypothesis", Algorithm 1 (MPT-1/32).
    """

    def effective_weight(self, weight: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
        kept = weight * mask
        total = kept.abs().sum(dtype=torch.promote_types(kept.dtype, torch.float32))  # float16 ends at 65,504
        gain = total / mask.sum().clamp(min=1)  # 0 for an empty layer
        return torch.mul(kept.sign_(), gain.to(kept.dtype), out=out)
