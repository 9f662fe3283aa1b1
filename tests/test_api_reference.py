"""Every public name is in the API reference, and the website can be built."""

from __future__ import annotations

import html
import inspect
import pkgutil
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from repository import ROOT

import lightning_subnets
from lightning_subnets import datamodules, methods, networks
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.graph.diagnostics import log10_path_kernel_trace
from lightning_subnets.training import callbacks, checkpoint

ENTRIES = [
    name
    for page in (ROOT / "docs" / "api").glob("*.md")
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
] + [f"lightning_subnets.{page.stem}" for page in (ROOT / "docs" / "methods").glob("*.md")]


def test_every_public_name_is_in_the_api_reference_once() -> None:
    public = [getattr(lightning_subnets, name) for name in lightning_subnets.__all__ if name != "__version__"]
    public += [getattr(module, name) for module in (datamodules, networks, callbacks) for name in module.__all__]
    assert len(ENTRIES) == len({*ENTRIES})
    assert {*map(pkgutil.resolve_name, ENTRIES)} == {*public, ImageDataModule, log10_path_kernel_trace, checkpoint.read}


@pytest.mark.thorough
def test_the_website_is_built_with_every_entry_and_every_page(tmp_path: Path) -> None:
    build = ["-m", "mkdocs", "build", "--strict", "--config-file", "docs/mkdocs.yml", "--site-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, *build], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = {page: page.read_text() for page in tmp_path.rglob("*.html")}
    pages = "".join(texts.values())
    for name in ENTRIES:
        assert f'id="{name}"' in pages, name
    for name in methods.__all__:
        text = " ".join(html.unescape(re.sub("<[^>]+>", "", texts[tmp_path / f"docs/methods/{name}.html"])).split())
        docstring = inspect.getdoc(getattr(methods, name)) or ""
        for part in (docstring.partition("\n")[0], f"Source: {docstring.partition('Source: ')[2]}"):
            assert " ".join(part.replace("``", "").split()) in text, (name, part)
    del texts[tmp_path / "docs" / "classify" / "index.html"]  # loads what npm installs beside it
    for page, text in texts.items():
        loaded = re.findall(r'<(?:script|img|link)[^>]* (?:src|href)="(?:https?:)?//[^"]*|class="mermaid"', text)
        assert not loaded, page  # a reader may have no network, from which the theme loads Mermaid
        for link in re.findall(r'(?:href|src)="(?!https?:|data:|#|mailto:)([^"#]+)', text):
            start = tmp_path if link.startswith("/") else page.parent  # 404.html is shown at any address
            assert (start / urllib.parse.unquote(link).lstrip("/")).is_file(), (page, link)
    assert (tmp_path / "index.html").is_file()
    assert (tmp_path / "docs" / "idea.png").is_file()
