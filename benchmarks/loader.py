"""Measure the images per second that each loader reads from disk.

    python benchmarks/loader.py /path/with/one/directory/of/photographs/a/class

All loaders give uint8 batches of random resized crops, mirrored at random. The FFCV files are first written from the
photographs, in a temporary directory. Each loader has one warm-up epoch, and then one epoch in each round. Without
photographs, smooth random pictures of 500 x 375 pixels are made. Without FFCV, only loaders of folders are measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from interleaved import Values, interleaved, machine, save, table
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_subnets.datamodules.ffcv.beton import Beton
from lightning_subnets.datamodules.ffcv.loader import FFCVLoader, imported
from lightning_subnets.datamodules.ffcv.writer import Storage, write
from lightning_subnets.datamodules.folder_loader import FolderLoader
from lightning_subnets.datamodules.image_files import class_names, list_files
from lightning_subnets.datamodules.image_folder import Resizing
from lightning_subnets.datamodules.loader import EpochLoader, EpochSampler

IMAGENET = 1_281_167
PACKAGES = ("torch", "torchvision", "lightning", "ffcv", "numba", "pillow")
SHARES = {"JPEG": 0.0, "mixed": 0.5, "raw": 1.0}
Files = list[tuple[str, int]]
Ways = dict[str, Callable[[], dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, nargs="?")
    parser.add_argument("--repeat", type=int, default=4, help="copies of each photograph in the data set")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--longer-side", type=int, nargs="+", default=[500, 400])
    parser.add_argument("--steps", type=int, default=0, help="training steps, to measure the time spent waiting")
    parser.add_argument("--brief", action="store_true", help="do not compare with FFCV's own loader")
    parser.add_argument("--first", help=argparse.SUPPRESS)  # this program calls itself
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if options.first:
        _print_first_batch(options)
    else:
        _benchmark(options)


def _benchmark(options: argparse.Namespace) -> None:
    console = Console(width=200)
    with_ffcv = find_spec("ffcv") is not None
    packages = PACKAGES if with_ffcv else tuple(name for name in PACKAGES if name not in ("ffcv", "numba"))
    results: dict[str, dict[str, Values]] = {}

    def measure(title: str, ways: Ways, rounds: int, reference: str) -> None:
        measured = results[title] = interleaved(ways, rounds)
        console.print(table(title, measured, ["images/s"], reference, of="images/s"))

    with tempfile.TemporaryDirectory() as directory:
        options.photographs = options.photographs or _made(Path(directory, "made"))
        classes = class_names(options.photographs)
        files = list_files(options.photographs, classes) * options.repeat
        console.print(machine(packages))
        console.print(f"{len(files)} images, {options.workers} workers, batch {options.batch_size}")
        betons = _betons(files, classes, Path(directory), options) if with_ffcv else {}
        order, plain = _order(files), "plain DataLoader"
        loader: EpochLoader = FolderLoader(files, order, options.batch_size, _size(options), True, options.workers)
        ways: Ways = {plain: partial(by_hand, _plain(options)), "folder": partial(by_hand, loader)}
        for name, path in betons.items():
            ways[f"ffcv, {name}"] = partial(by_hand, _ours(path, options))
        measure("against torchvision's crops in a DataLoader over the original files", ways, options.rounds, plain)
        if betons:
            console.print(sizes(betons, len(files)))
            loader = _ours(next(path for name, path in betons.items() if name.startswith("mixed")), options)
        if betons and not options.brief:
            _compare_with_ffcv(betons, options, measure)
            console.print(_processes(betons, options, results))
        if options.steps:
            name = f"Wide ResNet-50-2, {options.steps} steps"
            results[name] = {type(loader).__name__: waiting(loader, options)}
            console.print(f"{name}: {results[name]}")
    save(results, console, packages)


def _compare_with_ffcv(
    betons: dict[str, Path], options: argparse.Namespace, measure: Callable[[str, Ways, int, str], None]
) -> None:
    for name, path in betons.items():
        ways: Ways = {"bare": partial(by_hand, _bare(path, options)), "ours": partial(by_hand, _ours(path, options))}
        measure(f"FFCV's own Loader, {name}", ways, 2 * options.rounds, "bare")

    name, path = list(betons.items())[2]
    loader = _ours(path, options)
    ways = {"by hand": partial(by_hand, loader), "in a Trainer": partial(in_a_trainer, loader)}
    measure(f"an empty step, {name}", ways, 4 * options.rounds, "by hand")

    name, path = list(betons.items())[1]
    counts = [count for count in (1, 2, 4, 8, 16) if count <= 2 * options.workers]
    ways = {f"{count} workers": partial(by_hand, _ours(path, options, count)) for count in counts}
    measure(f"scaling, {name}", ways, options.rounds, "1 workers")


def _processes(betons: dict[str, Path], options: argparse.Namespace, results: dict[str, dict[str, Values]]) -> Table:
    name, path = list(betons.items())[1]
    rows = Table("way", "first batch, s", "peak memory, MB", title=f"a process, {name}", title_justify="left")
    ways: Ways = {way: partial(first_batch, way, path, options) for way in ("bare", "ffcv")}
    processes = results[f"a process, {name}"] = interleaved(ways, 3, warmup=0)
    for way, values in processes.items():
        rows.add_row(way, *(f"{statistics.median(values[key]):,.1f}" for key in ("seconds", "MB")))
    return rows


def _made(folder: Path) -> Path:
    """Write 128 smooth random pictures in two classes, and return their directory."""
    rng = np.random.default_rng(0)
    for number in range(128):
        place = folder / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (38, 50, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{number}.jpg", quality=90)
    return folder


def _betons(files: Files, classes: list[str], directory: Path, options: argparse.Namespace) -> dict[str, Path]:
    betons = {}
    for longer_side in options.longer_side[: 1 if options.brief else None]:
        for name, share in SHARES.items():
            path = directory / f"{name}_{longer_side}.beton"
            write(path, files, classes, Storage(longer_side, None, 90, share), num_workers=os.cpu_count() or 1)
            betons[f"{name} {longer_side}"] = path
    return betons


def _order(files: Files | Beton) -> EpochSampler:
    return EpochSampler(torch.arange(len(files)), size=len(files), shuffle=True, seed=0)


def _size(options: argparse.Namespace) -> Resizing:
    return Resizing(options.size, options.size)


def _plain(options: argparse.Namespace) -> DataLoader[Any]:
    crop = v2.Compose([v2.RandomResizedCrop(options.size), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    images: Any = ConcatDataset([ImageFolder(options.photographs, crop)] * options.repeat)
    return DataLoader(images, options.batch_size, True, num_workers=options.workers, persistent_workers=True)


def _ours(path: Path, options: argparse.Namespace, workers: int | None = None) -> FFCVLoader:
    beton = Beton.open(path)
    return FFCVLoader(beton, _order(beton), options.batch_size, _size(options), True, workers or options.workers)


def _bare(path: Path, options: argparse.Namespace) -> Any:
    """Return FFCV's own loader, built as in its documentation."""
    loader, transforms = imported("ffcv.loader"), imported("ffcv.transforms")
    decoders = imported("ffcv.fields.decoders")
    size = (options.size, options.size)
    return loader.Loader(
        str(path),
        options.batch_size,
        options.workers,
        order=loader.OrderOption.RANDOM,
        drop_last=False,
        pipelines={
            "image": [
                decoders.RandomResizedCropRGBImageDecoder(size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.ToTorchImage(),
            ],
            "label": [decoders.IntDecoder(), transforms.ToTensor(), transforms.Squeeze(1)],
        },
    )


def by_hand(loader: Any) -> dict[str, float]:
    """Return the images per second of an epoch, in a plain loop."""
    start, images = time.perf_counter(), 0
    for _, labels in loader:
        images += len(labels)
    return {"images/s": images / (time.perf_counter() - start)}


def in_a_trainer(loader: EpochLoader) -> dict[str, float]:
    """Return the images per second of an epoch in Lightning's loop with an empty step, on a CPU."""
    module = _Empty()
    Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, loader)
    return {"images/s": module.images / module.seconds}


