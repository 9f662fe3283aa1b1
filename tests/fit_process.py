"""``lightning fit`` as a process of its own, for tests that interrupt it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from repository import ROOT

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
COMMAND = [sys.executable, "-m", "lightning_subnets", "fit", "-c", QUICKSTART, "--trainer.accelerator=cpu"]


def start_fit(folder: Path, *options: str, **settings: Any) -> subprocess.Popen[str]:
    """Start the quickstart in a folder; ``settings`` are those of ``Popen``."""
    return subprocess.Popen(
        [*COMMAND, *options],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def wait_until_it_trains(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    assert any("everything goes into" in line for line in process.stderr)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait until a process has ended without an error, and return its standard error."""
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    return said
