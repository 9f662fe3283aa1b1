"""A digest tells weights from others to the bit, and depends on nothing else."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from masked_networks import IMAGES, masked_network, small_network
from torch import nn

from lightning_subnets import Dense, EdgePopup, mask_
from lightning_subnets.masking.digest import fingerprint, fingerprints, same_bits, weights_digest

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def test_the_digest_is_a_sha256_that_neither_buffers_nor_scores_change() -> None:
    network = small_network()
    before = weights_digest(network)
    assert len(before) == 64
    network(IMAGES)
    mask_(network, EdgePopup(0.5), weights=None)
    with torch.no_grad():
        network.get_parameter("0.scores").zero_()
    assert weights_digest(network) == before


@pytest.mark.parametrize("device", DEVICES)
def test_the_digest_does_not_depend_on_device_and_memory_format(device: str) -> None:
    network = small_network()
    before = weights_digest(network)
    moved = network.to(device).to(memory_format=torch.channels_last)
    assert not moved.get_parameter("0.weight").is_contiguous()
    assert weights_digest(moved) == before


def test_the_digest_of_a_weight_that_is_a_slice_is_that_of_its_copy() -> None:
    numbers = torch.arange(12.0)
    for sliced in (numbers[::7][:1].view(1, 1), numbers.view(3, 4).t(), numbers[::2].view(2, 3)):
        network, copy = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        network.weight, copy.weight = nn.Parameter(sliced), nn.Parameter(sliced.clone().contiguous())
        assert weights_digest(network) == weights_digest(copy)
        assert torch.equal(fingerprint(sliced), fingerprint(sliced.clone().contiguous()))
        assert same_bits(sliced, sliced.clone().contiguous())


def test_any_one_bit_changes_the_digest() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Linear(3, 1))
    digests = {weights_digest(network)}
    for parameter in network.parameters():
        words = parameter.detach().view(-1).view(torch.int32)
        for index in range(words.numel()):
            for bit in range(32):
                flip = 1 << bit if bit < 31 else -(1 << 31)
                words[index] ^= flip
                digests.add(weights_digest(network))
                words[index] ^= flip
    assert len(digests) == 1 + 32 * (8 + 2 + 3 + 1)


def test_another_dtype_shape_name_or_order_has_another_digest() -> None:
    wide, tall = nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)
    tall.weight = nn.Parameter(wide.weight.detach().view(3, 2).clone())
    zeros = [nn.init.zeros_(nn.Linear(3, 2, bias=False, dtype=dtype).weight) for dtype in (torch.half, torch.bfloat16)]
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    networks = [
        nn.Sequential(OrderedDict(first=wide)),
        nn.Sequential(OrderedDict(second=wide)),
        nn.Sequential(OrderedDict(first=tall)),
        *(nn.ParameterDict({"weight": weight}) for weight in zeros),
        nn.Sequential(first, second),
        nn.Sequential(second, first),
    ]
    assert len({weights_digest(network) for network in networks}) == len(networks)


def test_the_weights_of_a_seed_have_one_digest_whatever_the_method() -> None:
    scored, dense, other = (
        masked_network(seed=7),
        mask_(small_network(), Dense(), weights="signed_constant", seed=7),
        masked_network(seed=8),
    )
    for network in (scored, dense, other):
        for parameter in network.parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)  # biases, which only Dense draws
    assert weights_digest(scored) == weights_digest(dense) != weights_digest(other)


def plain_fingerprint(content: bytes) -> int:
    """Return the sum over j of mix(w_j + j c) mod 2^64, in Python's integers."""
    total, limit = 0, 1 << 64
    content += bytes(-len(content) % 8)
    for index in range(len(content) // 8):
        word = int.from_bytes(content[8 * index : 8 * index + 8], "little")
        word = (word + index * 0x9E3779B97F4A7C15) % limit
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            word = (word ^ (word >> shift)) * factor % limit
        total = (total + word) % limit
    return total


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float32, torch.int64])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 1000])
def test_a_fingerprint_is_a_sum_of_mixed_words(size: int, dtype: torch.dtype, device: str) -> None:
    values = torch.randint(0, 2, (size,)).to(dtype) if dtype == torch.bool else (100 * torch.rand(size)).to(dtype)
    expected = plain_fingerprint(values.view(torch.uint8).numpy().tobytes())
    assert int(fingerprint(values.to(device))) % (1 << 64) == expected


def test_a_fingerprint_does_not_depend_on_the_memory_format() -> None:
    values = torch.randn(4, 3, 5, 5)
    assert torch.equal(fingerprint(values), fingerprint(values.to(memory_format=torch.channels_last)))


def test_a_network_has_a_fingerprint_of_each_parameter_and_mask() -> None:
    network = masked_network()
    before = fingerprints(network)
    assert before.keys() == {name for name, _ in network.named_parameters()} | {
        "0.weight.mask",
        "3.weight.mask",
        "6.weight.mask",
    }
    with torch.no_grad():
        network.get_parameter("3.scores").neg_()  # the mask ranks absolute values
    after = fingerprints(network)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"3.scores"}
    with torch.no_grad():
        network.get_parameter("3.scores").copy_(network.get_parameter("3.scores").flip(0))
    last = fingerprints(network)
    assert {name for name in before if not torch.equal(after[name], last[name])} == {"3.scores", "3.weight.mask"}