class _Empty(LightningModule):
    images = 0

    def on_train_epoch_start(self) -> None:
        self.start = time.perf_counter()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.images += len(batch[1])

    def on_train_epoch_end(self) -> None:
        self.seconds = time.perf_counter() - self.start

    def configure_optimizers(self) -> None:
        return None


def first_batch(way: str, path: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds to the first batch and the peak memory in MB, of a new process."""
    arguments = [str(options.photographs), f"--first={way}={path}", f"--workers={options.workers}"]
    arguments += [f"--batch-size={options.batch_size}", f"--size={options.size}"]
    output = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True).stdout
    measured: dict[str, float] = json.loads(output.splitlines()[-1])
    return measured


def _print_first_batch(options: argparse.Namespace) -> None:
    way, _, path = options.first.partition("=")
    start = time.perf_counter()
    loader = (_ours if way == "ffcv" else _bare)(Path(path), options)
    iterator = iter(loader)
    next(iterator)
    seconds = time.perf_counter() - start
    for _ in iterator:
        pass
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({"seconds": seconds, "MB": 1024 * int(status["VmHWM"].split()[0]) / 1e6}))


def sizes(betons: dict[str, Path], images: int) -> Table:
    rows = Table("file", "KB an image", "GB for ImageNet's 1,281,167", title="disk", title_justify="left")
    for name, path in betons.items():
        each = sum(Beton.open(path).sizes) / images
        rows.add_row(name, f"{each / 1e3:.1f}", f"{each * IMAGENET / 1e9:.0f}")
    return rows


def waiting(loader: EpochLoader, options: argparse.Namespace) -> Values:
    """Return the per cent of the time that training steps of a Wide ResNet-50-2 wait for data, and the images/s."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = torchvision.models.wide_resnet50_2().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    waited, total, seen, done = 0.0, 0.0, 0, time.perf_counter()
    for step, (images, labels) in enumerate(_endless(loader)):
        arrived = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            logits = network(images.to(device, non_blocking=True).float())
        torch.nn.functional.cross_entropy(logits.float(), labels.to(device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if step >= 5:  # because the first steps are slow
            waited, total, seen = waited + arrived - done, total + time.perf_counter() - done, seen + len(labels)
        if step == options.steps + 4:
            break
        done = time.perf_counter()
    return {"waiting, %": [100 * waited / total], "images/s": [seen / total]}


def _endless(loader: EpochLoader) -> Iterator[Any]:
    while True:
        yield from loader


if __name__ == "__main__":
    main()
