"""The command line of ``data/prepare_imagenet.py``, which writes FFCV's files."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser

from lightning_subnets.commands import failures
from lightning_subnets.datamodules.ffcv.preparation import prepare


def main() -> None:
    """``prepare`` by command line; a user's mistake ends it with one clear error and exit code 2."""
    parser = ArgumentParser(description="Write train.beton and val.beton from a folder of images, or verify them.")
    parser.add_function_arguments(prepare, as_positional=False, skip={"skip_bad", "verify"})
    parser.add_argument("--skip_bad", action="store_true", help="Leave out images that cannot be read.")
    parser.add_argument("--verify", action="store_true", help="Compare the files in out with their digests instead.")
    with failures.told_in_one_line():
        try:
            prepare(**parser.parse_args([_underscored(argument) for argument in sys.argv[1:]]).as_dict())
        except KeyboardInterrupt:
            print("interrupted; what was not finished is removed", file=sys.stderr)
            sys.exit(130)


def _underscored(argument: str) -> str:
    """``--skip-bad`` as well as ``--skip_bad``."""
    name, equals, value = argument.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument
