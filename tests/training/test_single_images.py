"""A batch of one image, on which batch norm may fail, is handled before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from repository import ROOT
from small_runs import quiet_trainer
from torch import nn

import lightning_subnets as ls
from lightning_subnets.commands.cli import main
from lightning_subnets.datamodules import Digits
from lightning_subnets.training.module import SubnetModule

QUICKSTART = ROOT / "configs" / "quickstart.yaml"


def network(size: int) -> nn.Module:
    """With norms that see ``size`` x ``size`` values a channel of each image, and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(size),
        nn.Conv2d(4, 8, 1),
        nn.BatchNorm2d(8),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * size * size, 10),
    )


def module(size: int = 1) -> SubnetModule:
    return SubnetModule(network(size), ls.EdgePopup(0.5), optimizer=lambda scores: torch.optim.SGD(scores, lr=0.1))


def test_a_single_last_image_joins_the_batch_before_it() -> None:
    run = quiet_trainer()
    run.fit(module(), datamodule=Digits(batch_size=359))  # 4 x 359 + 1
    assert run.global_step == 4


def test_batches_of_one_image_are_trained_on_if_norms_can_take_them() -> None:
    run = quiet_trainer(max_steps=2)
    run.fit(module(size=2), datamodule=Digits(batch_size=1))
    assert run.global_step == 2


@pytest.mark.parametrize("size", [1, 2])
def test_the_check_changes_no_statistic_mode_or_random_number(size: int) -> None:
    checked = module(size)
    checked.network[1].eval()  # type: ignore[index]
    before = {key: value.clone() for key, value in checked.state_dict().items()}
    random = torch.get_rng_state()
    run = quiet_trainer(limit_train_batches=0, limit_val_batches=0)
    if size == 1:
        with pytest.raises(ls.UserError, match=r"batch_size = 1 gives a batch of one image.*Sequential.*another batch"):
            run.fit(checked, datamodule=Digits(batch_size=1))
    else:
        run.fit(checked, datamodule=Digits(batch_size=1))
    assert [part.training for part in checked.network.children()] == [True, False, *[True] * 6]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in checked.state_dict().items())


def test_only_a_fit_refuses_batches_of_one_image(
    finished_run: Path, tmp_path: Path, mistake: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["test", f"--ckpt_path={finished_run}", "--data.batch_size=1", "--trainer.limit_test_batches=2"])
    assert "test/accuracy" in capsys.readouterr().out
    root = f"--trainer.default_root_dir={tmp_path}"
    assert "on which Conv2 cannot be trained" in mistake(["fit", "-c", str(QUICKSTART), "--data.batch_size=1", root])
    assert not list(tmp_path.iterdir())  # refused before the run writes
