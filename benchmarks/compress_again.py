"""Compress the images of a folder as JPEG once more, to estimate what the first compression has cost.

    python benchmarks/compress_again.py data/cifar10 data/cifar10_twice
    subnets sweep configs/figures/cifar10_jpeg.yaml --scale half_width

An image that was compressed before does not change much if it is compressed again in the same blocks. So it is moved by
five pixels first, which puts it into other blocks, and moved back afterwards. The second error is smaller than the
first, which has removed fine detail already, so the estimate is a lower bound. The result is written as PNG.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

SHIFT = 5  # pixels: odd, so that other pixels share their colour too
QUALITY = 75  # as that of the CIFAR-10 in JPEG files


def compressed(image: Image.Image) -> Image.Image:
    """Return an image after a compression in blocks that are moved by ``SHIFT`` pixels."""
    around = ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0))
    moved = Image.fromarray(np.pad(np.asarray(image.convert("RGB")), around, mode="edge"))
    file = io.BytesIO()
    moved.save(file, "JPEG", quality=QUALITY)
    return Image.open(file).crop((SHIFT, SHIFT, SHIFT + image.width, SHIFT + image.height))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder with folders of JPEG files")
    parser.add_argument("out", type=Path, help="a new folder")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists already: name a new folder")
    paths = sorted(options.source.rglob("*.jpg"))
    if not paths:
        parser.error(f"{options.source} has no .jpg files: name the folder of a data set")
    for path in track(paths, "compressing", transient=True):
        to = options.out / path.relative_to(options.source).with_suffix(".png")
        to.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            compressed(image).save(to)
    print(f"{len(paths):,} images are in {options.out}")


if __name__ == "__main__":
    main()
