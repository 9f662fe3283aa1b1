"""The checkpoint that a user names: a file, the directory of a run, or the word ``last`` or ``best``."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only

from lightning_subnets.errors import UserError, printable

ROOT = "runs"  # the default of --trainer.default_root_dir
WORDS = ("last", "best")


def checkpoint_named(given: str, root: str | Path = ROOT, name: str = "") -> str:
    """Return the path of the checkpoint that a user names.

    Args:
        given: ``last`` or ``best``, of the newest run in ``root/name``; the directory of a run, for its last
            checkpoint; or anything else, which is returned unchanged.
        root: the directory of all runs.
        name: of the runs to choose from; all runs by default.

    Raises:
        ValueError: if there is no such run, or the run has no such checkpoint.
    """
    run = newest_run(root, name) if given in WORDS else Path(given)
    if run is None:
        place = printable(str(Path(root, name)))
        raise UserError(f"no run in {place} has a checkpoint, so {given!r} names none: train one with lightning fit")
    if given not in WORDS and not (given and run.is_dir()):
        return given
    path = run / "checkpoints" / f"{given if given in WORDS else 'last'}.ckpt"
    if not path.is_file():
        raise absent_checkpoint(path)
    if given in WORDS and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        print(f"{given} checkpoint: {printable(str(path))}", file=sys.stderr)
    return str(path)


def newest_run(root: str | Path, name: str = "") -> Path | None:
    """Return the directory of the run in ``root/name`` whose last checkpoint is the newest, or None without a run."""
    found = Path(root, name).glob("*/checkpoints/last.ckpt" if name else "**/checkpoints/last.ckpt")
    newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    return newest and newest.parent.parent


def run_of(checkpoint: str | Path) -> Path:
    """Return the directory of a checkpoint's run; the checkpoint, or the directory that it is in, may be a link."""
    here, real = (Path(each).parent.parent for each in (os.path.abspath(checkpoint), os.path.realpath(checkpoint)))
    return here if (here / "config.yaml").is_file() else real


def absent_checkpoint(path: str | Path) -> UserError:
    """Return the error for a checkpoint that is named and does not exist."""
    return UserError(f"{path} does not exist: name a checkpoint, or the directory of a run such as runs/NAME/VERSION")


def no_checkpoint_given(verb: str, root: str | Path = ROOT, name: str = "") -> UserError:
    """Return the error for an evaluation without a checkpoint, which would evaluate a network that is not trained."""
    if run := newest_run(root, name) or newest_run(root):
        return UserError(f"{verb} needs a checkpoint: add --ckpt_path={shlex.quote(str(run))} for the last run")
    return UserError(f"{verb} needs a checkpoint, and {root} has none yet: train a network with lightning fit first")
