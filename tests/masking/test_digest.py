"""The digest tells one weight from another, to the bit, and nothing else."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from lightning_subnets import Dense, EdgePopup, mask_
from lightning_subnets.masking.digest import fingerprint, fingerprints, weights_digest

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_the_digest_is_a_sha256_of_the_parameters_and_not_of_the_buffers() -> None:
    network = small_network()
    before = weights_digest(network)
    network(torch.randn(8, 3, 3, 3))
    assert len(before) == 64
    assert weights_digest(network) == before


def test_equal_weights_have_equal_digests() -> None:
    assert weights_digest(small_network()) == weights_digest(small_network())


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


def test_any_one_bit_changes_the_digest() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Linear(3, 1))
    digests = {weights_digest(network)}
    bits = 0
    for parameter in network.parameters():
        words = parameter.detach().view(-1).view(torch.int32)
        for index in range(words.numel()):
            for bit in range(32):
                flip = 1 << bit if bit < 31 else -(1 << 31)
                words[index] ^= flip
                digests.add(weights_digest(network))
                words[index] ^= flip
                bits += 1
    assert bits == 32 * (8 + 2 + 2 + 2 + 3 + 1)
    assert len(digests) == 1 + bits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_different_dtype_has_a_different_digest(dtype: torch.dtype) -> None:
    assert weights_digest(small_network().to(dtype)) != weights_digest(small_network())


def test_a_different_dtype_of_the_same_bytes_has_a_different_digest() -> None:
    half, brain = nn.Linear(3, 2).to(torch.float16), nn.Linear(3, 2).to(torch.bfloat16)
    for parameter in (*half.parameters(), *brain.parameters()):
        nn.init.zeros_(parameter)
    assert weights_digest(half) != weights_digest(brain)


def test_a_different_shape_of_the_same_bytes_has_a_different_digest() -> None:
    wide, tall = nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)
    tall.weight = nn.Parameter(wide.weight.detach().view(3, 2).clone())
    assert weights_digest(wide) != weights_digest(tall)


def test_a_different_name_has_a_different_digest() -> None:
    layer = nn.Linear(3, 2)
    first, second = nn.Sequential(OrderedDict(first=layer)), nn.Sequential(OrderedDict(second=layer))
    assert weights_digest(first) != weights_digest(second)


def test_two_layers_that_change_places_have_a_different_digest() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    assert weights_digest(nn.Sequential(first, second)) != weights_digest(nn.Sequential(second, first))


def test_scores_do_not_matter() -> None:
    network = small_network()
    before = weights_digest(network)
    mask_(network, EdgePopup(0.5), weights=None)
    assert weights_digest(network) == before
    with torch.no_grad():
        network.get_parameter("0.scores").zero_()
    assert weights_digest(network) == before


def test_the_same_seed_gives_the_same_digest_whatever_the_method() -> None:
    by_scores = mask_(small_network(), EdgePopup(0.5), weights="kaiming_normal", seed=7)
    by_weights = mask_(small_network(), Dense(), weights="kaiming_normal", seed=7)
    for network in (by_scores, by_weights):
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                parameter.data.fill_(1.0 if name == "1.weight" else 0.0)
    assert weights_digest(by_scores) == weights_digest(by_weights)
    assert weights_digest(mask_(small_network(), Dense(), weights="kaiming_normal", seed=8)) != weights_digest(
        by_weights
    )


def plain_fingerprint(content: bytes) -> int:
    """By Python's integers: sum over j of mix(w_j + j c) mod 2^64."""
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
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.bfloat16, torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 1000])
def test_a_fingerprint_is_a_sum_of_mixed_words(size: int, dtype: torch.dtype, device: str) -> None:
    values = torch.randint(0, 2, (size,)).to(dtype) if dtype == torch.bool else (100 * torch.rand(size)).to(dtype)
    expected = plain_fingerprint(values.view(torch.uint8).numpy().tobytes())
    assert int(fingerprint(values.to(device))) % (1 << 64) == expected


def test_any_one_bit_changes_the_fingerprint_and_so_do_two_that_change_places() -> None:
    words = torch.randint(-(2**31), 2**31, (65,), dtype=torch.int32)
    found = {int(fingerprint(words))}
    for index in range(len(words)):
        for bit in range(32):
            words[index] ^= 1 << bit if bit < 31 else -(1 << 31)
            found.add(int(fingerprint(words)))
            words[index] ^= 1 << bit if bit < 31 else -(1 << 31)
    mask = torch.zeros(80, dtype=torch.bool)
    for first in range(80):
        for second in range(first):
            mask[[first, second]] = True
            found.add(int(fingerprint(mask)))
            mask[[first, second]] = False
    assert len(found) == 1 + 65 * 32 + 80 * 79 // 2


def test_a_fingerprint_does_not_depend_on_the_memory_format() -> None:
    values = torch.randn(4, 3, 5, 5)
    assert torch.equal(fingerprint(values), fingerprint(values.to(memory_format=torch.channels_last)))


def test_a_network_has_a_fingerprint_of_each_parameter_and_mask() -> None:
    network = mask_(small_network(), EdgePopup(0.5))
    before = fingerprints(network)
    assert before.keys() == {name for name, _ in network.named_parameters()} | {"0.mask", "3.mask"}
    with torch.no_grad():
        network.get_parameter("3.scores").neg_()  # whose absolute values count
    after = fingerprints(network)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"3.scores"}
    with torch.no_grad():
        network.get_parameter("3.scores").copy_(network.get_parameter("3.scores").flip(0))
    last = fingerprints(network)
    assert {name for name in before if not torch.equal(after[name], last[name])} == {"3.scores", "3.mask"}
