"""A linear classifier on random features: a baseline from the paper's related work."""

from __future__ import annotations

from lightning_subnets.methods.dense import Dense


class LinearProbe(Dense):
    """A dense network that trains only weight and bias of its last layer, and keeps the other weights as drawn.

    The last layer is the one that was registered last when the network was built.

    Source: Ramanujan et al. 2020, section 2, "Randomly Initialized Neural Networks"; Rahimi and Recht 2009, "Weighted
        Sums of Random Kitchen Sinks".
    """

    trainable = "last layer"
