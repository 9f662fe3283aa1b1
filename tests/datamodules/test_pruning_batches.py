"""The images that weights are scored on: a number of each class, the same images on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_subnets import SNIP, GraSP, Random, SynFlow, UserError
from lightning_subnets.datamodules import CIFAR10, Digits
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.loader import Batch
from lightning_subnets.datamodules.pruning_batches import pruning_data

WEIGHT = torch.empty(0)


def digits(**options: Any) -> Digits:
    data = Digits(batch_size=32, **options)
    data.setup("fit")
    return data


def of_each_class(number: int, data: ImageDataModule, *, by_class: bool = False) -> Sequence[Batch]:
    method = (GraSP if by_class else SNIP)(0.1, samples_per_class=number)
    return pruning_data(method, data, like=WEIGHT, seed=0).batches


def test_there_are_as_many_of_each_class_as_asked_normalised_in_batches_of_similar_size() -> None:
    data = digits()
    batches = of_each_class(7, data)
    images, labels = (torch.cat(each) for each in zip(*batches, strict=True))
    assert torch.bincount(labels).tolist() == [7] * 10
    assert [len(labels) for _, labels in batches] == [24, 23, 23]
    assert images.dtype == torch.float32
    # each is an image of the training set, with its own label
    pictures = data.normalize(data.train_set[0]).flatten(1)
    nearest = torch.cdist(images.flatten(1), pictures, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
    assert nearest.values.max() < 1e-3
    assert torch.equal(data.train_set[1][nearest.indices], labels)
    assert len(torch.unique(images.flatten(1), dim=0)) == 70


def test_a_class_with_fewer_images_gives_all(cifar_folder: Path) -> None:
    data = CIFAR10(root=str(cifar_folder))
    data.setup("fit")
    labels = torch.cat([labels for _, labels in of_each_class(100, data)])
    assert torch.bincount(labels).tolist() == [6] * 10


def test_they_are_the_same_on_every_rank_and_a_function_of_the_seed() -> None:
    def of_rank(rank: int, seed: int = 0) -> torch.Tensor:
        data = digits(seed=seed)
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_rank=rank, world_size=2, strategy=SimpleNamespace(root_device=WEIGHT.device), overfit_batches=0
        )
        return torch.cat([images for images, _ in of_each_class(3, data)])

    assert torch.equal(of_rank(0), of_rank(1))
    assert not torch.equal(of_rank(0), of_rank(0, seed=1))


def test_grasp_gets_two_halves_in_order_of_class_and_snip_one_batch() -> None:
    """Wang et al. 2020, in their public code: the first half has the classes 0 to 4, the second 5 to 9."""
    data = Digits(batch_size=128)
    data.setup("fit")
    halves, whole = (pruning_data(each, data, like=WEIGHT, seed=0).batches for each in (GraSP(0.1), SNIP(0.1)))
    in_order = [label for label in range(10) for _ in range(10)]
    assert [labels.tolist() for _, labels in halves] == [in_order[:50], in_order[50:]]
    ((images, labels),) = whole
    assert labels.tolist() != sorted(labels.tolist())
    assert torch.equal(torch.cat([images for images, _ in halves]), images[labels.argsort(stable=True)])


@pytest.mark.parametrize(("batch_size", "sizes"), [(50, [50, 50]), (49, [25] * 4), (17, [17] * 4 + [16] * 2)])
def test_halves_that_are_larger_than_a_batch_are_divided_further(batch_size: int, sizes: list[int]) -> None:
    data = Digits(batch_size=batch_size)
    data.setup("fit")
    batches = of_each_class(10, data, by_class=True)
    assert [len(labels) for _, labels in batches] == sizes
    labels = torch.cat([labels for _, labels in batches]).tolist()
    assert labels == sorted(labels)


def test_no_batch_has_a_single_image() -> None:
    data = Digits(batch_size=2)
    data.setup("fit")
    data.test_set = data.train_set = (data.train_set[0][:45], data.train_set[1][:45])
    batches = of_each_class(1000, data)
    assert sum(len(labels) for _, labels in batches) == 45
    assert {len(labels) for _, labels in batches} == {2, 3}
    three = Digits(num_classes=3)
    three.setup("fit")
    assert [len(labels) for _, labels in of_each_class(1, three, by_class=True)] == [3]


def test_only_a_method_that_requires_images_gets_them() -> None:
    data = digits()
    assert len(pruning_data(SNIP(0.1, samples_per_class=2), data, like=WEIGHT, seed=5).batches) == 1
    without = pruning_data(SynFlow(0.1), data, like=WEIGHT, seed=5)
    assert (without.batches, without.input_shape, without.seed) == ((), (1, 8, 8), 5)


def test_a_method_that_requires_images_needs_a_data_module() -> None:
    for method in (SNIP(0.1), SynFlow(0.1)):
        with pytest.raises(UserError, match="chooses its masks from training images: give a data module"):
            pruning_data(method, None, like=WEIGHT, seed=0)
    assert pruning_data(Random(0.1), None, like=WEIGHT, seed=3).seed == 3
