"""An image file is read as 8-bit RGB, and a file without defined pixels is an error that names it."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, features
from torchvision.datasets import ImageFolder

from lightning_subnets import UserError
from lightning_subnets.datamodules.image_files import read_image

# 16-bit values that give 0 to 255 in order after scaling to 8 bits; Pillow alone would clip them to white.
RAMP: NDArray[np.uint16] = np.repeat(np.arange(256, dtype=np.uint16) * 257, 4).reshape(32, 32)
AVIF = ["avif"] * bool(features.check("avif"))  # which not every build of Pillow has
EIGHT_BITS = (RAMP // 257).astype(np.uint8)


def grey(path: Path) -> NDArray[np.uint8]:
    """Return the grey of an image that is read with three equal channels."""
    pixels = np.asarray(read_image(path))
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def pgm(path: Path, pixels: NDArray[Any], white: int) -> None:
    height, width = pixels.shape
    path.write_bytes(b"P5 %d %d %d\n" % (width, height, white) + pixels.astype(">u2").tobytes())


@pytest.mark.parametrize("extension", ["png", "tif", "jp2", "pgm", "big.tif"])
def test_sixteen_bits_of_grey_are_scaled_to_eight(extension: str, tmp_path: Path) -> None:
    path, big_endian = tmp_path / f"a.{extension}", Image.frombytes("I;16B", (32, 32), RAMP.astype(">u2").tobytes())
    (big_endian if extension == "big.tif" else Image.fromarray(RAMP)).save(path)
    with Image.open(path) as image:
        assert image.mode in ("I;16", "I", "I;16B")
    assert np.array_equal(grey(path), EIGHT_BITS)


def test_sixteen_bits_are_rounded_to_the_nearest_eight(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 128, 129, 385, 386, 65406, 65407, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert grey(tmp_path / "a.png").tolist() == [[0, 0, 1, 1, 2, 254, 255, 255]]


def test_white_is_the_value_that_a_file_defines(tmp_path: Path) -> None:
    pgm(tmp_path / "a.pgm", np.arange(1024).reshape(32, 32), white=1023)
    expected = np.rint(np.arange(1024).reshape(32, 32) * 255 / 1023)
    assert np.abs(grey(tmp_path / "a.pgm") - expected).max() <= 1  # Pillow rounds to 16 bits first


def test_sixteen_bits_a_colour_keep_their_colours(tmp_path: Path) -> None:
    colours = np.dstack([RAMP, RAMP[::-1], RAMP.T])  # Pillow reads such a file, and cannot write one
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    head = (32).to_bytes(4) * 2 + bytes([16, 2, 0, 0, 0])  # width, height, bits, red green blue
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(len(body).to_bytes(4) + name + body + zlib.crc32(name + body).to_bytes(4) for name, body in chunks)
    )
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), colours // 257)


SAMPLE_FORMAT, PHOTOMETRIC_INTERPRETATION = 339, 262  # of TIFF
UNDEFINED: dict[str, tuple[NDArray[Any], dict[int, int]]] = {
    "floats": ((RAMP / 65535).astype(np.float32), {}),
    "integers of 32 bits": (RAMP.astype(np.int32), {}),
    "integers with a sign": (RAMP, {SAMPLE_FORMAT: 2}),
    "white as 0, which Pillow does not turn over at 16 bits": (RAMP, {PHOTOMETRIC_INTERPRETATION: 0}),
}


@pytest.mark.parametrize(("pixels", "tags"), UNDEFINED.values(), ids=UNDEFINED.keys())
def test_pixels_without_a_defined_white_are_an_error_that_names_the_file(
    pixels: NDArray[Any], tags: dict[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(pixels).save(path, tiffinfo=tags)
    with Image.open(path) as image:
        assert {key: image.tag_v2[key] for key in tags} in ({}, {339: (2,)}, {262: 0})  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=rf"{re.escape(str(path))} has pixels of mode [IF]"):
        read_image(path)


def in_mode(mode: str, colours: Image.Image) -> Image.Image:
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(colours, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
        assert image is not None
        return image
    return colours.convert("P").convert("PA") if mode == "PA" else colours.convert(mode)


@pytest.mark.parametrize(
    ("mode", "extension"),
    [
        *((mode, "tif") for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB")),
        *(("RGB", extension) for extension in ("png", "jpg", "gif", "webp", "bmp", "jp2", "tga", *AVIF)),
    ],
)
def test_a_picture_of_any_mode_is_read_as_itself(mode: str, extension: str, tmp_path: Path) -> None:
    # Three grey bands, dark to light: no mode or compression moves them far.
    bands = np.repeat(np.array([0, 0, 255, 255], np.uint8), 8)[:, None].repeat(32, 1)
    in_mode(mode, Image.fromarray(bands).convert("RGB")).save(tmp_path / f"a.{extension}")
    pixels = np.asarray(read_image(tmp_path / f"a.{extension}")).astype(int)
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels - bands[..., None]).mean() < 4


def test_the_first_frame_of_an_animation_is_its_picture(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert read_image(tmp_path / "a.gif").getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize("extension", ["jpg", "png", "ppm"])
def test_an_image_cut_short_anywhere_is_an_error(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{extension}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    # A picture without the marks at the end of its file is whole.
    for length in (*range(0, 60, 5), *range(60, len(content) - 32, len(content) // 20)):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=f"{re.escape(str(path))} is not a readable image"):
            read_image(path)


@pytest.mark.parametrize("extension", ["png", "jp2", "webp", "tif", *AVIF])
def test_a_damaged_image_is_read_or_an_error_that_names_it(extension: str, tmp_path: Path) -> None:
    path, refused = tmp_path / f"a.{extension}", 0
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 150)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            read_image(path)
        except UserError as error:
            refused += str(path) in str(error)
    assert refused


def test_the_orientation_in_exif_is_ignored_as_torchvision_does(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    (tmp_path / "class").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "class" / "a.jpg", exif=exif)
    ((expected, _),) = ImageFolder(tmp_path)
    assert read_image(tmp_path / "class" / "a.jpg").size == expected.size == (40, 20)
