"""The picture of a continual experiment: which task's share of the mixture lowers the entropy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightning_subnets.experiments.continual.learning import SIZES, Learning
from lightning_subnets.run_files.drawing import EVALUATION, TRAIN, entitled, new_figure, save


def draw(learning: Learning, matrix: list[list[float]], path: Path, title: str) -> None:
    """Draw the slopes of all tasks for the images of each, the share inferred by batch size, and the accuracies.

    Args:
        learning: tested.
        matrix: of ``Learning.test``.
        path: the file to write.
        title: of the picture.
    """
    slopes, count = np.array(matrix), len(matrix)
    low, high = slopes.min(axis=1, keepdims=True), slopes.max(axis=1, keepdims=True)
    figure = new_figure(8.2)
    parts = figure.subfigures(2, 1, height_ratios=[5.4, 2.8], squeeze=False)
    top, bottom = parts[:, 0]
    axes = top.subplots()
    image = axes.imshow(
        (slopes - low) / np.where(high > low, high - low, 1),  # 1 if all tasks have the same mask
        cmap="magma",
        interpolation="nearest",
        extent=(0, count, count, 0),
    )
    axes.set(xlabel="task of the mask", ylabel=f"task of the {SIZES[-1]} images")
    top.colorbar(image, ax=axes, ticks=[0, 1], label="fall of the entropy, by row", shrink=0.8)
    left, right = bottom.subplots(1, 2)
    left.plot(SIZES, [100 * learning.inferred(size) for size in SIZES], marker="o", color=EVALUATION)
    left.axhline(100 / count, color="#999999", linestyle=":", label="chance")
    left.set(xscale="log", xlabel="unlabelled images", ylabel="tasks inferred (%)", ylim=(0, 104))
    left.set_xticks(SIZES, map(str, SIZES))
    left.minorticks_off()
    left.legend(frameon=False, loc="lower right")
    accuracies = [100 * float(row["test_accuracy"] or 0) for row in learning.rows]
    right.plot(range(count), accuracies, ".", color=TRAIN, markersize=4)
    right.set(xlabel="task", ylabel="test accuracy (%)", ylim=(None, 100))
    save(entitled(figure, title), path)
