"""The README's code runs, and every file and module that a page names exists."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest
import yaml
from repository import ROOT

from lightning_subnets.commands.cli import main

README = (ROOT / "README.md").read_text()
FOLDERS = ("benchmarks", "configs", "data", "docs", "results", "slurm")
PAGES = [*ROOT.glob("[A-Z]*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(blocks("python")) == 5
    exec("\n".join(blocks("python")), {})
    assert capsys.readouterr().out.startswith("0.3000")


def test_the_lines_for_dashboards_are_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = []
    for number, block in enumerate(blocks("yaml")):
        config = tmp_path / f"{number}.yaml"
        config.write_text(f"config: {ROOT}/configs/quickstart.yaml\n{block}")
        with pytest.raises(SystemExit) as exit_info:
            main(["fit", "-c", str(config), "--print_config"])
        assert exit_info.value.code == 0
        chosen.append(yaml.safe_load(capsys.readouterr().out)["trainer"]["logger"]["class_path"].rpartition(".")[2])
    assert chosen == ["WandbLogger", "TensorBoardLogger"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_and_module_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for config in re.findall(r"-c (configs/[\w/]+\.yaml)|subnets sweep (configs/[\w/]+\.yaml)", text):
        assert (ROOT / "".join(config)).exists(), config
    for name in re.findall(r"\blightning_subnets(?:\.[A-Za-z]\w*)+", text):
        pkgutil.resolve_name(name)


def test_the_table_of_configs_names_every_experiment() -> None:
    named = set()
    for name in re.findall(r"^\| `([^`]+\.yaml)` \|", README, re.MULTILINE):
        variants = [name]
        while any("{" in variant for variant in variants):
            variants = [
                re.sub(r"\{[^}]*\}", choice, variant, count=1)
                for variant in variants
                for choice in re.findall(r"\{([^}]*)\}", variant)[0].split(",")
            ]
        named.update(variants)
    shipped = {str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml")}
    assert named == {name for name in shipped if not name.endswith("base.yaml") and not name.startswith("figures/")}
