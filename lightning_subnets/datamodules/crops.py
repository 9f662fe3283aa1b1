"""Crops of photographs: a random part in training, the centre in evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def random_crops(seed: int, keys: Integers, heights: Integers, widths: Integers) -> Integers:
    """Draw a random part of each image: 8 to 100 % of its area, aspect 3:4 to 4:3, mirrored with probability 1/2.

    The crop is a function of seed, key (of an ``EpochSampler``) and image size, so both loaders cut the same. Ten
    proposals are drawn, area uniform and aspect log-uniform; the first that fits is placed uniformly. If none fits, the
    crop is the central part of the nearest aspect.

    Returns: int64 (images, 5): top, left, height and width in pixels, and 1 for mirrored.

    Source: Szegedy et al. 2015, section 6; as torchvision's RandomResizedCrop.
    """
    bits = random_bits(seed, keys, 2 * _PROPOSALS + 3)
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1)
    scales, places = uniform[:, : 2 * _PROPOSALS].reshape(-1, 2, _PROPOSALS), uniform[:, 2 * _PROPOSALS :]
    areas = (heights * widths)[:, None] * (0.08 + 0.92 * scales[:, 0])
    aspects = (3 / 4) ** (1 - 2 * scales[:, 1])
    proposed_heights, proposed_widths = np.rint(np.sqrt(areas / aspects)), np.rint(np.sqrt(areas * aspects))
    fits = (proposed_heights <= heights[:, None]) & (proposed_widths <= widths[:, None])
    fits &= (proposed_heights > 0) & (proposed_widths > 0)
    first, images = fits.argmax(axis=1), np.arange(len(keys))
    none = ~fits.any(axis=1)
    crop_heights = np.where(none, np.minimum(heights, np.rint(widths * 4 / 3)), proposed_heights[images, first])
    crop_widths = np.where(none, np.minimum(widths, np.rint(heights * 4 / 3)), proposed_widths[images, first])
    room_above, room_left = heights - crop_heights, widths - crop_widths
    top = np.where(none, room_above // 2, places[:, 0] * (room_above + 1))
    left = np.where(none, room_left // 2, places[:, 1] * (room_left + 1))
    return np.stack([top, left, crop_heights, crop_widths, places[:, 2] < 0.5], axis=1).astype(np.int64)


def central_crops(heights: Integers, widths: Integers, size: int) -> Integers:
    """Return the centre of each image that is ``size`` pixels square once the shorter side is 256/224 of ``size``.

    If the shorter side already has that length, the crop is torchvision's ``CenterCrop`` to the pixel. The result has
    the format of ``random_crops``.
    """
    side = np.rint(np.minimum(heights, widths) * (size / shorter_side(size))).astype(np.int64)
    top, left = np.rint((heights - side) / 2).astype(np.int64), np.rint((widths - side) / 2).astype(np.int64)
    return np.stack([top, left, side, side, np.zeros_like(side)], axis=1)


def shorter_side(size: int) -> int:
    """Return the shorter side of an image, in pixels, before its centre of ``size`` is cut out: 256 for 224."""
    return round(size * 256 / 224)


def random_bits(seed: int, keys: Integers, count: int) -> NDArray[np.uint64]:
    """Return random 64-bit numbers, (keys, count), a function of (seed, key).

    Source: splitmix64 of Steele et al. 2014, Figure 17.
    """
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    streams = _mixed(keys.astype(np.uint64) + _mixed(np.array([seed % 2**64], dtype=np.uint64)))
    return _mixed(streams[:, None] + steps)


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


_PROPOSALS = 10
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
