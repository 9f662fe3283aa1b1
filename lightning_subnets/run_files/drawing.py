"""Pictures of a run, drawn from its ``metrics.csv``. matplotlib is imported on use."""

from __future__ import annotations

import io
import itertools
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_subnets import atomic_file
from lightning_subnets.errors import printable
from lightning_subnets.graph.diagnostics import Diagnosis
from lightning_subnets.training.loggers.metrics_file import ParsedMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, EVALUATION = "#0072B2", "#D55E00"  # Okabe and Ito's colours, which colour-blind readers can tell apart
WIDTH = 5.4  # of every picture in inches, so that text of 10 points is readable where a phone shows it 358 pixels wide
NAME = 28  # letters of a layer's name, at most
Series = dict[str, tuple[list[int], list[float]]]


def draw_run(run: Path, *, layers: list[str], evaluated_on: str, diagnosis: Diagnosis | None) -> list[Path]:
    """Write the pictures of ``figures_of`` into a run's directory, as PNG, and return their paths."""
    pictures = []
    for name, figure in figures_of(run, layers=layers, evaluated_on=evaluated_on, diagnosis=diagnosis).items():
        pictures.append(run / f"{name}.png")
        save(figure, pictures[-1])
    return pictures


def figures_of(run: Path, *, layers: list[str], evaluated_on: str, diagnosis: Diagnosis | None) -> dict[str, Figure]:
    """Draw a run's pictures from its ``metrics.csv`` and return them by name.

    They are ``curves``, ``layers`` if masks have changed, ``widths`` if there is a diagnosis, and ``rounds`` if the run
    pruned in rounds.

    Args:
        run: the directory of the run.
        layers: the masked weights, in the order to show them.
        evaluated_on: the images of the metrics ``val/``, such as "held-out images".
        diagnosis: of the run's last masks.
    """
    metrics, title = read_metrics(run / "metrics.csv"), f"{run.parent.name}, {run.name}"
    figures = {"curves": draw_curves(metrics, title=title, evaluated_on=evaluated_on)}
    swapped = any(value for layer in layers for value in metrics.get(f"swapped/{layer}", ([], []))[1])
    logged = [metrics.get(f"{kind}/{layer}", ([], []))[0] for kind in ("density", "swapped") for layer in layers]
    if swapped and all(epochs == logged[0] for epochs in logged):  # damaged lines leave some layers without a value
        figures["layers"] = draw_layers(metrics, layers, title=title)
    if diagnosis is not None:
        figures["widths"] = draw_widths(diagnosis, title=title)
    if {"pruning/round", "density", "val/accuracy"} <= metrics.keys():
        figures["rounds"] = draw_rounds(metrics, title=title, evaluated_on=evaluated_on)
    return figures


def read_metrics(path: Path) -> Series:
    """Return each metric by its name: the epochs at whose end it was logged, counted from 1, and its values.

    Unreadable lines are skipped. A missing file has no metrics.
    """
    series: Series = defaultdict(lambda: ([], []))
    for row in ParsedMetrics(path.read_bytes()).rows if path.exists() else []:
        for name, value in row.cells.items():
            if name not in ("epoch", "step") and "epoch" in row.cells:
                epochs, values = series[name]
                epochs.append(int(float(row.cells["epoch"])) + 1)
                values.append(float(value))
    return dict(series)


