"""Draw docs/idea.png: the idea in three panels, and the accuracy of a finished quickstart.

make quickstart && .venv/bin/python docs/idea.py runs/quickstart/version_0
"""

import itertools
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lightning_subnets.run_files.drawing import EVALUATION, TRAIN, read_metrics

run = Path(sys.argv[1])
random = np.random.default_rng(3)
sizes = (5, 7, 7, 4)
nodes = [
    [(layer, y) for y in np.linspace(-0.5, 0.5, size) * (size - 1) / (max(sizes) - 1)]
    for layer, size in enumerate(sizes)
]
edges = [(a, b) for left, right in itertools.pairwise(nodes) for a in left for b in right]
weights, scores = random.choice((-1, 1), len(edges)), random.random(len(edges))

figure = Figure(figsize=(11, 3.1), layout="constrained")
axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.25))
titles = (
    "Random weights,\nnever trained",
    "A score for each weight,\ntrained",
    "The best half:\nthe network in the network",
)
for panel, title in zip(axes, titles, strict=False):
    for (a, b), weight, score in zip(edges, weights, scores, strict=True):
        color = TRAIN if weight > 0 else EVALUATION
        style = {
            titles[0]: {"color": color, "alpha": 0.55, "linewidth": 0.9},
            titles[1]: {"color": "black", "alpha": score**1.5, "linewidth": 0.3 + 1.7 * score},
            titles[2]: {"color": color, "alpha": 0.9 if score > np.median(scores) else 0.0, "linewidth": 1.3},
        }[title]
        panel.plot(*zip(a, b, strict=True), zorder=1, **style)
    for x, y in (node for layer in nodes for node in layer):
        panel.scatter(x, y, s=75, color="white", edgecolor="0.25", zorder=2)
    panel.set_title(title, fontsize=11)
    panel.set_axis_off()

epochs, accuracy = read_metrics(run / "metrics.csv")["val/accuracy"]
axes[3].plot(epochs, 100 * np.array(accuracy), color="black")
axes[3].annotate(
    f"{accuracy[-1]:.1%}", (epochs[-1], 100 * accuracy[-1]), (0, -16), textcoords="offset points", ha="right"
)
axes[3].set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(0, 102))
axes[3].set_title("make quickstart:\nreal digits, no weight changed", fontsize=11)
axes[3].spines[["top", "right"]].set_visible(False)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=150)
