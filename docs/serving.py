"""Draw docs/serving.png: time over density, from a result of benchmarks/serving.py.

.venv/bin/python docs/serving.py runs/benchmarks/serving-0.json
"""

import json
import statistics
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from lightning_subnets.run_files.drawing import EVALUATION, TRAIN

SHOWN = (("resnet50:1", "ResNet-50, one image"), ("linear:1", "fully connected, 25,088 to 4,096, one image"))
LINES = (("torch CSR", TRAIN, "torch, CSR"), ("SciPy CSR", "#009E73", "SciPy, CSR"))

results = json.loads(Path(sys.argv[1]).read_text())["results"]
figure = Figure(figsize=(10, 3.6), layout="constrained")
for axes, (name, title) in zip(figure.subplots(1, 2), SHOWN, strict=True):
    measured = {variant: quantities["processor ms"] for variant, quantities in results[name].items()}

    def ratio(variant: str, measured: dict[str, list[float]] = measured) -> float:
        return statistics.median(a / b for a, b in zip(measured[variant], measured["dense"], strict=True))

    axes.axhline(1, color="black", linewidth=1, label="PyTorch, dense, or with zeros")
    axes.axhline(ratio("onnxruntime, dense"), color=EVALUATION, linewidth=1, label="onnxruntime, dense, or with zeros")
    for variant, colour, label in LINES:
        densities = [float(key.rpartition(" ")[2]) for key in measured if key.startswith(f"{variant}, ")]
        ratios = [ratio(f"{variant}, {density:g}") for density in densities]
        axes.plot([100 * density for density in densities], ratios, "o-", color=colour, label=label)
    axes.set(xscale="log", xlabel="weights kept (%)", ylabel="time, dense PyTorch = 1", title=title, ylim=(0, None))
    axes.set_xticks([100 * density for density in densities], [f"{100 * density:g}" for density in densities])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)