def draw_curves(metrics: Series, *, title: str, evaluated_on: str) -> Figure:
    """Draw accuracy and loss by epoch."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(6)
    accuracy, loss = figure.subplots(2, 1)
    for axes, name, scale in ((accuracy, "accuracy", 100), (loss, "loss", 1)):
        for key, label, colour in (("train", "training set", TRAIN), ("val", evaluated_on, EVALUATION)):
            epochs, values = metrics.get(f"{key}/{name}", ([], []))
            if not epochs:
                continue
            scaled = [scale * value for value in values]
            axes.plot(epochs, scaled, color=colour, label=label, marker="o" if len(epochs) == 1 else None)
            if axes is accuracy and key == "val":
                where = {"textcoords": "offset points", "xytext": (-4, -16), "ha": "right"}
                axes.annotate(f"{scaled[-1]:.2f} %", (epochs[-1], scaled[-1]), color=legible(colour), **where)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if axes.lines:
            axes.legend(frameon=False)
    accuracy.set(ylabel="accuracy (%)", title="Accuracy")
    loss.set(ylabel="cross-entropy (nats)", title="Loss", ylim=(0, None))
    return entitled(figure, title)


def draw_layers(metrics: Series, layers: list[str], *, title: str) -> Figure:
    """Draw the final density of each layer, and beside it the share of its kept edges replaced in each epoch."""
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator

    densities = [100 * metrics[f"density/{layer}"][1][-1] for layer in layers]
    figure, left, right = _density_bars(layers, densities)
    left.set(xlim=(0, 125), title="Density", xticks=range(0, 101, 50))
    epochs = metrics[f"swapped/{layers[0]}"][0]
    image = right.imshow(
        100 * np.array([metrics[f"swapped/{layer}"][1] for layer in layers]),
        aspect="auto",
        cmap="viridis",
        norm=PowerNorm(0.5, vmin=0),  # on a linear scale the large shares of the first epochs hide the rest
        interpolation="nearest",
        extent=(epochs[0] - 0.5, epochs[-1] + 0.5, len(layers) - 0.5, -0.5),
    )
    right.set(xlabel="epoch", title="Edges swapped")
    right.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.colorbar(image, ax=right, label="kept edges replaced\nin the epoch (%)", location="bottom")
    return entitled(figure, title)


def draw_widths(diagnosis: Diagnosis, *, title: str) -> Figure:
    """Draw the density of each layer, and beside it its units: all, those with weights in and out, those on a path."""
    layers = list(diagnosis.layers.values())
    densities = [100 * layer.density for layer in layers]
    figure, left, right = _density_bars(list(diagnosis.layers), densities)
    left.set(title=f"Density: {diagnosis.density:.2%}", xlim=(0, 1.3 * max(densities)))
    rows = range(len(layers))
    right.barh(rows, [layer.units for layer in layers], color="#DDDDDD", height=0.7, label="all units")
    width = [layer.width for layer in layers]
    right.barh(rows, width, color=EVALUATION, height=0.7, label="with weights in and out")
    right.barh(rows, [layer.alive for layer in layers], color=TRAIN, height=0.35, label="on a path")
    for row, layer in enumerate(layers):
        right.text(layer.units, row, f" {layer.alive}", va="center")
    paths = "no path" if diagnosis.log10_paths == -np.inf else f"$10^{{{diagnosis.log10_paths:.1f}}}$ paths"
    right.set(xlabel="units", title=f"Width: {paths}")
    right.set_xlim(0, 1.3 * max(layer.units for layer in layers))
    figure.legend(loc="outside lower right", ncols=3, frameon=False, handlelength=1, columnspacing=1)
    return entitled(figure, title)


def draw_rounds(metrics: Series, *, title: str, evaluated_on: str) -> Figure:
    """Draw accuracy against density: the last evaluated epoch of each round of ``IterativePruning``."""
    from matplotlib.ticker import LogLocator, NullLocator

    rounds, density = (dict(zip(*metrics[name], strict=True)) for name in ("pruning/round", "density"))
    points = {
        rounds[epoch]: (100 * density[epoch], 100 * accuracy)
        for epoch, accuracy in zip(*metrics["val/accuracy"], strict=True)
        if epoch in rounds and epoch in density
    }
    figure = new_figure(4)
    axes = figure.subplots()
    axes.plot(*zip(*points.values(), strict=True), color=EVALUATION, marker="o", label=evaluated_on)
    axes.set(xscale="log", xlabel="weights kept (%)", ylabel="accuracy (%)", title="Accuracy by round")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False)
    return entitled(figure, title)


def shortened(name: str, letters: int) -> str:
    """Return a name without its middle if it is longer, because names often differ at either end.

    Marks that a picture cannot show become escapes.
    """
    name = printable(name)
    return name if len(name) <= letters else f"{name[: (letters - 1) // 2]}…{name[-(letters // 2) :]}"


@contextmanager
def boxes_for_missing_letters() -> Iterator[None]:
    """Draw a box for a letter that the font lacks, such as an emoji, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def layer_names(layers: Sequence[str]) -> list[str]:
    """Return the names of layers for a picture; long ones lose the beginning that they share."""
    names = [name.removesuffix(".weight") for name in layers]
    long = [name for name in names if len(name) > NAME]
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*long, strict=False))
    shared = len("".join(letters[0] for letters in same).rstrip("0123456789")) if len(long) > 1 else 0
    return [shortened(f"…{name[shared:]}" if shared and name in long else name, NAME) for name in names]


def legible(colour: str) -> str:
    """Return a colour for text, dark enough to be read on white: WCAG AA asks for a contrast of 4.5."""
    from matplotlib.colors import to_hex, to_rgb

    channels = np.array(to_rgb(colour))
    while 1.05 / (_luminance(channels) + 0.05) < 4.5:
        channels = 0.98 * channels
    red, green, blue = channels.tolist()
    return to_hex((red, green, blue))


def _luminance(channels: np.ndarray) -> float:
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _density_bars(layers: list[str], densities: Sequence[float]) -> tuple[Figure, Axes, Axes]:
    """Return a figure of two panels whose left one has a bar for each layer's density in percent."""
    figure = new_figure(max(3.4, 1.8 + 0.22 * len(layers)))
    left, right = figure.subplots(1, 2, sharey=True)
    rows = range(len(layers))
    left.barh(rows, densities, color=TRAIN, height=0.7)
    for row, value in enumerate(densities):
        left.text(value, row, f" {value:.3g}", va="center", clip_on=True)  # a damaged file may say 500 %
    left.set(xlabel="weights kept (%)", yticks=rows, ylim=(len(layers) - 0.5, -0.5))
    left.set_yticklabels(layer_names(layers), parse_math=False)
    return figure, left, right


def new_figure(height: float) -> Figure:
    """Return an empty figure of the width of every picture."""
    from matplotlib.figure import Figure  # not pyplot, which needs a window system and shares the user's state

    return Figure(figsize=(WIDTH, height), layout="constrained")


def entitled(figure: Figure, title: str) -> Figure:
    """Return a figure after adding its title, and removing the frames of its panels."""
    figure.suptitle(shortened(title, 40), parse_math=False)  # the name of a run may contain dollar signs
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, completely or not at all."""
    atomic_file.write(path, as_bytes(figure, "png"))


@boxes_for_missing_letters()
def as_bytes(figure: Figure, form: str, *, dpi: int = 200) -> bytes:
    """Return a figure as a file, ``png`` or ``pdf``; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format=form, dpi=dpi, metadata={"CreationDate": None} if form == "pdf" else None)
    return file.getvalue()
