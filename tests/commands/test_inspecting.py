"""``subnets inspect`` of masks that flip and multiply weights, and of edges that are not searched."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from lightning_subnets.commands import inspecting
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main
from lightning_subnets.datamodules import Digits
from lightning_subnets.experiments import sanity
from lightning_subnets.graph.diagnostics import Diagnosis, LayerDiagnosis
from lightning_subnets.run_files import drawing


def test_inspect_says_what_a_run_and_its_file_have_beside_the_mask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    options = ["signed=true", "inner=[0.4, 0.2]", "frozen=0.5"]
    method = ["--model.method=Multicoated", *(f"--model.method.{each}" for each in options)]
    lightning(["fit", "-c", "quickstart", "--trainer.max_steps=1", f"--trainer.default_root_dir={tmp_path}", *method])
    for ending in ("ckpt", "subnet"):
        (path,) = tmp_path.rglob(f"last.{ending}")
        capsys.readouterr()
        main(["inspect", str(path)])
        (row,) = [line for line in capsys.readouterr().out.splitlines() if "features.3" in line]
        assert re.search(r"x2: 10%, x3: 10%, flipped: 2[3-7]%, frozen: 50%", row), row


def test_inspect_shows_each_number_of_a_layer_under_its_title(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, last = "features.0.weight", str(finished_run / "checkpoints" / "last.ckpt")
    layer = LayerDiagnosis(kept=6, total=24, on_paths=5, units=4, width=3, alive=2, used=True)
    monkeypatch.setattr(inspecting, "diagnose", lambda *_: Diagnosis({name: layer}, log10_paths=2.5))
    monkeypatch.setattr(inspecting, "overlap", lambda *_: (0.5, {name: 0.75}))
    monkeypatch.setattr(drawing, "save", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "200")
    inspecting.show_run(last, last, None)
    said = capsys.readouterr().out
    titles, row = (
        [cell.strip() for cell in re.split("[┃│]", next(line for line in said.splitlines() if part in line))[1:-1]]
        for part in ("on paths", "features.0")
    )
    assert dict(zip(titles, row, strict=True)) == {
        "weight": "features.0",
        "kept": "6",
        "density": "25.00%",
        "on paths": "5",
        "units on paths": "2 of 4",
        "in common": "75.0%",
    }
    assert ": 50.00% of the weights that either keeps" in said


def test_the_facts_of_tasks_are_those_of_one_task_and_of_the_worst() -> None:
    def task(name: str, kept: int, accuracy: float) -> SimpleNamespace:
        return SimpleNamespace(name=name, layers=[SimpleNamespace(kept=kept)], accuracy=accuracy)

    header: Any = SimpleNamespace(tasks=[task("a", 2, 0.9), task("b", 4, 0.5)], kept=5, total=10)
    assert inspecting._tasks(header, 3000) == {
        "tasks": "2: a, b",
        "size": "3.0 kB, 1.5 kB a task",
        "density": "30.000% a task, 50.000% in any task, of 10",
        "accuracy": "70.00%, 50.00% or more in each of 2 tasks",
    }


@pytest.mark.parametrize(("images", "tested"), [(10_000, 360), (100, 100)])
def test_check_is_on_the_test_images_and_estimates_norms_on_training_images(
    images: int, tested: int, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["init_args"]["validation_fraction"] = 0.5
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    given: list[tuple[Tensor, ...]] = []

    def checks(network: object, training: Any, evaluation: Any, seeds: range) -> Iterator[tuple[str, float]]:
        given.extend(tuple(map(torch.cat, zip(*batches(), strict=True))) for batches in (training, evaluation))
        yield from [("as found", 0.5)] * (1 + 2 * len(seeds) + len(sanity.VALUES))

    monkeypatch.setattr(sanity, "checks", checks)
    inspecting.print_checks(str(run / "checkpoints" / "last.ckpt"), 3, images, 1)
    data = Digits()
    data.setup("test")
    (_, labels), (pixels, found) = given
    assert len(labels) == 3 * 64
    assert torch.equal(found, data.test_set[1][:tested])
    assert torch.equal(pixels, data.normalize(data.test_set[0][:tested]))
