"""Which samples a rank sees, and in what order."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_subnets.datamodules.loader import EpochSampler

SIZE = 1000
SAMPLES = st.sets(st.integers(0, SIZE - 1), max_size=40).map(sorted)
RANKS, EPOCHS, SEEDS = st.integers(1, 8), st.integers(0, 10**9), st.integers(-(2**63), 2**63)


def keys(samples: list[int], ranks: int, *, shuffle: bool, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    """Return the keys that each of the ranks sees in an epoch."""
    seen = []
    indices = torch.tensor(samples, dtype=torch.int64)
    for rank in range(ranks):
        sampler = EpochSampler(indices, size=SIZE, shuffle=shuffle, seed=seed, rank=rank, num_replicas=ranks)
        sampler.set_epoch(epoch)
        seen.append(sampler.keys().tolist())
        assert len(sampler) == len(seen[-1])
    return seen


@given(samples=SAMPLES, ranks=RANKS, epoch=EPOCHS)
def test_in_evaluation_every_sample_comes_exactly_once_in_order(samples: list[int], ranks: int, epoch: int) -> None:
    seen = keys(samples, ranks, shuffle=False, epoch=epoch)
    assert sorted(chain(*seen)) == [epoch * SIZE + sample for sample in samples]
    assert seen == [[epoch * SIZE + sample for sample in samples[rank::ranks]] for rank in range(ranks)]


@given(samples=SAMPLES, ranks=RANKS, seed=SEEDS, epoch=EPOCHS)
def test_in_training_the_ranks_share_the_order_of_one_rank_equally(
    samples: list[int], ranks: int, seed: int, epoch: int
) -> None:
    seen = keys(samples, ranks, shuffle=True, seed=seed, epoch=epoch)
    counts = Counter(key - epoch * SIZE for key in chain(*seen))
    assert len({len(rank) for rank in seen}) == 1
    assert max(counts.values(), default=1) == 1
    assert counts.keys() <= set(samples)
    assert len(samples) - len(counts) == len(samples) % ranks
    torch.rand(7)  # the global generator has no part in the order
    (alone,) = keys(samples, 1, shuffle=True, seed=seed, epoch=epoch)
    assert [key for step in zip(*seen, strict=True) for key in step] == alone[: len(counts)]


def test_epochs_and_seeds_have_different_orders_and_omit_different_samples() -> None:
    seen = [
        [key % SIZE for key in chain(*keys(list(range(41)), 2, shuffle=True, seed=seed, epoch=epoch))]
        for seed in (-1, 0, 1, 2)
        for epoch in range(5)
    ]
    assert len({tuple(order) for order in seen}) == 20
    assert {len(order) for order in seen} == {40}
    assert len({frozenset(order) for order in seen}) > 1
