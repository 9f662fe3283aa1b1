"""The ``subnets`` command: what is done with a run that is no verb of a Trainer."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import NoReturn

import torch
from jsonargparse import ArgumentParser, auto_cli
from lightning.pytorch import seed_everything
from rich.console import Console
from rich.table import Column, Table

from lightning_subnets import choosing, figures, masking, sanity
from lightning_subnets.callbacks.collapse import in_words
from lightning_subnets.checkpoint import read
from lightning_subnets.choosing import progress
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.loader import Batch, EpochLoader
from lightning_subnets.diagnostics import diagnose, log10_path_kernel_trace, overlap
from lightning_subnets.errors import UserError
from lightning_subnets.method import masks
from lightning_subnets.methods.given import masks_of
from lightning_subnets.report import report
from lightning_subnets.saved_run import SavedRun
from lightning_subnets.sweep import results, running
from lightning_subnets.sweep.plan import Sweep


def main(args: list[str] | None = None) -> None:
    """Run a command line; a user's mistake ends it with one clear error and exit code 2."""
    try:
        auto_cli([inspect, check, sweep, report], args=args, prog="subnets", parser_class=Parser)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


class Parser(ArgumentParser):
    """Says what is wrong without the usage before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"error: {message.strip()}\ntip: subnets --help lists what it can do", file=sys.stderr)
        sys.exit(2)


def inspect(checkpoint: str, against: str | None = None, input_shape: tuple[int, int, int] | None = None) -> None:
    """What a mask leaves of its network: by layer, density and units; in all, paths and the trace of the path kernel.

    Prints them and draws ``widths.png`` beside the checkpoint's folder.

    Args:
        checkpoint: of a run.
        against: a checkpoint of another run of the same network, to see what the two masks have in common.
        input_shape: channels, height and width of an image, where the run's data are not at hand.
    """
    run = SavedRun(checkpoint)
    network = run.module().network
    shape = input_shape or run.data().image_shape
    diagnosis = diagnose(network, shape)
    layers = dict(masking.masked_layers(network))
    kept = dict(zip(layers, masks(list(layers.values())), strict=True))
    with choosing.plain(network):
        trace = log10_path_kernel_trace(network, kept, shape)
        common = overlap(kept, masks_of(read(against), network)) if against else None
    titles = ["kept", "density", "on paths", "units on paths", *(["in common"] if common else [])]
    table = Table(Column("layer", no_wrap=True), *(Column(title, justify="right") for title in titles))
    for name, layer in diagnosis.layers.items():
        row = [f"{layer.kept:,}", f"{layer.density:.2%}", f"{layer.on_paths:,}", f"{layer.alive:,} of {layer.units:,}"]
        table.add_row(name, *row, *([f"{common[1][name].jaccard:.1%}"] if common else []))
    console = Console()
    console.print(table)
    console.print(f"density {diagnosis.density:.3%}, 10^{diagnosis.log10_paths:.2f} paths from inputs to outputs")
    console.print(f"trace of the path kernel 10^{trace:.2f}")
    if collapsed := in_words(diagnosis.empty, diagnosis.cut_off):
        console.print(f"layer collapse: {collapsed}")
    if common:
        console.print(f"in common with {against}: {common[0].jaccard:.2%} of the weights that either keeps")
    folder = Path(checkpoint).resolve().parent.parent
    figures.draw_widths(diagnosis, folder / "widths.png", title=f"{folder.parent.name}, {folder.name}")
    console.print(f"picture: {folder / 'widths.png'}")


def check(checkpoint: str, batches: int = 10, images: int = 10_000, seeds: int = 3) -> None:
    """What a found mask depends on: shuffled, with its weights drawn again, with one weight for all; see ``sanity.py``.

    Prints the accuracies and draws ``sanity.png`` beside the checkpoint's folder.

    Args:
        checkpoint: of a run.
        batches: of training images for the running statistics of norms.
        images: of the test set that the accuracy is of, at most.
        seeds: how often masks are shuffled and weights drawn.
    """
    for name, value in (("batches", batches), ("images", images), ("seeds", seeds)):
        if value < 1:
            raise UserError(f"{name} = {value} is below 1")
    run = SavedRun(checkpoint)
    module, data = run.module(), run.data()
    data.prepare_data()
    data.setup("fit")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = module.network.to(device)
    seed_everything(module.seed, verbose=False)
    found: dict[str, list[float]] = {}
    total = 1 + 2 * seeds + len(sanity.VALUES)
    made = sanity.checks(
        network,
        lambda: _batches(data, data.train_dataloader(), batches * data.batch_size, device),
        lambda: _batches(data, data.test_dataloader(), images, device),
        range(seeds),
    )
    for _, (what, accuracy) in zip(progress(range(total), "checking"), made, strict=True):
        found.setdefault(what, []).append(accuracy)
    table = Table("without training", "test accuracy", "deviation")
    for what, accuracies in found.items():
        table.add_row(what, f"{mean(accuracies):.2%}", f"{stdev(accuracies):.2%}" if len(accuracies) > 1 else "")
    Console().print(table)
    picture = figures.draw_sanity(Path(checkpoint).resolve().parent.parent, found, chance=1 / len(data.classes))
    Console().print(f"picture: {picture}")


def sweep(
    figure: str,
    scale: str = "smoke",
    out: str = "runs/figures",
    at_once: int | None = None,
    list: str | None = None,
) -> None:
    """Make all runs of a figure that are not made yet; the same command goes on with a sweep that was stopped.

    Keeps ``results.csv``, a row a run, in a directory for the figure and its scale.

    Args:
        figure: a file of configs/figures.
        scale: one of the figure's: smoke, in minutes; laptop, in an hour; evening, hours on a GPU; paper, all of it.
        out: directory of the runs, which figures share.
        at_once: runs at a time on each GPU, or on the processors where there is none.
        list: a file to write the commands into for slurm/sweep.sbatch, instead of running them.
    """
    planned, folder = Sweep.read(Path(figure), scale), Path(out)
    if list is not None:
        _write_list(planned, folder, Path(list))
        return
    rows = running.run_all(planned, folder, running.slots(at_once, planned.scale.at_once))
    report(str(results.folder_of(planned, folder)))
    if any(row["status"] != "finished" for row in rows):
        print(f"error: not all runs are finished; what each prints is in {folder / 'runs'}/<run>.log", file=sys.stderr)
        sys.exit(1)


def _write_list(planned: Sweep, out: Path, path: Path) -> None:
    """The runs that are not made yet, a line each, as slurm/sweep.sbatch reads them."""
    waiting = running.unfinished(planned, out)
    if not waiting:
        print(f"all runs of {planned.name} are finished")
        return
    try:
        with path.open("x") as file:
            file.writelines(f"{shlex.join(running.arguments_of(run, out))}\n" for run in waiting)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): name another --list") from error
    results.write(planned, results.collect(planned, out), results.folder_of(planned, out))
    print(f"sbatch --array=1-{len(waiting)} --gpus-per-node=1 --cpus-per-gpu=12 slurm/sweep.sbatch {path}")


def _batches(data: ImageDataModule, loader: EpochLoader, images: int, device: torch.device) -> Iterator[Batch]:
    """Normalised batches of so many images, or of all where there are fewer."""
    for batch, labels in loader:
        if images <= 0:
            return
        yield data.normalize(batch[:images].to(device)), labels[:images].to(device)
        images -= len(labels)
