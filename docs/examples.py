"""Run the commands of docs/examples.md, and write what they print and draw into the page: python docs/examples.py."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGE, PICTURES = ROOT / "docs" / "examples.md", ROOT / "docs" / "examples"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show each script on the website."""
    if page.file.src_uri != "docs/examples.md":
        return markdown
    return re.sub(
        r"\n```\n\$ python (examples/\w+\.py)",
        lambda found: f"\n```python\n{(ROOT / found[1]).read_text()}```\n{found[0]}",
        markdown,
    )


def run(command: str, directory: Path) -> str:
    """Return what a command prints in a directory that has the scripts and the results."""
    for name in ("examples", "results"):
        if not (directory / name).exists():
            (directory / name).symlink_to(ROOT / name)
    environment = os.environ | {"MPLBACKEND": "agg"}
    arguments = [sys.executable, *shlex.split(command)[1:]]
    return subprocess.run(arguments, cwd=directory, env=environment, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        PAGE.write_text(
            re.sub(
                r"(?<=```\n)\$ (python .*)\n[^`]*",
                lambda found: f"$ {found[1]}\n{run(found[1], Path(directory))}",
                PAGE.read_text(),
            )
        )
        PICTURES.mkdir(exist_ok=True)
        for picture in Path(directory).glob("*.png"):
            shutil.copy(picture, PICTURES)
