"""Time from shell to shell: imports, the help of the commands, and a fit of one step.

    python benchmarks/startup.py --rounds 5

Each variant is a process of its own. ``torch`` is ``import torch``, and ``library`` imports lightning_subnets beside
it and masks a layer. ``torch and lightning`` imports what every program on Lightning imports, and ``fit`` is
``lightning fit`` on the digits, with one step, its test, summary and pictures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from interleaved import interleaved, machine, save, table
from rich.console import Console

QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
MASKED = (
    "import torch, lightning_subnets as ls; "
    "ls.mask_(torch.nn.Sequential(torch.nn.Linear(8, 4)), ls.Dense(), weights='signed_constant')"
)
HELP = "import sys; from lightning_subnets.commands.subnets import main; main({})"
COMMANDS = {
    "torch": ["-c", "import torch"],
    "package": ["-c", "import torch, lightning_subnets"],
    "library": ["-c", MASKED],
    "subnets --help": ["-c", HELP.format(["--help"])],
    "subnets export --help": ["-c", HELP.format(["export", "--help"])],
    "torch and lightning": ["-c", "import torch, lightning.pytorch.cli"],
    "fit": ["-m", "lightning_subnets", "fit", "-c", str(QUICKSTART), "--trainer.max_steps=1"],
}


def seconds(arguments: list[str]) -> dict[str, float]:
    """Return how long a Python process takes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=True)
        return {"s": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    options = parser.parse_args()
    console = Console(width=200)
    variants: dict[str, Callable[[], dict[str, float]]] = {
        name: partial(seconds, COMMANDS[name]) for name in options.variants
    }
    measured = interleaved(variants, options.rounds)
    for reference in ("torch", "torch and lightning"):
        if reference in measured:
            console.print(table(f"Start-up, ratio to {reference}", measured, ["s"], reference, "s"))
    console.print(machine())
    save({"startup": measured}, console)


if __name__ == "__main__":
    main()
