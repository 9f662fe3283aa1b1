"""The handwritten digits, and what every image data module has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from lightning_subnets import UserError
from lightning_subnets.datamodules import Digits
from lightning_subnets.datamodules.loader import Batch

Row = tuple[int, ...]


def digits(batch_size: int = 64, validation_fraction: float = 0.0, seed: int = 0) -> Digits:
    data = Digits(batch_size, validation_fraction, seed)
    data.setup("fit")
    return data


def rows(batches: Iterable[Batch]) -> Counter[Row]:
    """How often each label with its 64 pixels, 0 to 16, is in the batches."""
    counts: Counter[Row] = Counter()
    for images, labels in batches:
        pixels = images.flatten(1).mul(16 / 255).round().long()
        counts.update(map(tuple, torch.cat([labels[:, None], pixels], dim=1).tolist()))
    return counts


def labels(batches: Iterable[Batch]) -> Tensor:
    return torch.cat([labels for _, labels in batches])


def test_every_digit_of_scikit_learn_is_in_one_of_the_two_sets() -> None:
    data = digits()
    train, test = rows(data.train_dataloader()), rows(data.test_dataloader())
    pixels, targets = load_digits(return_X_y=True)
    everything = Counter(
        (int(target), *map(int, image)) for target, image in zip(targets, pixels.tolist(), strict=True)
    )
    assert (train.total(), test.total()) == (1437, 360)
    assert train + test == everything


def test_each_class_is_in_both_sets_in_proportion() -> None:
    data = digits()
    train, test = labels(data.train_dataloader()).bincount(), labels(data.test_dataloader()).bincount()
    assert len(data.classes) == len(train) == len(test) == 10
    assert torch.allclose(test / (train + test), torch.tensor(360 / 1797), atol=0.005)


def test_the_test_set_does_not_depend_on_the_seed() -> None:
    assert rows(digits(seed=0).test_dataloader()) == rows(digits(seed=1).test_dataloader())


def test_a_batch_is_of_uint8_images_and_int64_labels_without_a_trainer() -> None:
    data = digits(batch_size=100)
    sizes = []
    for images, labels in data.train_dataloader():
        sizes.append(len(labels))
        assert images.shape == (len(labels), *data.image_shape)
        assert labels.shape == (len(labels),)
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert sizes == [100] * 14 + [37]


def test_the_pixels_take_the_whole_range_of_a_byte() -> None:
    images, _ = digits().train_set
    assert (int(images.min()), int(images.max())) == (0, 255)


def test_normalised_images_have_mean_0_and_deviation_1() -> None:
    data = digits()
    images, labels = data.on_after_batch_transfer(data.train_set, 0)
    assert images.dtype == torch.float32
    assert abs(float(images.mean())) < 0.005
    assert abs(float(images.std()) - 1) < 0.005
    assert labels is data.train_set[1]


def test_held_out_images_and_those_to_train_on_are_the_training_set_without_a_shared_one() -> None:
    data = digits(validation_fraction=0.15)
    train, held_out = rows(data.train_dataloader()), rows(data.val_dataloader())
    assert held_out.total() == 215  # floor(0.15 * 1437)
    assert train + held_out == rows(digits().train_dataloader())


def test_the_held_out_images_are_a_function_of_the_seed() -> None:
    first, again, other = (rows(digits(validation_fraction=0.2, seed=seed).val_dataloader()) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_test_set_is_the_same_whatever_is_held_out() -> None:
    assert rows(digits(validation_fraction=0.2).test_dataloader()) == rows(digits().test_dataloader())


def test_with_nothing_held_out_validation_is_on_the_test_set_in_its_order() -> None:
    data = digits()
    for validated, tested in zip(data.val_dataloader(), data.test_dataloader(), strict=True):
        assert torch.equal(validated[0], tested[0])
        assert torch.equal(validated[1], tested[1])


def test_three_ranks_see_every_test_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits()
    seen: list[Counter[Row]] = []
    cpu = SimpleNamespace(root_device=torch.device("cpu"))
    for rank in range(3):
        monkeypatch.setattr(data, "trainer", SimpleNamespace(global_rank=rank, world_size=3, strategy=cpu))
        seen.append(rows(data.test_dataloader()))
    monkeypatch.undo()
    assert [part.total() for part in seen] == [120, 120, 120]
    assert sum(seen, Counter()) == rows(data.test_dataloader())


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_an_error_that_names_it_and_the_range(fraction: float) -> None:
    with pytest.raises(UserError, match=rf"validation_fraction = {fraction} is outside \[0, 1\)"):
        Digits(validation_fraction=fraction)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_an_error_that_names_it(batch_size: int) -> None:
    with pytest.raises(UserError, match=f"batch_size = {batch_size} is below 1"):
        Digits(batch_size=batch_size)


def test_larger_images_are_the_same_digits_and_their_pixels_are_measured_by_the_same_mean() -> None:
    small, large = Digits(), Digits(image_size=32)
    (images, labels), (larger, same) = small.load(train=False), large.load(train=False)
    assert large.image_shape == tuple(larger.shape[1:]) == (1, 32, 32)
    assert torch.equal(labels, same)
    shrunk = torch.nn.functional.interpolate(larger.float(), size=(8, 8), mode="area")
    assert torch.corrcoef(torch.stack([shrunk.flatten(), images.flatten().float()]))[0, 1] > 0.95  # edges are softer
    means = [float(part.float().mean()) / 255 for part in (images, larger)]
    assert means[1] == pytest.approx(means[0], abs=0.005)


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
        ({"image_size": 7}, "image_size = 7 is below"),
        ({"num_classes": 11}, "num_classes = 11 is not 2 to 10"),
        ({"num_classes": 1}, "num_classes = 1 is not"),
    ],
)
def test_images_and_classes_that_the_digits_do_not_have_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Digits(**options)
