"""The handwritten digits, and what every image data module has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from lightning_subnets import UserError
from lightning_subnets.datamodules import Digits
from lightning_subnets.datamodules.loader import Batch

Row = tuple[int, ...]


def digits(**options: Any) -> Digits:
    data = Digits(**options)
    data.setup("fit")
    return data


def rows(batches: Iterable[Batch]) -> Counter[Row]:
    """Count each label with its 64 pixels, 0 to 16, in the batches."""
    counts: Counter[Row] = Counter()
    for images, labels in batches:
        pixels = images.flatten(1).mul(16 / 255).round().long()
        counts.update(map(tuple, torch.cat([labels[:, None], pixels], dim=1).tolist()))
    return counts


def test_every_digit_of_scikit_learn_is_in_one_of_the_two_sets_each_class_in_proportion() -> None:
    data = digits()
    train, test = rows(data.train_dataloader()), rows(data.test_dataloader())
    pixels, targets = load_digits(return_X_y=True)
    everything = Counter(
        (int(target), *map(int, image)) for target, image in zip(targets, pixels.tolist(), strict=True)
    )
    assert (train.total(), test.total()) == (1437, 360)
    assert train + test == everything
    counts = data.train_set[1].bincount(), data.test_set[1].bincount()
    assert len(data.classes) == len(counts[0]) == len(counts[1]) == 10
    assert torch.allclose(counts[1] / (counts[0] + counts[1]), torch.tensor(360 / 1797), atol=0.005)


def test_normalised_images_have_mean_0_and_deviation_1() -> None:
    data = digits()
    assert (int(data.train_set[0].min()), int(data.train_set[0].max())) == (0, 255)
    images, labels = data.on_after_batch_transfer(data.train_set, 0)
    assert images.dtype == torch.float32
    assert abs(float(images.mean())) < 0.005
    assert abs(float(images.std()) - 1) < 0.005
    assert labels is data.train_set[1]


def test_held_out_images_are_a_function_of_the_seed_and_the_test_set_is_not() -> None:
    data = digits(validation_fraction=0.15)
    train, held_out = rows(data.train_dataloader()), rows(data.val_dataloader())
    assert held_out.total() == 215  # floor(0.15 * 1437)
    assert train + held_out == rows(digits().train_dataloader())
    again, other = digits(validation_fraction=0.15), digits(validation_fraction=0.15, seed=1)
    assert rows(again.val_dataloader()) == held_out != rows(other.val_dataloader())
    assert rows(other.test_dataloader()) == rows(data.test_dataloader()) == rows(digits().test_dataloader())


def test_larger_images_are_the_same_digits_with_the_same_mean() -> None:
    small, large = Digits(), Digits(image_size=32)
    (images, labels), (larger, same) = small.load(train=False), large.load(train=False)
    assert large.image_shape == tuple(larger.shape[1:]) == (1, 32, 32)
    assert torch.equal(labels, same)
    shrunk = torch.nn.functional.interpolate(larger.float(), size=(8, 8), mode="area")
    assert torch.corrcoef(torch.stack([shrunk.flatten(), images.flatten().float()]))[0, 1] > 0.95  # edges are softer
    assert float(larger.float().mean()) == pytest.approx(float(images.float().mean()), abs=1)


def test_there_may_be_fewer_classes() -> None:
    data = Digits(num_classes=3)
    assert data.classes == ["0", "1", "2"]
    for train in (True, False):
        images, labels = data.load(train=train)
        everything, all_labels = Digits().load(train=train)
        assert torch.equal(images, everything[all_labels < 3])
        assert torch.equal(labels, all_labels[all_labels < 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 7}, "image_size = 7 is below 8"),
        ({"num_classes": 11}, r"num_classes = 11 is outside \[2, 10\]"),
        ({"num_classes": 1}, "num_classes = 1 is outside"),
        ({"batch_size": 0}, "batch_size = 0 is below 1"),
        ({"validation_fraction": -0.1}, r"validation_fraction = -0.1 is outside \[0, 1\)"),
        ({"validation_fraction": 1.0}, "validation_fraction = 1.0 is outside"),
        ({"validation_fraction": float("nan")}, "validation_fraction = nan is outside"),
        ({"validation_fraction": 1e-4}, "validation_fraction = 0.0001 of 1437 images holds out none"),
    ],
)
def test_an_argument_out_of_range_is_an_error_that_names_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        digits(**options).val_dataloader()


def test_a_permutation_is_a_fixed_order_of_the_pixels_for_each_seed() -> None:
    plain, images = digits(), digits().test_set[0][:8]
    scaled = plain.normalize(images)
    found = [digits(permutation=seed).normalize(images) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    for each in (found[0], found[2]):
        assert each.shape == scaled.shape
        assert not torch.equal(each, scaled)
        assert torch.equal(each.flatten(1).sort().values, scaled.flatten(1).sort().values)
    order = found[0][0].flatten()
    assert torch.equal(digits(permutation=0).normalize(images[:1])[0].flatten(), order), "the same for every image"
