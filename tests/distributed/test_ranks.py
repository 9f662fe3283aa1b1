"""The ranks of a run hold the same network, or the run stops and names the rank and the layers that differ."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from rank_processes import on_ranks, trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import MeanMetric

import lightning_subnets as ls
from lightning_subnets.datamodules import Digits
from lightning_subnets.masking import digest
from lightning_subnets.training import resuming
from lightning_subnets.training.callbacks import rank_consistency
from lightning_subnets.training.callbacks.rank_consistency import Rank, roll_call
from lightning_subnets.training.checkpoint import read
from lightning_subnets.training.module import SubnetModule


def module() -> SubnetModule:
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    return SubnetModule(network, ls.EdgePopup(0.5), optimizer=lambda trained: torch.optim.SGD(trained, lr=0.1))


def averaged(folder: Path) -> list[str]:
    """Return the keys that differ between the final network of an averaged run and its checkpoint."""
    network, keep = module(), ModelCheckpoint(folder, filename="run", save_on_train_epoch_end=True)
    fit = trainer(limit_train_batches=5, limit_val_batches=0, callbacks=[EMAWeightAveraging(decay=0.9), keep])
    fit.fit(network, datamodule=Digits(batch_size=32))
    saved, ended = read(folder / "run.ckpt")["state_dict"], network.state_dict()
    assert any(key.endswith("running_mean") for key in saved)
    return [key for key in saved if not torch.equal(saved[key], ended[key])]


@pytest.mark.thorough
def test_an_average_ends_on_all_ranks_as_the_network_in_the_checkpoint(tmp_path: Path) -> None:
    assert on_ranks(averaged, tmp_path) == [[], []]


def ending(fit: Trainer, of: SubnetModule) -> str:
    """Return how a fit ends on this rank, and what it prints."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            fit.fit(of, datamodule=Digits(batch_size=64))
        except (ls.UserError, SystemExit) as end:
            return f"{type(end).__name__}: {end}"
    return said.getvalue()


