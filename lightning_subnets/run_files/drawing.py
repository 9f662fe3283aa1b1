"""Pictures of a run, drawn from its ``metrics.csv``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from lightning_subnets.atomic_file import replacing
from lightning_subnets.graph.diagnostics import Diagnosis
from lightning_subnets.training.loggers.metrics_file import ParsedMetrics

# Okabe and Ito's colours, told apart by colour-blind readers too.
TRAIN, EVALUATION = "#0072B2", "#D55E00"
Series = dict[str, tuple[list[int], list[float]]]


def draw_run(
    run: Path,
    *,
    layers: list[str],
    evaluated_on: str,
    diagnosis: Diagnosis | None,
    out: Path | None = None,
    form: str = "png",
) -> list[Path]:
    """Draw a run's pictures from its ``metrics.csv``.

    Args:
        layers: the masked layers, in the order to show them in.
        evaluated_on: what the metrics of ``val/`` were measured on: "test set" or "held-out images".
        diagnosis: of the masks that it ended with, where there is one.
        out: the directory for them, the run's own by default.
        form: ``png`` or ``pdf``.

    Returns: the pictures: ``curves.png``, ``layers.png`` where masks have changed, ``widths.png`` where there is a
        diagnosis, and ``rounds.png`` where it was pruned in rounds.
    """
    metrics, title = read_metrics(run / "metrics.csv"), f"{run.parent.name}, {run.name}"
    out = run if out is None else out
    pictures = [out / f"curves.{form}"]
    draw_curves(metrics, pictures[0], title=title, evaluated_on=evaluated_on)
    swapped = any(value for layer in layers for value in metrics.get(f"swapped/{layer}", ([], []))[1])
    logged = [metrics.get(f"{kind}/{layer}", ([], []))[0] for kind in ("density", "swapped") for layer in layers]
    if swapped and all(epochs == logged[0] for epochs in logged):  # not if lines of the file are damaged
        pictures.append(out / f"layers.{form}")
        draw_layers(metrics, layers, pictures[-1], title=title)
    if diagnosis is not None:
        pictures.append(out / f"widths.{form}")
        draw_widths(diagnosis, pictures[-1], title=title)
    if {"pruning/round", "density", "val/accuracy"} <= metrics.keys():
        pictures.append(out / f"rounds.{form}")
        draw_rounds(metrics, pictures[-1], title=title, evaluated_on=evaluated_on)
    return pictures


def read_metrics(path: Path) -> Series:
    """Return the metrics by name, each as the epochs at whose end it was logged and its values there.

    Lines that cannot be read are skipped. If the file is gone, there are no metrics.
    """
    series: Series = defaultdict(lambda: ([], []))
    for row in ParsedMetrics(path.read_bytes()).rows if path.exists() else []:
        for name, value in row.cells.items():
            if name not in ("epoch", "step") and "epoch" in row.cells:
                epochs, values = series[name]
                epochs.append(int(float(row.cells["epoch"])) + 1)
                values.append(float(value))
    return dict(series)


def draw_curves(metrics: Series, path: Path, *, title: str, evaluated_on: str) -> None:
    """Accuracy and loss by epoch, as a picture."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    _lines(accuracy, metrics, "accuracy", evaluated_on, scale=100)
    accuracy.set(ylabel="accuracy (%)", title="Accuracy")
    _lines(loss, metrics, "loss", evaluated_on, scale=1)
    loss.set(ylabel="cross-entropy (nats)", title="Loss", ylim=(0, None))
    for axes in (accuracy, loss):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.lines:
            axes.legend(frameon=False)
    _save(figure, path, title)


def _lines(axes: Axes, metrics: Series, name: str, evaluated_on: str, scale: float) -> None:
    for key, label, colour in (("train", "training set", TRAIN), ("val", evaluated_on, EVALUATION)):
        if f"{key}/{name}" not in metrics:
            continue
        epochs, values = metrics[f"{key}/{name}"]
        scaled = [scale * value for value in values]
        axes.plot(epochs, scaled, color=colour, label=label, marker="o" if len(epochs) == 1 else None)
        if key == "val" and name == "accuracy":
            axes.annotate(
                f"{scaled[-1]:.2f} %",
                (epochs[-1], scaled[-1]),
                textcoords="offset points",
                xytext=(-4, -16),
                ha="right",
                color=colour,
            )


def draw_layers(metrics: Series, layers: list[str], path: Path, *, title: str) -> None:
    """Kept density and share of edges swapped by layer, as a picture.

    Left, the density each layer ended with; right, the share of its kept edges replaced in each epoch.
    """
    rows = np.arange(len(layers))
    figure = Figure(figsize=(11, max(3.2, 1.4 + 0.22 * len(layers))), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.4))
    density = [100 * metrics[f"density/{layer}"][1][-1] for layer in layers]
    left.barh(rows, density, color=TRAIN, height=0.7)
    for row, value in enumerate(density):
        left.text(value, row, f" {value:.1f}", va="center", fontsize=8, clip_on=True)  # a damaged file may say 500 %
    left.set(xlim=(0, 115), xlabel="weights kept (%)", title="Density", yticks=rows)
    left.set_xticks(range(0, 101, 20))
    left.set_yticklabels(layers, fontsize=8, parse_math=False)
    left.set_ylim(len(layers) - 0.5, -0.5)
    swapped = 100 * np.array([metrics[f"swapped/{layer}"][1] for layer in layers])
    epochs = metrics[f"swapped/{layers[0]}"][0]
    image = right.imshow(
        swapped,
        aspect="auto",
        cmap="viridis",
        norm=PowerNorm(0.5, vmin=0),  # by the square root, or the first epochs would leave the rest dark
        interpolation="nearest",
        extent=(epochs[0] - 0.5, epochs[-1] + 0.5, len(layers) - 0.5, -0.5),
    )
    right.set(xlabel="epoch", title="Edges swapped")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=right, label="kept edges replaced in the epoch (%)")
    _save(figure, path, title)


def draw_widths(diagnosis: Diagnosis, path: Path, *, title: str) -> None:
    """Density and width of each layer, as a picture.

    Left, the weights that each layer keeps; right, its units, those with weights in and out, and those on a path.
    """
    layers = diagnosis.layers
    rows = np.arange(len(layers))
    figure = Figure(figsize=(11, max(3.2, 1.4 + 0.22 * len(layers))), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(rows, [100 * layer.density for layer in layers.values()], color=TRAIN, height=0.7)
    for row, layer in enumerate(layers.values()):
        left.text(100 * layer.density, row, f" {100 * layer.density:.3g}", va="center", fontsize=8)
    left.set(xlabel="weights kept (%)", title=f"Density: {diagnosis.density:.2%} in all", yticks=rows)
    left.set_xlim(0, 1.15 * max(100 * layer.density for layer in layers.values()))
    left.set_yticklabels(layers, fontsize=8, parse_math=False)
    left.set_ylim(len(layers) - 0.5, -0.5)
    for units, label, colour, height in (
        ([layer.units for layer in layers.values()], "all units", "#DDDDDD", 0.7),
        ([layer.width for layer in layers.values()], "with weights in and out", EVALUATION, 0.7),
        ([layer.alive for layer in layers.values()], "on a path", TRAIN, 0.35),
    ):
        right.barh(rows, units, color=colour, height=height, label=label)
    for row, layer in enumerate(layers.values()):
        right.text(layer.units, row, f" {layer.alive}", va="center", fontsize=8)
    paths = "no path" if diagnosis.log10_paths == -np.inf else f"$10^{{{diagnosis.log10_paths:.1f}}}$ paths"
    right.set(xlabel="units", title=f"Width: {paths} from inputs to outputs")
    right.set_xlim(0, 1.15 * max(layer.units for layer in layers.values()))
    figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=8)
    _save(figure, path, title)


def draw_sanity(run: Path, found: dict[str, list[float]], *, chance: float) -> Path:
    """The accuracies of ``sanity.checks``, a point each, as ``sanity.png`` beside a run's metrics.

    Args:
        found: accuracies, fractions, by what was done.
        chance: the accuracy of guessing.
    """
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(found)), layout="constrained")
    axes = figure.subplots()
    for row, accuracies in enumerate(found.values()):
        axes.plot([100 * each for each in accuracies], [row] * len(accuracies), "o", color=TRAIN, alpha=0.7)
    axes.axvline(100 * chance, color=EVALUATION, linestyle="--")
    axes.annotate(" chance", (100 * chance, -0.6), color=EVALUATION, va="bottom", fontsize=9)
    axes.set(xlim=(0, 100), xlabel="test accuracy (%)", ylim=(len(found) - 0.5, -1.2), yticks=range(len(found)))
    axes.set_yticklabels(list(found))
    axes.grid(axis="y", alpha=0.3)
    _save(figure, run / "sanity.png", f"{run.parent.name}, {run.name}: nothing trained")
    return run / "sanity.png"


def draw_rounds(metrics: Series, path: Path, *, title: str, evaluated_on: str) -> None:
    """Accuracy over density, as a picture: of each round of ``IterativePruning`` the last epoch that was evaluated."""
    rounds, density = (dict(zip(*metrics[name], strict=True)) for name in ("pruning/round", "density"))
    points = {
        rounds[epoch]: (100 * density[epoch], 100 * accuracy)
        for epoch, accuracy in zip(*metrics["val/accuracy"], strict=True)
        if epoch in rounds and epoch in density
    }
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points.values(), strict=True), color=EVALUATION, marker="o", label=evaluated_on)
    axes.set(xscale="log", xlabel="weights kept (%)", ylabel="accuracy (%)", title="Accuracy by round")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(frameon=False)
    _save(figure, path, title)


def _save(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(title, parse_math=False)  # a run may be called a$b$
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    # Without pyplot: no window system, no state shared with the user's own figures.
    FigureCanvasAgg(figure)
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:])
