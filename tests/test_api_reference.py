"""Every public name is in the API reference, and the website can be built."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

import lightning_subnets
from lightning_subnets import datamodules, networks
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.training import callbacks

ENTRIES = [
    name
    for page in (ROOT / "docs" / "api").glob("*.md")
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
]


def test_every_public_name_is_in_the_api_reference_once() -> None:
    public = [getattr(lightning_subnets, name) for name in lightning_subnets.__all__ if name != "__version__"]
    public += [getattr(module, name) for module in (datamodules, networks, callbacks) for name in module.__all__]
    assert len(ENTRIES) == len({*ENTRIES})
    assert {*map(pkgutil.resolve_name, ENTRIES)} == {*public, ImageDataModule}


@pytest.mark.thorough
def test_the_website_is_built_with_every_entry_and_every_page(tmp_path: Path) -> None:
    build = ["-m", "mkdocs", "build", "--strict", "--config-file", "docs/mkdocs.yml", "--site-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, *build], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = "".join(page.read_text() for page in (tmp_path / "docs" / "api").glob("*.html"))
    for name in ENTRIES:
        assert f'id="{name}"' in pages, name
    assert (tmp_path / "index.html").is_file()
    assert (tmp_path / "docs" / "idea.png").is_file()
