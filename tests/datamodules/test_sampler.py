"""Which samples a rank sees, and in what order."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import RunningStage
from torch.utils.data import DataLoader, RandomSampler, Sampler, TensorDataset

from lightning_subnets.datamodules.sampler import EpochSampler

SIZE = 1000
SAMPLES = st.sets(st.integers(0, SIZE - 1), max_size=40).map(sorted)
RANKS, EPOCHS, SEEDS = st.integers(1, 8), st.integers(0, 10**9), st.integers(-(2**63), 2**63)


def keys(samples: list[int], ranks: int, *, shuffle: bool, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    """The keys that each of the ranks sees in an epoch."""
    seen = []
    for rank in range(ranks):
        sampler = EpochSampler(
            torch.tensor(samples, dtype=torch.int64),
            size=SIZE,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            num_replicas=ranks,
        )
        sampler.set_epoch(epoch)
        seen.append(list(sampler))
        assert len(sampler) == len(seen[-1])
    return seen


@given(samples=SAMPLES, ranks=RANKS, epoch=EPOCHS)
def test_to_evaluate_every_sample_comes_exactly_once_in_order(samples: list[int], ranks: int, epoch: int) -> None:
    seen = keys(samples, ranks, shuffle=False, epoch=epoch)
    assert sorted(key % SIZE for key in chain(*seen)) == samples
    assert all(rank == sorted(rank) for rank in seen)


def test_to_evaluate_ten_samples_three_ranks_take_four_three_and_three() -> None:
    seen = keys(list(range(10)), 3, shuffle=False)
    assert seen == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


@given(samples=SAMPLES, ranks=RANKS, seed=SEEDS, epoch=EPOCHS)
def test_to_train_all_ranks_get_the_same_number_and_fewer_than_their_number_of_samples_are_left_out(
    samples: list[int], ranks: int, seed: int, epoch: int
) -> None:
    seen = keys(samples, ranks, shuffle=True, seed=seed, epoch=epoch)
    counts = Counter(key % SIZE for key in chain(*seen))
    assert len({len(rank) for rank in seen}) == 1
    assert max(counts.values(), default=1) == 1
    assert counts.keys() <= set(samples)
    assert len(samples) - len(counts) == len(samples) % ranks


@given(samples=SAMPLES, ranks=RANKS, shuffle=st.booleans(), seed=SEEDS, epoch=EPOCHS)
def test_a_key_is_the_epoch_and_the_sample(
    samples: list[int], ranks: int, shuffle: bool, seed: int, epoch: int
) -> None:
    for key in chain(*keys(samples, ranks, shuffle=shuffle, seed=seed, epoch=epoch)):
        assert divmod(key, SIZE)[0] == epoch
        assert divmod(key, SIZE)[1] in samples


@given(samples=SAMPLES, ranks=RANKS, seed=SEEDS, epoch=EPOCHS)
def test_the_order_is_a_function_of_seed_and_epoch(samples: list[int], ranks: int, seed: int, epoch: int) -> None:
    first = keys(samples, ranks, shuffle=True, seed=seed, epoch=epoch)
    torch.rand(7)
    assert keys(samples, ranks, shuffle=True, seed=seed, epoch=epoch) == first


@given(ranks=RANKS, seed=SEEDS, epoch=EPOCHS)
def test_the_ranks_deal_out_the_order_of_one_rank(ranks: int, seed: int, epoch: int) -> None:
    samples = list(range(40))
    alone = keys(samples, 1, shuffle=True, seed=seed, epoch=epoch)[0]
    together = keys(samples, ranks, shuffle=True, seed=seed, epoch=epoch)
    assert [key for step in zip(*together, strict=True) for key in step] == alone[: 40 // ranks * ranks]


def test_another_epoch_and_another_seed_have_another_order() -> None:
    orders = {
        tuple(key % SIZE for key in keys(list(range(40)), 1, shuffle=True, seed=seed, epoch=epoch)[0])
        for seed in (-1, 0, 1, 2)
        for epoch in range(5)
    }
    assert len(orders) == 20


def test_what_is_left_out_of_training_changes_from_epoch_to_epoch() -> None:
    seen = [{key % SIZE for key in chain(*keys(list(range(7)), 2, shuffle=True, epoch=epoch))} for epoch in range(20)]
    assert {len(epoch) for epoch in seen} == {6}
    assert set.union(*seen) == set(range(7))
    assert len({frozenset(epoch) for epoch in seen}) > 1


@pytest.mark.parametrize("shuffle", [True, False])
def test_lightning_leaves_the_sampler_in_its_place_on_several_ranks(shuffle: bool) -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    data = TensorDataset(torch.arange(10))
    mode = RunningStage.TRAINING if shuffle else RunningStage.VALIDATING

    def prepared(sampler: Sampler[int]) -> object:
        loader = trainer._data_connector._prepare_dataloader(DataLoader(data, sampler=sampler), shuffle, mode)
        assert isinstance(loader, DataLoader)
        return loader.sampler

    ours = EpochSampler(torch.arange(10), size=10, shuffle=shuffle, seed=0, num_replicas=2)
    others = RandomSampler(data)
    assert prepared(ours) is ours
    assert prepared(others) is not others
