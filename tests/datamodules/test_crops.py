"""The part of a photograph that is cut out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ks_2samp
from torchvision.transforms import v2

from lightning_subnets.datamodules import crops
from lightning_subnets.datamodules.crops import Integers, central_crops, random_crops, shorter_side

SIDES, KEYS, SEEDS = st.integers(1, 65535), st.integers(0, 2**62), st.integers(-(2**63), 2**64)
LEAST = 1e-3  # p-value of the fixed draws below


def integers(*values: int) -> Integers:
    return np.array(values, dtype=np.int64)


def test_a_crop_never_changes() -> None:
    keys = integers(0, 1, 2, 90 * 1281167 + 1281166, 2**62, 3)
    heights, widths = integers(240, 375, 500, 500, 65535, 1), integers(320, 500, 333, 375, 65535, 9)
    assert random_crops(0, keys, heights, widths).tolist() == [
        [53, 75, 178, 206, 0],
        [17, 76, 279, 284, 0],
        [200, 97, 244, 214, 1],
        [4, 44, 302, 301, 0],
        [24274, 43307, 26361, 20558, 1],
        [0, 4, 1, 1, 1],
    ]
    assert random_crops(1, keys[:3], heights[:3], widths[:3]).tolist() == [
        [2, 123, 156, 155, 1],
        [6, 96, 303, 233, 1],
        [161, 19, 249, 297, 0],
    ]
    assert random_crops(-7, keys[:3], heights[:3], widths[:3]).tolist() == [
        [13, 73, 211, 194, 0],
        [49, 140, 127, 168, 1],
        [223, 3, 117, 149, 1],
    ]


@given(seed=SEEDS, images=st.lists(st.tuples(KEYS, SIDES, SIDES), min_size=1, max_size=8))
def test_a_crop_lies_inside_its_image_and_is_a_function_of_seed_key_and_size_alone(
    seed: int, images: list[tuple[int, int, int]]
) -> None:
    together = random_crops(seed, *np.array(images).T)
    assert together.dtype == np.int64
    for (_, height, width), (top, left, crop_height, crop_width, mirrored) in zip(
        images, together.tolist(), strict=True
    ):
        assert 0 <= top < top + crop_height <= height
        assert 0 <= left < left + crop_width <= width
        assert mirrored in (0, 1)
    alone = [random_crops(seed, *np.array([image]).T)[0] for image in images]
    assert np.array_equal(together, alone)
    assert np.array_equal(random_crops(seed, *np.array(images[::-1]).T), alone[::-1])


@pytest.mark.parametrize(("height", "width"), [(375, 500), (100, 900)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    transform, image = v2.RandomResizedCrop(224), torch.zeros(1).expand(1, height, width)
    theirs = [transform.make_params([image]) for _ in range(4000)]
    ours = random_crops(0, np.arange(4000), np.full(4000, height), np.full(4000, width))
    for column, name in enumerate(("top", "left", "height", "width")):
        assert ks_2samp(ours[:, column], [params[name] for params in theirs]).pvalue > LEAST, name
    assert binomtest(int(ours[:, 4].sum()), len(ours)).pvalue > LEAST
    areas = [params["height"] * params["width"] for params in theirs]
    assert ks_2samp(ours[:, 2] * ours[:, 3], areas).pvalue > LEAST


@given(seed=SEEDS, key=KEYS, shorter=st.integers(3, 300), times=st.integers(25, 200), landscape=st.booleans())
def test_an_image_that_no_proposal_fits_is_cropped_as_by_torchvision(
    seed: int, key: int, shorter: int, times: int, landscape: bool
) -> None:
    height, width = (shorter, shorter * times) if landscape else (shorter * times, shorter)
    theirs = v2.RandomResizedCrop(224).make_params([torch.zeros(1).expand(1, height, width)])
    ours = random_crops(seed, integers(key), integers(height), integers(width))[0, :4].tolist()
    assert ours == [theirs[name] for name in ("top", "left", "height", "width")]


@pytest.mark.parametrize(("height", "width"), [(300, 300), (300, 399), (101, 100)])
def test_an_image_of_an_aspect_in_range_is_taken_whole_if_no_proposal_fits(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Proposals of the whole area and aspect 4:3, which otherwise have a probability of 1e-9.
    monkeypatch.setattr(crops, "random_bits", lambda seed, keys, count: np.full((len(keys), count), 2**64 - 1, "u8"))
    assert random_crops(0, integers(0), integers(height), integers(width)).tolist() == [[0, 0, height, width, 0]]


@pytest.mark.parametrize("size", [224, 64])
def test_the_centre_of_an_image_of_the_right_shorter_side_is_torchvisions_to_the_pixel(size: int) -> None:
    shorter = shorter_side(size)
    grid = torch.stack(torch.meshgrid(torch.arange(1000), torch.arange(1000), indexing="ij"))
    for longer in range(shorter, 1001):
        for height, width in ((shorter, longer), (longer, shorter)):
            centre = v2.functional.center_crop(grid[:, :height, :width], [size, size])
            top, left = centre[:, 0, 0].tolist()
            assert centre.shape == (2, size, size)
            assert central_crops(integers(height), integers(width), size).tolist() == [[top, left, size, size, 0]]


@given(height=SIDES, width=SIDES, size=st.integers(1, 2000))
def test_the_centre_is_within_half_a_pixel_of_the_middle_and_of_its_share(height: int, width: int, size: int) -> None:
    top, left, crop_height, crop_width, mirrored = central_crops(integers(height), integers(width), size)[0].tolist()
    assert crop_height == crop_width >= 1
    assert abs(crop_height - min(height, width) * size / shorter_side(size)) <= 0.5
    assert abs((top + crop_height / 2) - height / 2) <= 0.5
    assert abs((left + crop_width / 2) - width / 2) <= 0.5
    assert 0 <= top <= height - crop_height
    assert 0 <= left <= width - crop_width
    assert mirrored == 0


def test_the_shorter_side_is_256_of_224() -> None:
    assert [shorter_side(size) for size in (1, 32, 64, 128, 160, 176, 192, 224, 288, 448)] == [
        *(1, 37, 73, 146, 183, 201, 219, 256, 329, 512)
    ]
