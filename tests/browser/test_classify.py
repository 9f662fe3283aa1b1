"""The page and the script of docs/classify give the same answers."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from repository import ROOT

from lightning_subnets.commands.subnets import main

PACKAGES = ROOT / ".venv" / "browser" / "node_modules"
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", params=["float32", "int8"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    photos = folder / "photos"
    photos.mkdir()
    for seed in range(2):
        _image(seed).crop((0, 0, 32, 32)).save(photos / f"{seed}.png")
    options = ["--int8", "--calibrate", str(photos)] if request.param == "int8" else []
    main(["export", str(ROOT / "results/zoo/cifar10_airbench.subnet"), str(folder / "net.onnx"), *options])
    for name in ("index.html", "classify.py"):
        shutil.copy(ROOT / "docs" / "classify" / name, folder)
    (folder / "node_modules").symlink_to(PACKAGES)
    return folder


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SimpleHTTPRequestHandler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_the_page_and_the_script_agree(site: Path, address: str) -> None:
    photo = site / "photo.png"
    _image(0).save(photo)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.set_input_files("#photo", photo)
        page.wait_for_function("answer.textContent")
        shown = _probabilities(page.inner_text("#answer"))
        browser.close()
    script = [sys.executable, str(site / "classify.py"), str(site / "net.onnx"), str(photo)]
    printed = _probabilities(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
    assert len(printed) == 3
    assert shown == pytest.approx(printed, abs=0.2)


def _image(seed: int) -> Image.Image:
    """Return an image with 32 rows, as the network expects, because programs enlarge and reduce photos differently.

    The page and the script cut its 40 columns to 32.
    """
    colours = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours.repeat(8, 0).repeat(8, 1))


def _probabilities(answer: str) -> dict[str, float]:
    rows = (line.split() for line in answer.splitlines() if line.strip())
    return {name: float(probability.removesuffix("%")) for probability, name in rows}
