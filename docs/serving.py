"""Draw docs/serving.png: time over density, from the table in docs/serving.md.

.venv/bin/python docs/serving.py
"""

import re
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from lightning_subnets.run_files.drawing import EVALUATION, TRAIN, WIDTH

PICTURE = Path(__file__).with_suffix(".png")
PANELS = ("ResNet-50,\none image", "fully connected, 25,088\nto 4,096, one image")
COLUMNS = (0, 2)  # of the table's numbers
LINES = (("torch (MKL)", TRAIN, "compressed rows, torch"), ("SciPy", "#009E73", "compressed rows, SciPy"))

times: dict[str, dict[float, list[float]]] = {}  # by variant and density
for row in re.findall(r"^\|(.*\| [\d.]+ \|)$", PICTURE.with_suffix(".md").read_text(), re.MULTILINE):
    variant, density, *numbers = (cell.strip() for cell in row.strip("|").split("|"))
    times.setdefault(variant, {})[float(density)] = [float(number) for number in numbers]

figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
for axes, column, title in zip(figure.subplots(1, 2, sharey=True), COLUMNS, PANELS, strict=True):
    axes.axhline(1, color="black", linewidth=1, label="PyTorch, zeros or not")
    axes.axhline(
        times["onnxruntime, dense"][1][column], color=EVALUATION, linewidth=1, label="onnxruntime, zeros or not"
    )
    for program, colour, label in LINES:
        line = times[f"compressed rows, {program}"]
        kept = [100 * density for density in line]
        axes.plot(kept, [numbers[column] for numbers in line.values()], "o-", color=colour, label=label)
    axes.set(xscale="log", xlabel="weights kept (%)", ylim=(0, None))
    axes.set_title(title, fontsize=10.5)
    axes.set_xticks(kept, [f"{each:g}" for each in kept])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
figure.axes[0].set_ylabel("time, dense PyTorch = 1")
figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
figure.savefig(PICTURE, dpi=200)
