"""Attention as products of queries, keys and values, against the number of paths worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from lightning_subnets import UserError, mask_, masked_weights, masks
from lightning_subnets.graph.diagnostics import diagnose, log10_path_kernel_trace
from lightning_subnets.graph.unit_graph import Edges, Float64
from lightning_subnets.graph.unit_tracing import trace
from lightning_subnets.masking.maskable import find_weights
from lightning_subnets.methods.phew import PHEW

HEADS, FEATURES, TOKENS = 2, 4, 3
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_matrices(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.transpose(-2, -1)).softmax(-1) @ value


def by_einsum(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = torch.einsum("bhtd,bhsd->bhts", query, key).softmax(-1)
    return torch.einsum("bhts,bhsd->bhtd", weights, value)


def with_a_bias(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(query, key, value, torch.zeros(TOKENS, TOKENS), 0.0, scale=2.0)


class Attention(nn.Module):
    """Attention of tokens to themselves, as timm writes it."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.qkv, self.proj, self.attend = nn.Linear(FEATURES, 3 * FEATURES), nn.Linear(FEATURES, FEATURES), attend

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).view(-1, TOKENS, 3, HEADS, FEATURES // HEADS).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(self.attend(query, key, value).transpose(1, 2).reshape(-1, TOKENS, FEATURES))
        return out


class OfTorch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(FEATURES, HEADS, batch_first=True)

    def forward(self, tokens: Tensor) -> Any:
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "fused": lambda: Attention(nn.functional.scaled_dot_product_attention),
    "with a bias": lambda: Attention(with_a_bias),
    "matrices": lambda: Attention(by_matrices),
    "einsum": lambda: Attention(by_einsum),
    "of torch": OfTorch,
    "of torch, frozen": lambda: OfTorch().requires_grad_(False),
}


def drawn(network: nn.Module) -> dict[str, Tensor]:
    return {name: torch.rand(each.parameter.shape) < 0.5 for name, each in find_weights(network).masked.items()}