class Tampering(Callback):
    """Changes one number on rank 1, before training or after a step."""

    def __init__(self, parameter: str, step: int) -> None:
        self.parameter, self.step = parameter, step

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.step == 0:
            self._tamper(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            self._tamper(trainer, pl_module)

    def _tamper(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with torch.no_grad():
            if trainer.global_rank == 1:
                dict(pl_module.named_parameters())[f"network.{self.parameter}"].view(-1)[3] = 0.0


def train_tampered(parameter: str, step: int, folder: Path) -> str:
    keep = ModelCheckpoint(folder, filename="last", every_n_train_steps=2, enable_version_counter=False)
    fit = trainer(callbacks=[Tampering(parameter, step), keep], max_steps=6)
    return ending(fit, module())


@pytest.mark.parametrize(
    ("parameter", "what"),
    [("4.scores", "4.scores, 4.weight.mask"), pytest.param("0.weight", "0.weight", marks=pytest.mark.thorough)],
)
def test_ranks_that_differ_at_the_start_stop(parameter: str, what: str, tmp_path: Path) -> None:
    first, second = on_ranks(train_tampered, parameter, 0, tmp_path)
    assert f"not hold the same network at step 0: rank 1 differs in {what}. All ranks need" in first
    assert first.startswith("UserError")
    assert second == "SystemExit: 0"
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.thorough
def test_ranks_that_differ_at_a_checkpoint_stop_and_leave_the_last_good_one(tmp_path: Path) -> None:
    message, *others = on_ranks(train_tampered, "0.scores", 3, tmp_path, ranks=3)
    assert "at step 4: rank 1 differs in 0.scores, 0.weight.mask. All ranks need" in message
    assert others == ["SystemExit: 0"] * 2
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


class ScoredByData(SubnetModule):
    """Scores that depend on the first batch: this rank's, or those of all."""

    reduced = False

    def setup(self, stage: str) -> None:
        images: Tensor = next(iter(self.trainer.datamodule.train_dataloader()))[0]  # type: ignore[attr-defined]
        pixels = images.mean(0, dtype=torch.float32).flatten()
        if self.reduced:
            pixels = self.trainer.strategy.reduce(pixels)
        with torch.no_grad():
            for weight in ls.masked_weights(self.network).values():
                assert weight.scores is not None
                weight.scores.mul_(pixels)


def train_scored_by_data(reduced: bool) -> str:
    scored = ScoredByData(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), ls.EdgePopup(0.5))
    scored.reduced = reduced
    return ending(trainer(max_steps=2), scored)


@pytest.mark.thorough
def test_a_method_that_scores_on_each_rank_s_own_data_is_caught_at_the_start() -> None:
    alone, _ = on_ranks(train_scored_by_data, False)
    assert "at step 0: rank 1 differs in 1.scores, 1.weight.mask" in alone
    together, silent = on_ranks(train_scored_by_data, True)
    assert together.startswith("2 processes: ")
    assert together.count("\n") == 1
    assert silent == ""


def train_with_other_versions() -> str:
    fit = trainer(max_steps=2)
    rank_consistency.platform.python_version = lambda: f"3.12.{fit.global_rank}"  # type: ignore[attr-defined]
    return ending(fit, module())


@pytest.mark.thorough
def test_ranks_of_other_versions_stop() -> None:
    message, other = on_ranks(train_with_other_versions)
    assert "rank 1 on " in message
    assert message.index("Python 3.12.1") < message.index("rank 0 on ") < message.index("Python 3.12.0")
    assert other == "SystemExit: 0"


@pytest.mark.parametrize(
    ("nodes", "places"),
    [
        ([("n1", "CPU")] * 2, "2 processes: n1: 2 x CPU; v"),
        ([("n1", "H200")] * 8 + [("n2", "H200")] * 8, "16 processes: n1, n2: 8 x H200 each; v"),
        ([("n1", "H200")] * 2 + [("n2", "A100")], "3 processes: n1: 2 x H200; n2: 1 x A100; v"),
        ([(f"n{i}", "H200") for i in range(64)], "64 processes: n0, n1, n2, n3, and 60 more: 1 x H200 each; v"),
    ],
)
def test_the_roll_call_is_one_line_however_many_nodes_there_are(nodes: list[tuple[str, str]], places: str) -> None:
    assert roll_call([Rank(node, device, "v") for node, device in nodes]) == places


class Norms(Callback):
    """Keeps the statistics of a norm: after each step, before and in an evaluation, in and after a checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, dict[str, list[Tensor]]()

    def note(self, name: str, pl_module: LightningModule) -> None:
        buffers = dict(pl_module.named_buffers())
        names = ("running_mean", "running_var", "num_batches_tracked")
        self.seen[name] = [buffers[f"network.1.{key}"].clone() for key in names]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.note(f"step {trainer.global_step}", pl_module)
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.path)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note("before", pl_module)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.note("in evaluation", pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note("end", pl_module)


def train_with_norms(path: Path) -> dict[str, list[Tensor]]:
    norms = Norms(path)
    trainer(max_steps=5, max_epochs=-1, val_check_interval=3, callbacks=[norms]).fit(module(), datamodule=Digits())
    state = torch.load(path, weights_only=True)["state_dict"]
    norms.seen["checkpoint"] = [state[f"network.1.{key}"] for key in ("running_mean", "running_var")]
    return norms.seen


def test_statistics_of_norms_are_local_in_training_and_averaged_before_they_are_read(tmp_path: Path) -> None:
    one, two = on_ranks(train_with_norms, tmp_path / "run.ckpt")
    for name in ("step 1", "step 2", "step 3", "before", "step 4", "step 5"):
        assert not torch.equal(one[name][0], two[name][0]), name
        assert not torch.equal(one[name][1], two[name][1]), name
    for averaged, local in (("checkpoint", "step 2"), ("in evaluation", "before"), ("end", "step 5")):
        for index in (0, 1):
            mean = (one[local][index] + two[local][index]) / 2
            torch.testing.assert_close(one[averaged][index], mean, msg=averaged)
            assert torch.equal(one[averaged][index], two[averaged][index])
    assert [rank["end"][2].item() for rank in (one, two)] == [5, 5]


def test_sync_batchnorm_changes_neither_masks_nor_gradients() -> None:
    plain, synced = module(), module()
    # What Trainer(sync_batchnorm=True) does before training and after it; DDP wants a GPU for what is between.
    for change, norm in ((TorchSyncBatchNorm().apply, nn.SyncBatchNorm), (TorchSyncBatchNorm().revert, _BatchNorm)):
        change(synced)
        assert isinstance(synced.network.get_submodule("1"), norm)
        images = torch.randn(4, 1, 8, 8)
        for each in (plain, synced):
            each.zero_grad()
            torch.autograd.backward(each(images).square().sum())
        assert digest.fingerprints(synced.network) == digest.fingerprints(plain.network)
        ours, theirs = ({n: p.grad for n, p in each.named_parameters() if p.requires_grad} for each in (plain, synced))
        assert ours.keys() == theirs.keys() == {"network.0.scores", "network.4.scores"}
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0)


def test_ranks_exchange_on_the_device_of_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(found: list[Tensor], mine: Tensor) -> None:
        raise LookupError(mine.device.type)

    monkeypatch.setattr(torch.distributed, "all_gather", gather)
    fit: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")), world_size=2)
    with pytest.raises(LookupError, match="meta"):
        rank_consistency.check_agreement(fit, module().network)
    with pytest.raises(LookupError, match="meta"):
        resuming.state(fit, [MeanMetric()])


def train_alone() -> str:
    return ending(trainer(max_steps=3), module())


def test_a_single_rank_prints_nothing() -> None:
    assert on_ranks(train_alone, ranks=1) == [""]
