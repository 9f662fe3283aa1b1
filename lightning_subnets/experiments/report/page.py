"""One HTML page that holds the pictures and loads nothing: it opens without a network, and in a mail."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from lightning_subnets.experiments.report import sections, tables
from lightning_subnets.experiments.report.finding import Summary
from lightning_subnets.experiments.report.tables import Table
from lightning_subnets.experiments.sweep.plan import Sweep
from lightning_subnets.experiments.sweep.results import Row

STYLE = """
:root { color-scheme: light dark; --line: #8886; --warning: #9c2a00; --faint: #8881; }
@media (prefers-color-scheme: dark) { :root { --warning: #ffa078; } }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h2 { border-top: 1px solid var(--line); padding-top: 1.5rem; margin-top: 2.5rem; }
img { max-width: 100%; height: auto; background: white; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; overflow-wrap: normal; }
th, td { padding: 0.2rem 0.8rem 0.2rem 0; text-align: right; white-space: nowrap; }
th, td { border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: 0.9rem; }
dt { font-weight: bold; } dd { margin: 0; }
code { font-size: 0.8rem; background: var(--faint); }
summary { cursor: pointer; margin: 0.5rem 0; }
.warning { color: var(--warning); font-weight: bold; }
"""


def page(title: str, parts: Sequence[tuple[str, str, str]]) -> str:
    """
    Args:
        parts: of each its name, its title, and its HTML.
    """
    contents = "".join(f'<li><a href="#{_text(name)}">{_text(heading)}</a></li>\n' for name, heading, _ in parts)
    body = "".join(f'<h2 id="{_text(name)}">{_text(heading)}</h2>\n{content}' for name, heading, content in parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{_text(title)}</h1>
<ul>
{contents}</ul>
{body}</body>
</html>
"""


def of_sweep(sweep: Sweep, rows: Sequence[Row], pictures: Mapping[str, bytes], table: Table) -> str:
    """
    Args:
        pictures: PNGs by their path from the page; a PDF stands beside each.
    """
    missing, failures = sections.incomplete(sweep, rows), sections.failures(sweep, rows)
    commands = sections.commands(sweep, rows)
    listed = "".join(
        f"<li>{_text(run)}, {status}<br><code>{_text(line)}</code></li>\n" for run, status, line in commands
    )
    return "".join(
        [
            f"<p>{_text(sweep.figure.caption)}</p>\n",
            f"<p>{_text(sweep.figure.source)}. ",
            f"Scale <b>{_text(sweep.scale_name)}</b>: {_text(sweep.scale.note)}.</p>\n",
            f'<p class="warning">{_text(missing)}</p>\n' if missing else "",
            of_pictures(pictures, sweep.figure.title),
            f"<ul>{''.join(f'<li class=warning>{_text(failure)}</li>' for failure in failures)}</ul>\n"
            if failures
            else "",
            tables.as_html(table),
            f"<p>Published: {_text(sweep.figure.published_source)}.</p>\n"
            if "published_percent" in table.data[0]
            else "",
            _definitions(sections.provenance(rows)),
            f"<details><summary>The commands of {len(rows)} runs</summary>\n<ol>\n{listed}</ol></details>\n",
        ]
    )


def of_pictures(pictures: Mapping[str, bytes], description: str) -> str:
    return "".join(
        f'<p><a href="{quote(path.removesuffix(".png"))}.pdf"><img alt="{_text(description)}, {_text(path)}" '
        f'src="data:image/png;base64,{base64.b64encode(picture).decode()}"></a></p>\n'
        for path, picture in pictures.items()
    )


def of_run(pictures: Mapping[str, bytes], name: str, summary: Summary | None) -> str:
    found = "" if summary is not None else '<p class="warning">not finished</p>\n'
    flat = {key: value for key, value in (summary or {}).items() if not isinstance(value, dict)}
    versions = ", ".join(f"{package} {version}" for package, version in (summary or {}).get("versions", {}).items())
    facts = [(key.replace("_", " "), str(value)) for key, value in flat.items() if value is not None]
    return found + of_pictures(pictures, name) + _definitions([*facts, *([("versions", versions)] if versions else [])])


def _definitions(facts: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{_text(name)}</dt><dd>{_text(fact)}</dd>' for name, fact in facts)}</dl>\n"


def _text(text: str) -> str:
    return html.escape(text)
