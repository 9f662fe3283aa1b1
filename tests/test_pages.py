"""The pages: their code runs, their commands are accepted, and every file and module that they name exists."""

from __future__ import annotations

import csv
import functools
import importlib
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from repository import ROOT

from lightning_subnets import methods
from lightning_subnets.commands import subnets
from lightning_subnets.commands.cli import main
from lightning_subnets.masking.initialization import DISTRIBUTIONS
from lightning_subnets.run_files.shipped_configs import shipped_configs

FOLDERS = ("benchmarks", "configs", "data", "docs", "results", "slurm")
PAGES = [*ROOT.glob("[A-Z]*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
OWN_DATA = "docs/own_data.md"  # test_own_data_guide.py runs every command of this page
# The code of these pages needs what is around it, or ImageNet, so it is compiled only.
FRAGMENTS = ("docs/serving.md", "docs/design/masked_attributes.md", "data/README.md")


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL)


def with_blocks(language: str) -> list[str]:
    """Return the pages that have code in a language."""
    names = [str(page.relative_to(ROOT)) for page in PAGES]
    return [name for name in names if name != OWN_DATA and blocks(name, language)]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current directory: it has the configs of a clone, and the code that docs/own_*.md put there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "own_method.py").symlink_to(ROOT / "examples" / "own_method.py")
    (tmp_path / "mynet.py").write_text(blocks(OWN_DATA, "python")[0])
    return tmp_path


@pytest.mark.parametrize("page", with_blocks("python"))
def test_the_python_of_a_page_runs(page: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = compile("\n".join(blocks(page, "python")), page, "exec")
    (directory / "results").symlink_to(ROOT / "results")
    if page not in FRAGMENTS:
        exec(code, {})
    if page in ("README.md", "docs/python.md"):
        assert capsys.readouterr().out.startswith("0.3000")


def test_the_guide_to_python_has_all_of_its_code() -> None:
    assert len(blocks("docs/python.md", "python")) == 5


def test_the_guide_to_methods_has_the_code_of_the_example() -> None:
    (code,) = blocks("docs/own_method.md", "python")
    assert code in text_of("examples/own_method.py")


def resolved(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the config that a command line of ``lightning`` stands for, without running it."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--print_config"])
    output = capsys.readouterr()
    assert exit_info.value.code == 0, (arguments, output.err)
    return output.out


@pytest.mark.parametrize("page", with_blocks("yaml"))
def test_the_yaml_of_a_page_is_understood(page: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = []
    for block in blocks(page, "yaml"):
        Path("own.yaml").write_text(block if "config:" in block else f"config: quickstart\n{block}")
        config = yaml.safe_load(resolved(["fit", "-c", "own.yaml"], capsys))
        chosen.append(config["trainer"]["logger"])
    if page == "docs/dashboard.md":
        names = [logger["class_path"].rpartition(".")[2] for logger in chosen]
        assert names == ["WandbLogger", "TensorBoardLogger"]


def commands(page: str, program: str) -> list[list[str]]:
    """Return the arguments of each command of a page that begins with a program, or is submitted with it."""
    joined = "".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in re.findall(rf"(?m)^(?:sbatch [^#\n]*)?{program} .*", joined)]
    return [line[line.index(program) + 1 :] for line in lines]


def without_checkpoint(arguments: list[str]) -> list[str]:
    """Return arguments for a machine that has no run: instead of a checkpoint, they name the config of its run."""
    found, config = [*arguments], "quickstart"
    if "--ckpt_path" in found:
        at = found.index("--ckpt_path")
        if (run := re.match(r"runs/(\w+)/", found[at + 1])) and run[1] in shipped_configs():
            config = run[1]
        del found[at : at + 2]
    return found if "-c" in found else [found[0], "-c", config, *found[1:]]


@pytest.mark.parametrize(
    "page",
    [page if page == "README.md" else pytest.param(page, marks=pytest.mark.thorough) for page in with_blocks("bash")],
)
def test_the_commands_of_a_page_are_accepted(
    page: str, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def stand_in(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def note(*_: object, **__: object) -> None:
            called.append(command)

        return note

    for name in ("inspect", "check", "verify", "sweep", "report", "continual", "export", "import_"):
        monkeypatch.setattr(subnets, name, stand_in(getattr(subnets, name)))
    for arguments in commands(page, "subnets"):
        subnets.main(arguments)
        if arguments[0] == "sweep":
            name = arguments[1].removeprefix("configs/figures/").removesuffix(".yaml")
            assert (ROOT / "configs" / "figures" / f"{name}.yaml").is_file(), arguments
    assert len(called) == sum(arguments[0] != "configs" for arguments in commands(page, "subnets"))
    submitted = [["fit", *arguments] for arguments in commands(page, "slurm/fit.sbatch")]
    for fit in dict.fromkeys(tuple(without_checkpoint(each)) for each in commands(page, "lightning") + submitted):
        resolved([*fit], capsys)
    for target, *_ in commands(page, "make"):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    folders = [ROOT, *(ROOT / folder for folder, *_ in commands(page, "cd"))]
    for script, *_ in commands(page, "python"):
        assert script.startswith("-m") or any((folder / script).is_file() for folder in folders), script


def test_every_extra_that_a_page_names_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for page in PAGES for name in re.findall(r"lightning-subnets\[(\w+)\]", page.read_text())}
    assert {"hub", "onnx"} <= named <= {*extras}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_section_that_a_page_links_is_there(page: Path) -> None:
    for link, section in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text()):
        named = page.parent / link if link else page
        text = re.sub(r"```.*?```", "", named.read_text(), flags=re.DOTALL)
        titles = [re.sub(r"[^\w\- ]", "", title.lower()) for title in re.findall("^#+ (.*)$", text, re.MULTILINE)]
        assert named.suffix != ".md" or section in [title.replace(" ", "-") for title in titles], f"{link}#{section}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_and_module_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).is_file(), f"{link} is no file, so the link is dead on the website"
    for config in re.findall(r"-c (configs/[\w/]+\.yaml)|subnets sweep (configs/[\w/]+\.yaml)", text):
        assert (ROOT / "".join(config)).exists(), config
    for name in re.findall(r"\blightning_subnets(?:\.[A-Za-z]\w*)+", text):
        pkgutil.resolve_name(name)


