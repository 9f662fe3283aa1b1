"""The generated part of docs/methods/: the equation, what was measured, the reference, and the differences."""

from __future__ import annotations

import csv
import inspect
import re
import statistics
from collections import defaultdict
from pathlib import Path, PurePosixPath

import yaml
from docstrings import equations
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from lightning_subnets import methods

ROOT = Path(__file__).parents[1]
METHODS = "docs/methods"
DENSE = "`Dense`"
SHORT = "Ten epochs on handwritten digits, without tuning, see [benchmarks](../../benchmarks/README.md):"
RANGE = (
    "Test accuracy in per cent by the density, the fraction of weights kept: the mean over seeds and its deviation, or "
    "the lowest and the highest mean if a figure has several settings, such as networks, distributions or learning "
    "rates. `Dense`: learned weights of the same figure, all kept."
)


def on_config(config: MkDocsConfig) -> None:
    """Add the page of each method to the navigation."""
    section = next(each["Methods"] for each in config.nav if "Methods" in each)
    section += sorted((str(page.relative_to(ROOT)) for page in (ROOT / METHODS).glob("*.md")), key=str.lower)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str | None:
    """Complete the page of a method."""
    path = PurePosixPath(page.file.src_uri)
    return completed(markdown, path.stem) if str(path.parent) == METHODS else None


def completed(markdown: str, name: str) -> str:
    """Return the page of a method with its generated sections."""
    idea, separator, instructions = markdown.partition("\n## ")
    parts = [idea, *equations(inspect.getdoc(getattr(methods, name)) or ""), separator + instructions]
    benchmark, figures = rows_about(name, "benchmarks/README.md"), measured(name, ROOT / "results")
    if benchmark or figures:
        parts += ["## Measured here", *([SHORT, *benchmark] if benchmark else []), *figures]
    parts += ["## Reference", f"::: lightning_subnets.{name}"]
    if differences := rows_about(name, "docs/design/methods.md"):
        parts += ["## Where it differs from the authors' public code", *differences]
    return "\n\n".join(parts)


def rows_about(name: str, page: str) -> list[str]:
    """Return the tables of a page, with those rows only whose first cell names the method."""
    tables = re.findall(r"^(\|.*\n\|[-|]+\n)((?:\|.*\n)+)", (ROOT / page).read_text(), re.MULTILINE)
    chosen = [(head, re.findall(rf"^\| [^|]*\b{name}\b[^|]*\|.*$", rows, re.MULTILINE)) for head, rows in tables]
    return [head + "\n".join(rows) for head, rows in chosen if rows]


def measured(name: str, results: Path) -> list[str]:
    """Return a table with a row for each figure in which a method trained, and a column for each density."""
    rows: dict[str, dict[str, str]] = {}
    for described in sorted(results.glob("*/sweep.yaml")):
        file = described.with_name("results.csv")
        settings = by_density(file, name)
        if settings:
            sweep = yaml.safe_load(described.read_text())
            title, note = sweep["figure"]["title"], sweep["figure"]["scales"][sweep["scale"]]["note"]
            rows[f"[{title}](../../results/{file.parent.name}/table.md): {note}"] = {
                density: cell(runs) for density, runs in settings.items()
            } | {DENSE: cell([each for runs in by_density(file, "Dense").values() for each in runs])}
    if not rows:
        return []
    found = {density for cells in rows.values() for density in cells} - {DENSE}
    columns = [*sorted(found, key=float), *([DENSE] if name != "Dense" else [])]
    lines = [["figure", *columns], ["---"] * (1 + len(columns))]
    lines += [[figure, *(cells.get(column, "") for column in columns)] for figure, cells in rows.items()]
    return [RANGE, "\n".join(f"| {' | '.join(line)} |" for line in lines)]


def by_density(file: Path, name: str) -> dict[str, list[list[float]]]:
    """Return the accuracies of a method in a figure: for each fraction kept and each setting, those of all seeds."""
    with file.open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["method"] == name and row["status"] == "finished"]
    settings: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if int(row["steps"]):  # a figure may show networks before training
            settings[tuple(row.values())[: [*row].index("seed")]].append(row)
    found: dict[str, list[list[float]]] = defaultdict(list)
    for seeds in settings.values():
        # Of all seeds together, because the scores of some methods decide how many weights each seed keeps.
        kept, total = (sum(int(row[column]) for row in seeds) for column in ("kept", "total"))
        found[f"{kept / total:.2g}"].append([100 * float(row["test_accuracy"]) for row in seeds])
    return found


def cell(runs: list[list[float]]) -> str:
    """Return mean and deviation over seeds if there is one setting, and the range of the means if there are several."""
    means = [statistics.mean(each) for each in runs]
    if len(runs) == 1 and len(runs[0]) > 1:
        return f"{means[0]:.1f} ± {statistics.stdev(runs[0]):.1f}"
    return " to ".join(dict.fromkeys(f"{each:.1f}" for each in (min(means), max(means)))) if means else ""