def paths_into(kept: dict[str, Tensor]) -> tuple[Float64, Float64]:
    """Return the number of paths to each output feature, and to each feature of the heads' outputs, by hand.

    A feature of a head's output is reached by the same feature of the values, and by all queries and keys of the head.
    """
    first, last = (mask.double().numpy() for mask in kept.values())
    query, key, value = first.sum(1).reshape(3, HEADS, FEATURES // HEADS)
    features = (value + query.sum(1, keepdims=True) + key.sum(1, keepdims=True)).reshape(-1)
    return last @ features, features


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_feature_of_the_values_and_all_queries_and_keys_lead_to_a_feature_of_a_head(name: str) -> None:
    network = NETWORKS[name]()
    kept = drawn(network)
    graph = trace(network, (TOKENS, FEATURES))
    assert len(graph.inputs) == len(graph.outputs) == FEATURES
    weights = {key: mask.double().numpy() for key, mask in kept.items()}
    expected, _ = paths_into(kept)
    assert sum(expected) > 0
    assert 10 ** graph.log_paths(weights)[graph.outputs] == pytest.approx(expected)
    assert np.sum(10 ** graph.log_paths(weights, backward=True)[graph.inputs]) == pytest.approx(sum(expected))
    assert [step.name for step in graph.steps if isinstance(step, Edges)] == list(kept)


@pytest.mark.parametrize("name", ["fused", "of torch"])
def test_a_weight_of_attention_is_cut_off_only_if_no_output_reads_its_head(name: str) -> None:
    network = NETWORKS[name]()
    first, last = kept = drawn(network)
    kept[first][:], kept[last][:] = True, False
    kept[last][0, 0] = True  # one output reads one feature of the first head
    found = diagnose(network, (TOKENS, FEATURES), kept)
    assert not found.collapsed
    # The queries and the keys of the head, two features each, and one feature of its values.
    assert found.layers[first].on_paths == 5 * FEATURES
    assert (found.layers[first].units, found.layers[first].alive, found.layers[first].width) == (3 * FEATURES, 5, 5)
    kept[first][2 * FEATURES :] = False  # without values, which the graph of units counts as one factor of two
    kept[first][: 2 * FEATURES] = False
    assert diagnose(network, (TOKENS, FEATURES), kept).collapsed == [first, last]


def test_queries_and_keys_of_another_sequence_lead_to_the_output_too() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.kv = nn.Linear(FEATURES, 2), nn.Linear(FEATURES, 4)
            self.start = nn.Parameter(torch.zeros(1, 1, FEATURES))

        def forward(self, tokens: Tensor) -> Tensor:
            key, value = self.kv(tokens).chunk(2, dim=-1)
            asked = self.q(torch.cat([self.start.expand(len(tokens), 1, -1), tokens], dim=1))
            return nn.functional.scaled_dot_product_attention(asked, key, value)[:, 0]

    network = Cross()
    graph = trace(network, (TOKENS, FEATURES))
    weights = {name: np.ones(each.parameter.shape) for name, each in find_weights(network).masked.items()}
    # To each of two outputs: through two queries and two keys, and one value.
    assert 10 ** graph.log_paths(weights)[graph.outputs] == pytest.approx([5 * FEATURES] * 2)


def test_attention_of_torch_to_another_sequence_cuts_its_weight_into_parts() -> None:
    class Cross(OfTorch):
        def forward(self, tokens: Tensor) -> Any:
            return self.attention(tokens[:, :1], tokens, tokens, need_weights=False)[0]

    with pytest.raises(UserError, match=r"through aten.*it uses attention.in_proj_weight, but not as the weight of a"):
        trace(Cross(), (TOKENS, FEATURES))


def test_a_layer_of_constants_is_off_the_graph_and_does_not_collapse() -> None:
    class Relative(Attention):
        def __init__(self) -> None:
            super().__init__(by_matrices)
            self.bias = nn.Linear(1, FEATURES)

        def forward(self, tokens: Tensor) -> Tensor:
            positions = torch.arange(TOKENS, dtype=torch.float32)[:, None]
            return super().forward(tokens + self.bias(positions))

    network = Relative()
    kept = {name: torch.ones_like(each.parameter).bool() for name, each in find_weights(network).masked.items()}
    found = diagnose(network, (TOKENS, FEATURES), kept)
    assert [name for name, layer in found.layers.items() if not layer.used] == ["bias.weight"]
    assert not found.collapsed


TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "vit": (lambda: timm.models.VisionTransformer(32, 8, embed_dim=24, depth=2, num_heads=3, num_classes=5), []),
    "swin": (
        lambda: timm.models.SwinTransformer(
            32, 2, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=5
        ),
        [],
    ),
    # The position embedding and the query of the first class token are computed from constants.
    "xcit": (
        lambda: timm.models.Xcit(32, 8, embed_dim=32, depth=2, num_heads=4, eta=1.0, num_classes=5, cls_attn_layers=1),
        ["pos_embed.*", "cls_attn_blocks.0.attn.q"],
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_phew_keeps_weights_of_a_transformer_on_paths(name: str) -> None:
    build, dense = TRANSFORMERS[name]
    network = mask_(build(), PHEW(0.1), weights=None, input_shape=(3, 32, 32), keep_dense=dense)
    found = diagnose(network, (3, 32, 32))
    assert not found.collapsed
    layers = [found.layers[each] for each in masked_weights(network)]
    assert sum(layer.kept - layer.on_paths for layer in layers) < len(layers)
    with pytest.raises(UserError, match="has no trace of the path kernel: terms of the sum are negative"):
        log10_path_kernel_trace(network, masks(network), (3, 32, 32))


def test_the_sum_over_paths_of_attention_is_computed_in_float64() -> None:
    network = Attention(nn.functional.scaled_dot_product_attention)
    kept = drawn(network)
    kept["proj.weight"][0, 0] = kept["qkv.weight"][2 * FEATURES] = True
    # All tokens of a sample of ones are equal, so attention returns their values: a chain of two layers is left.
    chain = nn.Sequential(nn.Linear(FEATURES, FEATURES, bias=False), nn.Linear(FEATURES, FEATURES, bias=False))
    chain[0].weight.data, chain[1].weight.data = network.qkv.weight.data[2 * FEATURES :], network.proj.weight.data
    values = {"0.weight": kept["qkv.weight"][2 * FEATURES :], "1.weight": kept["proj.weight"]}
    expected = log10_path_kernel_trace(chain, values, (FEATURES,)) + math.log10(TOKENS)
    assert log10_path_kernel_trace(network, kept, (TOKENS, FEATURES)) == pytest.approx(expected, abs=1e-6)
