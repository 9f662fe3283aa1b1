"""What a run states in the file of its subnetwork."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_subnets.run_files.saved_run import SavedRun


@pytest.mark.parametrize(("limit", "whole"), [(None, True), (1.0, True), (1, False), (0.5, False), (2, False)])
def test_the_accuracy_on_some_of_the_test_images_is_not_stated(
    limit: Any, whole: bool, finished_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["limit_test_batches"] = limit
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    stated = SavedRun(str(run / "checkpoints" / "last.ckpt")).details()["accuracy"]
    summary = json.loads((run / "summary.json").read_text())
    assert stated == ({key: summary[key] for key in ("test_accuracy", "test_top5")} if whole else {})