def test_the_table_of_options_with_several_processes_names_every_test_of_theirs() -> None:
    links = r"\[([^\]]+)\]\(\.\./(tests/\w+/\w+\.py)\)(?: \(([^)]+)\))?"
    named = re.findall(links, text_of("docs/many_gpus.md"))
    for sentence, file, case in named:
        name = "_".join(re.findall(r"\w+", sentence))
        assert f"def test_{name}(" in text_of(file), f"{file} has no test of this name"
        assert not case or f'"{case}"' in text_of(file), case
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "tests" / "distributed").glob("test_*.py")}
    assert files <= {file for _, file, _ in named}


def test_the_table_of_the_zoo_states_the_claims() -> None:
    claims = yaml.safe_load(text_of("results/zoo/claims.yaml"))
    rows = []
    for name, claim in claims.items():
        file, test = claim["file"], claim["test"]
        kept = f"{file['kept'] / file['total']:.0%} of {file['total']:,} | {file['bytes'] / 1000:.0f} kB"
        network = file["network"].rpartition(".")[2]
        rows.append(f"| `{name}` | {network} | {kept} | {test['data']} | {test['accuracy']:.1%} |")
    assert re.findall(r"^\| `\w+\.subnet` .*", text_of("docs/zoo.md"), re.MULTILINE) == rows


def test_every_method_has_a_page_in_one_form() -> None:
    pages = {page.stem: page for page in (ROOT / "docs" / "methods").glob("*.md")}
    assert pages.keys() == {*methods.__all__}, "each method needs a page in docs/methods/, named like its class"
    for name, page in pages.items():
        assert f"[{name}](methods/{name}.md)" in text_of("docs/methods.md"), name
        text = page.read_text()
        headings = [f"# {name}", "## Run it", "## Suggested options"]
        assert re.findall(r"^#+ .*", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE) == headings, name
        assert f"ls.{name}(" in text
        assert f"--model.method={name} " in text or name == "EdgePopup"  # the method of quickstart


def test_the_table_of_distributions_has_all() -> None:
    names = re.findall(r"^\| `(\w+)`", text_of("docs/methods.md").partition("## The distribution")[2], re.MULTILINE)
    assert {*names} == {name for name in DISTRIBUTIONS if not name.startswith("scaled_")} | {"scaled_"}


def test_the_page_of_a_method_has_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    method_pages = importlib.import_module("method_pages")
    for file in (ROOT / "results").glob("*/sweep.yaml"):
        with file.with_name("results.csv").open() as lines:
            trained = {row["method"] for row in csv.DictReader(lines) if int(row["steps"] or 0)}
        for name in trained:
            assert f"results/{file.parent.name}/table.md" in method_pages.completed("# X\n## Run it", name), (
                file,
                name,
            )

    rows = ["line,density,seed,method,status,kept,total,steps,test_accuracy"]
    rows += ["a,0.1,0,SNIP,finished,1,10,5,0.5", "a,0.1,1,SNIP,finished,1,10,5,0.7", "a,0.5,0,SNIP,failed,,,,"]
    rows += ["b,0.1,0,SNIP,finished,1,10,0,0.1", "d,1,0,Dense,finished,10,10,5,0.9"]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "results.csv").write_text("\n".join(rows))
    sweep = {"scale": "tiny", "figure": {"title": "Own", "scales": {"tiny": {"note": "digits"}}}}
    (tmp_path / "own" / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert method_pages.measured("SNIP", tmp_path)[1].splitlines() == [
        "| figure | 0.1 | `Dense` |",
        "| --- | --- | --- |",
        "| [Own](../../results/own/table.md): digits | 60.0 ± 14.1 | 90.0 |",
    ]
    rows.append("c,0.1,0,SNIP,finished,1,10,5,0.2")
    (tmp_path / "own" / "results.csv").write_text("\n".join(rows))
    assert "| 20.0 to 60.0 | 90.0 |" in method_pages.measured("SNIP", tmp_path)[1]
    assert method_pages.measured("PHEW", tmp_path) == []


def test_the_front_page_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 150


def test_the_table_of_configs_names_every_experiment() -> None:
    named = set()
    for name in re.findall(r"^\| `([^`]+\.yaml)` \|", text_of("docs/experiments.md"), re.MULTILINE):
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
