"""Reports in Chromium, as wide as a phone and as a laptop: readable, accessible, and unharmed by the names of runs."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import ROOT

from lightning_subnets.experiments.report import report
from lightning_subnets.experiments.sweep import results
from lightning_subnets.experiments.sweep.figure import COLUMNS, Figure, Line, Plot, Scale
from lightning_subnets.experiments.sweep.plan import Sweep

AXE = ROOT / ".venv" / "browser" / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = {"phone": (390, 844), "laptop": (1280, 800)}
HOSTILE = [
    "</script><script>document.title = 'harmed'</script>",
    "\"><img src='http://127.0.0.1:9/x.png' onerror=\"document.title = 'harmed'\">",
    "w" * 200,
    "\u202eleft to right\u2066",
    "🔥 & &lt; $x_1^",
    "javascript:document.title='harmed'",
]
pytestmark = pytest.mark.browser

# Returns what is wrong with the page: text outside the window or its own block, two texts at one place, a broken image.
FAULTS = """() => {
  document.querySelectorAll("details").forEach(each => each.open = true);
  const faults = [], rects = [];
  if (document.scrollingElement.scrollWidth > innerWidth) faults.push("the page scrolls sideways");
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    if (!node.data.trim()) continue;
    const own = node.parentElement.closest("th, td, p, li, h1, h2, dt, dd, summary").getBoundingClientRect();
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      const shown = `${node.data.trim().slice(0, 40)} at ${rect.left}, ${rect.top}`;
      if (rect.right > own.right + 1 || rect.left < own.left - 1) faults.push(`leaves its block: ${shown}`);
      const inside = node.parentElement.closest(".wide");
      if (!inside && (rect.right > innerWidth || rect.left < 0)) faults.push(`cut off: ${shown}`);
      rects.push([rect, shown]);
    }
  }
  rects.sort((one, other) => one[0].top - other[0].top);
  rects.forEach(([one, text], place) => {
    for (let next = place + 1; next < rects.length && rects[next][0].top < one.bottom - 3; next++) {
      const other = rects[next][0];
      if (Math.min(one.right, other.right) - Math.max(one.left, other.left) > 1)
        faults.push(`overlap: ${text} and ${rects[next][1]}`);
    }
  });
  for (const image of document.images)
    if (!image.naturalWidth || image.getBoundingClientRect().right > innerWidth) faults.push(`picture: ${image.alt}`);
  for (const box of document.querySelectorAll(".wide"))
    if (box.getBoundingClientRect().right > innerWidth) faults.push("a table's box is wider than the page");
  return faults;
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return reports: of sweeps, one of them with hostile names and failed runs, of runs, and of single runs."""
    root = tmp_path_factory.mktemp("reports")
    for name, lines in (
        ("plain", [f"line {number}" for number in range(20)]),
        ('javascript:alert(1)"><b>', HOSTILE),
        ("one", ["only"]),
    ):
        _sweep(root / "sweeps" / name, lines)
    for name in ["quickstart", *(each.replace("/", "-") for each in HOSTILE[1:])]:
        _run(root / "runs" / name / "version_0", finished=True)
        _run(root / "runs" / name / "version_1", finished=False)
    asked = {
        "sweeps": root / "sweeps",
        "runs": root / "runs",
        "finished": root / "runs" / "quickstart" / "version_0",
        "unfinished": root / "runs" / "quickstart" / "version_1",
        "hostile": root / "runs" / ("w" * 200) / "version_0",
    }
    for name, path in asked.items():
        report(str(path), str(root / "out" / name))
    return {name: root / "out" / name / "index.html" for name in asked}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def size(request: pytest.FixtureRequest) -> dict[str, int]:
    return dict(zip(("width", "height"), WIDTHS[request.param], strict=True))


KINDS = ["sweeps", "runs", "finished", "unfinished", "hostile"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_off_or_covered(kind: str, pages: dict[str, Path], browser: Any, size: dict[str, int]) -> None:
    page = browser.new_page(viewport=size)
    page.goto(pages[kind].as_uri())
    assert page.evaluate(FAULTS) == []
    page.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_works_without_scripts_and_asks_for_nothing(kind: str, pages: dict[str, Path], browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page, asked, said = context.new_page(), list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(pages[kind].as_uri())
    assert asked == [pages[kind].as_uri()]
    assert said == []
    assert all(page.locator("img").evaluate_all("all => all.map(each => each.naturalWidth > 0 && each.alt)"))
    assert page.locator("img").count() == {"sweeps": 12, "runs": 0}.get(kind, 2)
    assert page.locator("table").first.is_visible()
    if kind == "sweeps":
        page.locator("summary").first.click()
        assert page.locator("details code").first.is_visible()
    context.close()


def test_names_are_text(pages: dict[str, Path], browser: Any) -> None:
    page = browser.new_page()
    for kind in ("sweeps", "runs", "hostile"):
        page.goto(pages[kind].as_uri())
        assert page.title().startswith("Report on ")
        assert page.locator("script, img:not([src^='data:image/png'])").count() == 0
        for address in page.eval_on_selector_all("a", "all => all.map(each => each.href)"):
            assert address.startswith(pages[kind].parent.as_uri())
        text = page.inner_text("body")
        assert not {"\u202e", "\u2066"} & set(text)
        for name in HOSTILE if kind == "sweeps" else HOSTILE[2:] if kind == "runs" else []:
            escaped = name.replace("\u202e", "\\u202e").replace("\u2066", "\\u2066")
            assert (escaped.replace("/", "-") if kind == "runs" else escaped) in text
    page.close()


def test_the_links_of_the_list_lead_to_their_sections(pages: dict[str, Path], browser: Any) -> None:
    page = browser.new_page()
    page.goto(pages["sweeps"].as_uri())
    for link in page.locator("li > a").all():
        link.click()
        assert page.evaluate("document.querySelector(':target').textContent") == link.text_content()
    assert page.locator("li > a").count() == 3
    page.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(kind: str, scheme: str, pages: dict[str, Path], browser: Any) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.goto(pages[kind].as_uri())
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found] == []
    page.close()


def _sweep(folder: Path, names: list[str]) -> None:
    """Write a sweep over networks and widths, with a failed and a missing run, a missing value, and one that is cut."""
    folder.mkdir(parents=True)
    axes: dict[str, Any] = {"network": {name: {} for name in [*names[:3], "Conv4"]}, "width": {"width": [0.5, 1.0]}}
    plots = [Plot("width", panels="network"), Plot("network"), Plot("kept"), Plot("network", "units_on_paths")]
    lines = {name: Line("base.yaml") for name in names}
    scale = Scale("digits", f"digits, {names[0]}", [0])
    figure = Figure(names[-1], names[0], f"What {names[1 % len(names)]} shows.", lines, plots, {"smoke": scale}, axes)
    sweep = Sweep(f"{folder.name}-smoke", figure, "smoke", folder)
    rows = []
    for seed, name, (place, network), width in itertools.product((0,), names, enumerate(axes["network"]), (0.5, 1)):
        row: dict[str, Any] = {"line": name, "network": network, "width": width, **dict.fromkeys(COLUMNS[1:])}
        units = json.dumps({f"{names[0]}.{layer}": 4 + layer for layer in range(3)})
        rows.append(row | {"seed": seed, "status": "finished", "kept": 1e5 * (place + width), "test_accuracy": width})
        rows[-1] |= {"units_on_paths": units, "command": f"lightning fit -c base.yaml --name {name!r}", "device": name}
        rows[-1] |= {"seconds": 3.5, "finished": "2026-01-02T03:04:05", "torch": name}
    rows[0] |= {"status": "failed", "error": f"ValueError: {names[0]}"}
    rows[1] |= {"status": "missing", "test_accuracy": None}
    rows[2]["kept"] = None
    SWEEPS[folder] = sweep, rows
    (folder / "sweep.yaml").touch()


SWEEPS: dict[Path, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def _invented_results() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "read", lambda path: SWEEPS[path])
        yield


def _run(folder: Path, *, finished: bool) -> None:
    folder.mkdir(parents=True)
    layers = [f"encoder.layers.encoder_layer_{number}.mlp" for number in range(12)]
    density, swapped = ([f"{kind}/{layer}" for layer in sorted(layers)] for kind in ("density", "swapped"))
    rows = [",".join([*density, "epoch", "step", *swapped, "train/loss", "val/accuracy"])]
    rows += [",".join([*["0.5"] * 12, str(epoch), "9", *["0.01"] * 12, "1.0", "0.9"]) for epoch in range(3)]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed_everything": 0}))
    if finished:
        summary = {"network": folder.parent.name, "method": "EdgePopup", "weights_digest": "0" * 64, "epochs": 3}
        summary |= {"density": 0.5, "kept": 5, "test_accuracy": 0.9, "versions": {"torch": "2.15.0", "python": "3"}}
        (folder / "summary.json").write_text(json.dumps(summary))
    else:
        (folder / "failure.txt").write_text(f"ValueError: {folder.parent.name}\n")
