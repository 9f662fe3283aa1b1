"""The command line of ``data/prepare_imagenet.py``, which writes FFCV's files."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from lightning_subnets.commands import failures
from lightning_subnets.datamodules.ffcv.preparation import prepare


def main() -> None:
    """Run ``prepare`` with the arguments of the command line."""
    parser = ArgumentParser(description="Write train.beton and val.beton from a folder of images, or verify them.")
    parser.add_function_arguments(prepare, as_positional=False, skip={"skip_bad", "verify"})
    parser.add_argument("--skip_bad", action="store_true", help="leave out unreadable images instead of stopping")
    parser.add_argument("--verify", action="store_true", help="compare the files in out with their digests instead")
    with failures.told_in_one_line():
        prepare(**parser.parse_args().as_dict())
