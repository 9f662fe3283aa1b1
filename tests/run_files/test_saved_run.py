"""What a run states in the file of its subnetwork."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.masking.method import ScoredWeight
from lightning_subnets.run_files.saved_run import SavedRun


@pytest.mark.parametrize(("limit", "whole"), [(None, True), (1.0, True), (1, False), (0.5, False), (2, False)])
def test_the_accuracy_on_some_of_the_test_images_is_not_stated(
    limit: Any, whole: bool, finished_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["limit_test_batches"] = limit
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    saved = SavedRun(str(run / "checkpoints" / "last.ckpt"))
    stated = saved.details(saved.module().network)["accuracy"]
    summary = json.loads((run / "summary.json").read_text())
    assert stated == ({key: summary[key] for key in ("test_accuracy", "test_top5")} if whole else {})


class Soft(ls.EdgePopup):
    """A method of one's own that computes with probabilities, of which a file has only the mask."""

    cacheable = False

    def uncached_weight(self, weight: ScoredWeight) -> Tensor:
        assert weight.scores is not None
        soft: Tensor = weight.weight * weight.scores.sigmoid()
        return soft


class StraightThrough(Soft):
    """The same, but the probabilities only have the gradient: the mask is that of the file, up to rounding."""

    def uncached_weight(self, weight: ScoredWeight) -> Tensor:
        assert weight.scores is not None
        soft = weight.scores.sigmoid()
        return weight.weight * (self.masks([weight])[0] + soft - soft.detach())


class Hard(Soft):
    """The same, but it computes with the mask of the file."""

    def uncached_weight(self, weight: ScoredWeight) -> Tensor:
        return self.effective_weight(weight.weight, self.masks([weight])[0])


class Converged(ls.Supermask):
    """A Supermask whose draws are all the same, as far as one can see."""

    def uncached_weight(self, weight: ScoredWeight) -> Tensor:
        return self.effective_weight(weight.weight, self.masks([weight])[0])


@pytest.mark.parametrize(
    ("method", "stated"),
    [
        *((ls.EdgePopup(0.5), True), (ls.Dense(), True), (Hard(0.5), True), (StraightThrough(0.5), True)),
        *((ls.Supermask(0.5), False), (Converged(0.5), False), (Soft(0.5), False)),
    ],
    ids=lambda each: type(each).__name__,
)
def test_the_accuracy_with_other_masks_than_those_of_the_file_is_not_stated(
    method: ls.Method, stated: bool, finished_run: Path
) -> None:
    network = ls.mask_(nn.Sequential(nn.Linear(8, 4)), method)
    assert bool(SavedRun(str(finished_run / "checkpoints" / "last.ckpt")).details(network)["accuracy"]) == stated
