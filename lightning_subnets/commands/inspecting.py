"""``subnets inspect`` and ``subnets check``: tables of a run's masks or of a ``.subnet`` file."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Iterator, Mapping
from statistics import mean, stdev

import torch
from lightning.pytorch import seed_everything
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Column, Table
from torch import Tensor, nn

from lightning_subnets import masking
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.loader import Batch, EpochLoader
from lightning_subnets.errors import UserError, printable
from lightning_subnets.experiments import sanity
from lightning_subnets.graph.diagnostics import Diagnosis, diagnose, log10_path_kernel_trace, overlap
from lightning_subnets.masking.frozen_edges import FrozenEdges
from lightning_subnets.masking.masked_weight import check_shapes, multipliers
from lightning_subnets.masking.method import as_mask
from lightning_subnets.progress_bar import progress
from lightning_subnets.run_files import drawing
from lightning_subnets.run_files.naming_checkpoints import run_of
from lightning_subnets.run_files.saved_run import SavedRun
from lightning_subnets.subnet_file import load_subnet, masks_in
from lightning_subnets.subnet_file.building import builder
from lightning_subnets.subnet_file.container import Container, naming_file
from lightning_subnets.subnet_file.header import Frozen, Header
from lightning_subnets.subnet_file.loading import multiplier_of
from lightning_subnets.training.callbacks.collapse import in_words
from lightning_subnets.training.run_masks import read_masks

Shape = tuple[int, ...]
Common = tuple[float, dict[str, float]]

# The numbers of an image on which a file's paths are traced, such as 3 x 418 x 418: a stranger's file may state any.
LARGEST = 2**19


def show_run(checkpoint: str, against: str | None, input_shape: Shape | None) -> None:
    """Print the weights of a run, with the units and paths that its masks keep; draw ``widths.png`` beside it."""
    run, console = SavedRun(checkpoint), Console()
    network = run.module().network
    try:
        shape = input_shape or run.data().image_shape
    except UserError as error:
        raise UserError(f"{error}; or name the shape of an image, as in --input_shape='[3, 224, 224]'") from error
    weights, chosen = masking.masked_weights(network), multipliers(network)
    kept = {name: as_mask(each) for name, each in chosen.items()}
    beside = {name: _beside_mask(each, weights[name].frozen_edges) for name, each in chosen.items()}
    with masking.temporarily_unmasked(network):
        diagnosis = diagnose(network, shape, kept)
        common = _overlap(kept, against, network) if against else None
        titles = ["kept", "density", "on paths", "units on paths", *_titled(beside)]
        rows = {
            name: [
                f"{each.kept:,}",
                f"{each.density:.2%}" if each.masked else "dense",
                f"{each.on_paths:,}",
                f"{each.alive:,} of {each.units:,}",
                *([beside.get(name, "")] if _titled(beside) else []),
            ]
            for name, each in diagnosis.layers.items()
        }
        console.print(_table(titles, rows, common))
    _print_paths(console, network, kept, shape, diagnosis)
    _print_common(console, common, against)
    folder = run_of(checkpoint)
    picture = folder / "widths.png"
    try:
        drawing.save(drawing.draw_widths(diagnosis, title=f"{folder.parent.name}, {folder.name}"), picture)
    except OSError as error:  # the run may be another user's
        print(printable(f"no picture: {picture} cannot be written ({error.strerror})"), file=sys.stderr)
    else:
        console.print(f"picture: {_shown(str(picture))}")


def show_file(path: str, against: str | None, input_shape: Shape | None) -> None:
    """Print the header and the weights of a ``.subnet`` file, and the paths in it if its network can be built."""
    console, file = Console(), Container(path, whole=True)
    header = file.header
    if header.tasks:
        if against:
            raise UserError(f"{path} has tasks, and --against compares one: export one with subnets export --task")
        console.print(_facts(header, file.size))
        return
    with naming_file(path):
        chosen = {name: multiplier_of(file, name) for name in header.layers}
    kept = {name: as_mask(each) for name, each in chosen.items()}
    beside = {name: _beside_mask(each, header.layers[name].frozen) for name, each in chosen.items()}
    titles = ["shape", "kept", "density", "mask", "weights", *_titled(beside)]
    rows = {
        name: [
            "x".join(map(str, each.shape)),
            f"{each.kept:,}",
            f"{each.kept / each.size:.2%}",
            each.code,
            each.weights,
            *([beside[name]] if _titled(beside) else []),
        ]
        for name, each in header.layers.items()
    }
    known, reason = None, ""
    try:
        known = builder(header.network.builder)
    except UserError as error:  # only the paths need the network
        reason = str(error)
    network = load_subnet(path) if known else None
    common = _overlap(kept, against, network) if against else None
    console.print(_facts(header, file.size))
    console.print(_table(titles, rows, common))
    image_shape = input_shape or header.image_shape
    if image_shape and not input_shape and math.prod(image_shape) > LARGEST:
        reason = reason or f"the file states images of {'x'.join(map(str, image_shape))}: set --input_shape to use it"
        image_shape = None
    if network and image_shape:
        _print_paths(console, network, kept, image_shape, diagnose(network, image_shape, kept))
    if reason:
        console.print(_shown(f"no paths: {reason}"))
    _print_common(console, common, against)


def _beside_mask(multiplier: Tensor, frozen: FrozenEdges | Frozen | None) -> str:
    """Say which shares of the weights kept are multiplied or flipped, and which share of all edges is not searched."""
    kept = multiplier[multiplier != 0].to(torch.int8)
    counts = kept.abs().bincount(minlength=2).tolist()
    shares = {f"x{factor}": count for factor, count in enumerate(counts[2:], 2)}
    shares["flipped"] = int((kept < 0).sum())
    parts = [f"{what}: {count / len(kept):.0%}" for what, count in shares.items() if count]
    if frozen:
        parts.append(f"frozen: {(frozen.always + frozen.never) / multiplier.numel():.0%}")
    return ", ".join(parts)


def _titled(beside: Mapping[str, str]) -> list[str]:
    return ["beside the mask"] if any(beside.values()) else []


def _overlap(kept: Mapping[str, Tensor], against: str, network: nn.Module | None) -> Common:
    if against.endswith(".subnet"):
        others = masks_in(against)
    elif network is None:
        raise UserError(f"{against} cannot be compared: the file's network cannot be built here; name a .subnet file")
    else:
        others = read_masks(against, network)
    check_shapes(others, kept, f"{against} has masks of other weights, or is")
    return overlap(kept, others)


def _facts(header: Header, size: int) -> Table:
    arguments = ", ".join(f"{key}={value!r}" for key, value in header.method.arguments.items())
    network = ", ".join(f"{key}={value!r}" for key, value in header.network.arguments.items())
    drawn = header.weights
    classes = f"{len(header.classes)}: {', '.join(header.classes[:5])}{', ...' if len(header.classes) > 5 else ''}"
    facts = {
        "file": "" if header.tasks else f"{decimal(size)}, {8 * size / header.total:.2f} bits a weight",
        "network": f"{header.network.builder}({network}), {header.network.dtype}",
        "method": f"{header.method.name}({arguments})",
        "weights": f"{drawn.distribution}, seed {drawn.seed}" if drawn.distribution else "in the file",
        "norms": "trained" if header.norms == "trained" else "",
        "density": f"{header.kept / header.total:.3%}: {header.kept:,} of {header.total:,}",
        "accuracy": ", ".join(f"{name} {value:.2%}" for name, value in header.accuracy.items()),
        **(_tasks(header, size) if header.tasks else {}),
        "classes": classes if header.classes else "",
        "images": ", ".join(f"{name} {reprlib.repr(value)}" for name, value in header.preprocessing.items()),
        "config": f"keys {', '.join(header.config)}" if header.config else "",
        "digests": f"weights {header.digests.weights[:16]}..., masks {header.digests.masks[:16]}...",
        "made by": ", ".join(f"{name} {version}" for name, version in header.versions.items()),
    }
    table = Table(Column(), Column(overflow="fold"), show_header=False, box=None)
    for name, fact in facts.items():
        if fact:
            table.add_row(name, _shown(fact))
    return table


def _tasks(header: Header, size: int) -> dict[str, str]:
    """Say how many tasks a file has, how large they are, how much each keeps, and how well they are known."""
    names = [task.name for task in header.tasks]
    kept = [sum(layer.kept for layer in task.layers) for task in header.tasks]
    in_any = header.kept / header.total
    accuracies = [task.accuracy for task in header.tasks if task.accuracy is not None]
    return {
        "tasks": f"{len(names)}: {', '.join(names[:5])}{', ...' if names[5:] else ''}",
        "size": f"{decimal(size)}, {decimal(size // len(names))} a task",
        "density": f"{mean(kept) / header.total:.3%} a task, {in_any:.3%} in any task, of {header.total:,}",
        "accuracy": f"{mean(accuracies):.2%}, {min(accuracies):.2%} or more in each of {len(accuracies)} tasks"
        if accuracies
        else "",
    }


def _table(titles: list[str], rows: Mapping[str, list[str]], common: Common | None) -> Table:
    columns = [*titles, *(["in common"] if common else [])]
    table = Table(
        Column("weight", overflow="fold"), *(Column(title, justify="right", overflow="fold") for title in columns)
    )
    for name, row in rows.items():
        shared = [f"{common[1][name]:.1%}"] if common and name in common[1] else []
        table.add_row(_shown(name.removesuffix(".weight")), *row, *shared)
    return table


def _print_paths(
    console: Console, network: nn.Module, kept: Mapping[str, Tensor], shape: Shape, diagnosis: Diagnosis
) -> None:
    console.print(f"density {diagnosis.density:.3%}, 10^{diagnosis.log10_paths:.2f} paths from inputs to outputs")
    try:
        console.print(f"trace of the path kernel 10^{log10_path_kernel_trace(network, kept, shape):.2f}")
    except UserError as error:
        console.print(_shown(str(error)))
    if collapsed := in_words(diagnosis.empty, diagnosis.cut_off):
        console.print(f"layer collapse: {_shown(collapsed)}")


def _print_common(console: Console, common: Common | None, against: str | None) -> None:
    if common:
        console.print(f"in common with {_shown(str(against))}: {common[0]:.2%} of the weights that either keeps")


def _shown(text: str) -> str:
    """Return the first 400 characters of a text so that rich prints them literally."""
    return escape(printable(text if len(text) <= 400 else f"{text[:400]}..."))


def print_checks(checkpoint: str, train_batches: int, images: int, seeds: int) -> None:
    """Print the accuracies of ``sanity.checks``; the arguments are those of ``subnets check``."""
    run = SavedRun(checkpoint)
    module, data = run.module(), run.data()
    data.prepare_data()
    data.setup("fit")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = module.network.to(device)
    like = next(network.parameters())
    seed_everything(module.seed, verbose=False)
    found: dict[str, list[float]] = {}
    total = 1 + 2 * seeds + len(sanity.VALUES)
    checks = sanity.checks(
        network,
        lambda: _batches(data, data.train_dataloader(), train_batches * data.batch_size, like),
        lambda: _batches(data, data.test_dataloader(), images, like),
        range(seeds),
    )
    for _, (what, accuracy) in zip(progress(range(total), "checking"), checks, strict=True):
        found.setdefault(what, []).append(accuracy)
    table = Table("without training", "test accuracy", "deviation")
    for what, accuracies in found.items():
        table.add_row(what, f"{mean(accuracies):.2%}", f"{stdev(accuracies):.2%}" if len(accuracies) > 1 else "")
    Console().print(table)
    Console().print(
        f"Statistics of batch norm are estimated again from {train_batches} training batches in every row, so the "
        "first row can differ from `lightning test` by a few points."
    )


def _batches(data: ImageDataModule, loader: EpochLoader, images: int, like: Tensor) -> Iterator[Batch]:
    """Yield normalised batches of this many images, or of all if there are fewer, with a tensor's device and dtype."""
    for batch, labels in loader:
        if images <= 0:
            return
        yield data.normalize(batch[:images].to(like.device)).to(like.dtype), labels[:images].to(like.device)
        images -= len(labels)
