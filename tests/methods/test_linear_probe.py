from __future__ import annotations

import torch
from table import shuffle_net

from lightning_subnets import LinearProbe, mask_


def test_only_the_last_layer_is_trained_and_features_are_random_ones() -> None:
    network = mask_(shuffle_net(), LinearProbe(), weights="kaiming_normal")
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {"fc.weight", "fc.bias"}
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(bool((norm.weight == 1).all() and (norm.bias == 0).all()) for norm in norms)


def test_the_features_of_a_trained_network_stay_as_they_are() -> None:
    network = shuffle_net()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    mask_(network, LinearProbe(), weights=None)
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
