"""A linear classifier on random features: the related-work baseline of the paper."""

from __future__ import annotations

from lightning_subnets.methods.dense import Dense


class LinearProbe(Dense):
    """All weights are used, and those of the last layer and its bias are trained; the rest stays as it was drawn.

    The last layer is the last in the order in which the network was built.

    Source: Ramanujan et al. 2020, section 2, "Randomly Initialized Neural Networks"; Rahimi and Recht 2009, "Weighted
        Sums of Random Kitchen Sinks".
    """

    trainable = "last layer"
