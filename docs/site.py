"""The files of the website, at the paths that they have in the repository: the pages, and every file that they link."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "configs", "data", "docs", "results", "slurm")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of ``docs_dir`` by those of the repository; the others are the theme's."""
    pages = [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).glob("**/*.md"))]
    linked = {ROOT / "docs" / "site.css"} | {
        (page.parent / link).resolve()
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)", page.read_text())
        if (page.parent / link).is_file()
    }
    found = [
        File(str(path.relative_to(ROOT)), str(ROOT), config.site_dir, config.use_directory_urls)
        for path in sorted({*pages, *linked})
    ]
    return Files([*(file for file in files if file.src_dir != config.docs_dir), *found])
