"""Draw docs/idea.png: the idea in three panels, and below them the accuracy of a finished quickstart.

make quickstart && .venv/bin/python docs/idea.py runs/quickstart/version_0
"""

import itertools
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lightning_subnets.run_files.drawing import EVALUATION, TRAIN, WIDTH, read_metrics

run = Path(sys.argv[1])
random = np.random.default_rng(3)
sizes = (5, 7, 7, 4)
nodes = [
    [(layer, y) for y in np.linspace(-0.5, 0.5, size) * (size - 1) / (max(sizes) - 1)]
    for layer, size in enumerate(sizes)
]
edges = [(a, b) for left, right in itertools.pairwise(nodes) for a in left for b in right]
weights, scores = random.choice((-1, 1), len(edges)), random.random(len(edges))

figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
panels, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))
titles = (
    "Random weights,\nnever trained",
    "A score for each\nweight, trained",
    "The best half: the\nnetwork within",
)
for panel, title in zip(panels.subplots(1, 3), titles, strict=True):
    for (a, b), weight, score in zip(edges, weights, scores, strict=True):
        color = TRAIN if weight > 0 else EVALUATION
        style = {
            titles[0]: {"color": color, "alpha": 0.55, "linewidth": 0.9},
            titles[1]: {"color": "black", "alpha": score**1.5, "linewidth": 0.3 + 1.7 * score},
            titles[2]: {"color": color, "alpha": 0.9 if score > np.median(scores) else 0.0, "linewidth": 1.3},
        }[title]
        panel.plot(*zip(a, b, strict=True), zorder=1, **style)
    for x, y in (node for layer in nodes for node in layer):
        panel.scatter(x, y, s=40, color="white", edgecolor="0.25", zorder=2)
    panel.set_title(title, fontsize=10.5)
    panel.set_axis_off()

epochs, accuracy = read_metrics(run / "metrics.csv")["val/accuracy"]
axes = below.subplots()
axes.plot(epochs, 100 * np.array(accuracy), "o-", color="black")
axes.annotate(f"{accuracy[-1]:.1%}", (epochs[-1], 100 * accuracy[-1]), (0, -16), textcoords="offset points", ha="right")
axes.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(0, 105))
axes.set_title("make quickstart: real digits, no weight changed", fontsize=10.5)
axes.spines[["top", "right"]].set_visible(False)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=150)
