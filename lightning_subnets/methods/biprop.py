"""biprop: edge-popup on weights of two values, with a gain for each layer."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_subnets.methods.edge_popup import EdgePopup


class Biprop(EdgePopup):
    """A multi-prize ticket: a subnetwork of a random network whose weights are binary, -a or +a in each layer.

    Forward:  w_eff = a * sign(w) * h(|s|), a = sum |w| h / sum h: of all weights of two values on this mask the
              nearest to w * h. The gain a follows the mask.
    Backward: ds = sign(s) * w * dL/dw_eff, straight through h; the gain is taken as a constant.

    The gradient is that of the authors' public code. By a sign(w) for w it would be that of the binary weights, whose
    steps on large and on small weights are alike.

    On signed constants this is edge-popup: all |w| of a layer are equal, so a is that constant and w_eff = w * h. The
    authors use Kaiming normal weights on CIFAR-10, and signed constants for Wide ResNet-50 on ImageNet. Their public
    code divides by int(k n); Algorithm 1 and this class divide by the number of weights kept.

    Args:
        density: fraction of the weights kept, in (0, 1].
        allocation, absolute: as ``EdgePopup``.

    Raises:
        ValueError: if the density is out of range.
    Source: Diffenderfer and Kailkhura 2021, "Multi-Prize Lottery Ticket Hypothesis", Algorithm 1 (MPT-1/32).
    """

    def effective_weight(self, weight: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
        kept = weight * mask
        gain = kept.abs().sum() / mask.sum().clamp(min=1)  # of a layer that has nothing left, 0
        return torch.mul(kept.sign_(), gain, out=out)
