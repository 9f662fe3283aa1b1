"""Everything that only a GPU can show, in parts that can be run one by one.

    python benchmarks/gpu.py                  # all parts, in 25 minutes at most
    python benchmarks/gpu.py --parts step     # one of them
    python benchmarks/gpu.py --rehearse       # every part with small sizes, on any machine

Each part runs tests or benchmarks in processes of their own, and is stopped at its limit with the rounds that are
complete. What is measured is kept in ``results/gpu/<card>.json`` after each part, beside a table in Markdown; earlier
parts stay. A rehearsal writes into ``runs/gpu``, and its parts have no limits of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from interleaved import machine, spread

ROOT = Path(__file__).resolve().parent.parent
MINUTES = 25
TO_STOP = 15  # seconds that a benchmark has to write the rounds that are complete, within its limit


@dataclass(frozen=True)
class Part:
    """A part of the measurements: its commands, those of a rehearsal, and the minutes that it may take."""

    shows: str
    minutes: float
    commands: list[str]
    rehearsal: list[str]


_TESTS = (
    "pytest -q --noconftest -W default -p no:cacheprovider -k gpu tests/test_on_a_gpu.py tests/methods/test_table.py"
)
_SMALL = "--rounds 1 --steps 1"
PARTS = {
    "tests": Part(
        "masks equal those of a CPU, no step waits for the device, compiled and resumed runs equal plain ones",
        3,
        [_TESTS],
        [_TESTS],
    ),
    "step": Part(
        "a training step of ResNet-50 in bf16, dense and masked, eager and compiled",
        5,
        ["step.py --networks resnet50:256 --variants dense masked --compile --rounds 9"],
        [f"step.py --networks conv4:2 --variants dense masked {_SMALL}"],
    ),
    "wide": Part(
        "the same of Wide ResNet-50-2",
        7,
        ["step.py --networks wide_resnet50_2:256 --variants dense masked --compile --rounds 9"],
        [f"step.py --networks resnet18:2 --variants dense masked {_SMALL}"],
    ),
    "selection": Part(
        "the selection of the masks alone, and an evaluation step",
        3,
        [
            "selection.py",
            "evaluate.py --networks resnet50:256 --variants dense masked --rounds 9",
            "evaluate.py --networks wide_resnet50_2:256 --variants dense masked --rounds 9",
        ],
        ["selection.py --exponents 10 --networks resnet18 --rounds 1", f"evaluate.py --networks conv4:2 {_SMALL}"],
    ),
    "small": Part(
        "a small network in a Trainer with its data on the device, and several runs at once",
        2.5,
        ["cifar.py --rounds 3", "packing.py --at-once 1 2 4 8 --samples 20000 --rounds 2"],
        [
            "cifar.py --samples 256 --workers 1 --rounds 1",
            "packing.py --at-once 1 2 --seeds 1 --samples 256 --rounds 1",
        ],
    ),
    "loader": Part(
        "images a second from a folder of pictures, and the share of a step spent waiting for them",
        2,
        ["loader.py --brief --rounds 3 --repeat 16 --batch-size 256 --steps 40"],
        ["loader.py --brief --rounds 1 --repeat 1 --batch-size 4 --size 32 --longer-side 64 --steps 1"],
    ),
    "training": Part(
        "a training of Wide ResNet-50-2 on images in memory: accuracy, images a second, memory, unchanged weights",
        2.5,
        ["training.py"],
        ["training.py --network resnet18 --size 32 --epochs 1"],
    ),
}


def run(part: Part, *, rehearse: bool, seconds: float) -> dict[str, Any]:
    """Run the commands of a part, and return their results and what became of them."""
    commands, start = part.rehearsal if rehearse else part.commands, time.monotonic()
    results: dict[str, dict[str, Any]] = {}
    status = "done"
    with tempfile.TemporaryDirectory() as directory:
        for command in commands:
            program, *arguments = command.split()
            is_test = program == "pytest"
            where = ["-m", program] if is_test else [str(ROOT / "benchmarks" / program)]
            left = seconds - (time.monotonic() - start)
            code = _run([sys.executable, *where, *arguments], ROOT if is_test else Path(directory), left)
            if code is None:
                status = f"stopped after {seconds:.0f} s"
                break
            if code:
                status = f"{command} failed with exit code {code}"
                break
        for path in sorted(Path(directory).glob("runs/benchmarks/*.json")):
            results.setdefault(path.stem.rpartition("-")[0], {}).update(json.loads(path.read_text())["results"])
    return {"status": status, "commands": commands, "seconds": time.monotonic() - start, "results": results}


def _run(command: list[str], directory: Path, seconds: float) -> int | None:
    """Return the exit code of a command; None if it was stopped, with all processes that it started."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])}
    process = subprocess.Popen(command, cwd=directory, env=environment, start_new_session=True)
    try:
        return process.wait(max(seconds - TO_STOP, 0))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(TO_STOP)
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def as_markdown(content: Mapping[str, Any]) -> str:
    """Return the results as tables in Markdown: medians, with quartiles in brackets from three rounds on."""
    lines = [f"# {content['card']}", ""]
    for name, part in content["parts"].items():
        lines += [f"## {name}", "", f"{part['shows']}: {part['status']}, {part['date']}, {part['machine']}.", ""]
        for benchmark, results in part["results"].items():
            for title, measured in results.items():
                quantities = list(dict.fromkeys(quantity for values in measured.values() for quantity in values))
                lines += [f"| {benchmark}, {title} | {' | '.join(quantities)} |", "|---" * (1 + len(quantities)) + "|"]
                for variant, values in measured.items():
                    cells = [spread(values[each], 3) if each in values else "" for each in quantities]
                    lines.append(f"| {variant} | {' | '.join(cells)} |")
                lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rehearse", action="store_true", help="run every part with small sizes, on any machine")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="start no part after this time")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        parser.exit(2, "error: PyTorch finds no GPU here; --rehearse runs every part with small sizes on a CPU\n")
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    folder = Path("runs/gpu" if options.rehearse else "results/gpu")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^a-z0-9]+", "_", card.lower()).strip("_") + ".json")
    content = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    content |= {"card": card}
    end, failed = time.monotonic() + 60 * options.minutes, False
    for name in options.parts:
        part, left = PARTS[name], end - time.monotonic()
        if left <= 0:
            print(f"{name}: not run, because {options.minutes:g} minutes are over", flush=True)
            failed = True
            continue
        # The limits are for a GPU; a rehearsal on a busy machine may take longer.
        seconds = left if options.rehearse else min(60 * part.minutes, left)
        print(f"{name}: {part.shows}; {seconds / 60:.3g} minutes at most", flush=True)
        found = run(part, rehearse=options.rehearse, seconds=seconds)
        print(f"{name}: {found['status']} in {found['seconds']:.0f} s", flush=True)
        failed |= found["status"] != "done"
        if found["status"] != "done" and content["parts"].get(name, {}).get("status") == "done":
            print(f"{name}: what was measured on {content['parts'][name]['date']} is kept", flush=True)
            continue
        content["parts"][name] = found | {
            "shows": part.shows,
            "date": date.today().isoformat(),
            "machine": machine(),  # a later part may be run with other versions
        }
        _replace(path, json.dumps(content, indent=1) + "\n")
        _replace(path.with_suffix(".md"), as_markdown(content))
    print(f"written to {path} and {path.with_suffix('.md').name}")
    sys.exit(int(failed))


def _replace(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    written = path.with_name(f".{path.name}")
    written.write_text(text)
    written.replace(path)


if __name__ == "__main__":
    main()
