"""What runs have come to: the paper's figures and tables, with these runs in them, and one page that holds them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lightning_subnets.atomic_file import replacing
from lightning_subnets.errors import UserError, printable
from lightning_subnets.experiments.report import figure_layout, page, plots, published, sections, single_run, tables
from lightning_subnets.experiments.report.finding import Found, find
from lightning_subnets.experiments.report.tables import Table, markdown
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.experiments.sweep.results import Row
from lightning_subnets.run_files.summary import read as read_summary

Part = tuple[str, str, str]


def report(runs: str, out: str | None = None) -> None:
    """Figures and tables of what has been run, and ``index.html`` that holds them all and opens without a network.

    Of a sweep that is not complete the figures are drawn with what is there, and say what is missing.

    Args:
        runs: a directory with sweeps or runs in it, or that of one sweep or of one run.
        out: where to write, by default ``report`` in that directory.
    """
    path = Path(runs)
    found = find(path)
    folder = path / "report" if out is None else Path(out)
    if out is None and not folder.resolve().is_relative_to(path.resolve()):
        raise UserError(
            f"{folder} is a link to {folder.resolve()}, which is outside {path}: name the place to write to with --out"
        )
    try:
        parts = _parts(found, folder)
        title = f"Report on {path.resolve().name}"
        _write(folder, {"index.html": page.page(title, parts).encode()})
    except OSError as error:
        raise UserError(f"no report can be written to {folder}: {error.strerror}; name another --out") from error
    for sweep, rows in found.sweeps.values():
        if missing := sections.incomplete(sweep, rows):
            Console().print(printable(f"{sweep.name}: {missing}"), markup=False, highlight=False)
    Console().print(printable(f"report: {folder / 'index.html'}"), markup=False, highlight=False, soft_wrap=True)


def _parts(found: Found, folder: Path) -> list[Part]:
    """Write the files of each part, for the page that they stand on."""
    parts = [_sweep(name, sweep, rows, folder) for name, (sweep, rows) in found.sweeps.items()]
    if found.runs:
        table = tables.of_runs(found.runs)
        _write(folder, {"runs.csv": tables.as_csv(table).encode(), "runs.md": tables.as_markdown(table).encode()})
        parts.append(("runs", "Runs", tables.as_html(table) + f"<p>Published: {published.SOURCE}.</p>\n"))
    if found.run is not None:
        run = found.run.resolve()
        files, name = single_run.pictures(run), f"{run.parent.name}, {run.name}"
        _write(folder, files)
        summary = read_summary(run)
        row = tables.as_html(tables.of_runs({(run.parent.name, run.name): summary}))
        parts.append(("run", name, row + page.of_run(_pngs(files), name, summary)))
    return parts


def _sweep(name: str, sweep: Sweep, rows: Sequence[Row], folder: Path) -> Part:
    files = {}
    for number, plot in enumerate(sweep.figure.plots, start=1):
        drawn = plots.draw(sweep, plot, rows)
        for form in ("png", "pdf"):
            files[f"{name}/figure{'' if number == 1 else f'-{number}'}.{form}"] = figure_layout.as_bytes(drawn, form)
    table = tables.of_sweep(sweep, rows)
    files[f"{name}/table.csv"] = tables.as_csv(table).encode()
    files[f"{name}/table.md"] = _markdown(sweep, rows, table).encode()
    _write(folder, files)
    content = page.of_sweep(sweep, rows, _pngs(files), table)
    return name, f"{sweep.figure.title} ({sweep.scale_name})", content


def _markdown(sweep: Sweep, rows: Sequence[Row], table: Table) -> str:
    facts = [(name, fact) for name, fact in sections.provenance(rows) if fact]
    missing = sections.incomplete(sweep, rows)
    head = [
        f"# {markdown(sweep.figure.title)}",
        markdown(sweep.figure.caption),
        f"{markdown(sweep.name)}: {markdown(sweep.scale.note)}. Paper: {markdown(sweep.figure.source)}.",
    ]
    head += [f"**{markdown(missing)}**"] if missing else []
    head += [f"Published: {markdown(sweep.figure.published_source)}."] if "published_percent" in table.data[0] else []
    head += [tables.as_markdown(table).rstrip("\n"), "\n".join(f"- {name}: {markdown(fact)}" for name, fact in facts)]
    return "\n\n".join(head) + "\n"


def _pngs(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.endswith(".png")}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path.parent} is a link that leaves {folder}: remove it, or name another --out")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
