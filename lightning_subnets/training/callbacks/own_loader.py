"""Resuming within an epoch with a user's own DataLoader."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_subnets.datamodules.labelled_batch import labelled_batch
from lightning_subnets.datamodules.loader import EpochLoader
from lightning_subnets.datamodules.seeded_loader import isolated_rng, seeded
from lightning_subnets.errors import UserError
from lightning_subnets.training import lightning_internals as internals
from lightning_subnets.training.masked_module import MaskedModule
from lightning_subnets.training.trial_pass import check_single_image


class OwnLoader(Callback):
    """Makes the order of a user's DataLoader a function of (seed, epoch), if ``seeded`` knows its sampler.

    Then a run that resumes in the middle of an epoch sees each sample once, as with an ``ImageDataModule``. If another
    loader has no ``state_dict``, a resumed run prints that it may repeat samples. On several ranks, an evaluation by
    such a DataLoader counts each sample once; Lightning's sampler repeats samples until every rank has equally many.

    Raises:
        ValueError: before training, if there are no images, or a batch of one that the network cannot be trained on.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            _replace(internals.train_data_source(trainer), lambda loader: _seeded(loader, trainer, pl_module))
        repeats = stage == "fit" and getattr(trainer, "overfit_batches", False)  # the same batches again
        if trainer.world_size > 1 and internals.shards_loaders(trainer) and not repeats:
            for source in internals.evaluation_data_sources(trainer):
                _replace(source, lambda loader: _shared_out(loader, trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for source in (internals.train_data_source(trainer), *internals.evaluation_data_sources(trainer)):
            vars(source).pop("dataloader", None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # Lightning does not call it after an exception

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        restored = internals.restore_loaders(trainer)
        if trainer.fit_loop.restarted_mid_epoch and trainer.is_global_zero and not restored:
            print(
                "the run resumes in the middle of an epoch, and which samples this epoch has already had is not known: "
                "the rest of it may repeat samples and omit others",
                file=sys.stderr,
            )


def _replace(source: Any, replacement: Callable[[DataLoader[Any]], EpochLoader | DataLoader[Any]]) -> None:
    """Make the Trainer take the replacement of a DataLoader."""

    def dataloader() -> Any:
        loader = type(source).dataloader(source)
        return replacement(loader) if isinstance(loader, DataLoader) else loader

    # Lightning calls this each time that it needs the loader, before it adds a distributed sampler.
    source.dataloader = dataloader


def _shared_out(loader: DataLoader[Any], trainer: Trainer) -> EpochLoader | DataLoader[Any]:
    """Return a loader of this rank's share of the samples, for an evaluation."""
    ours = seeded(loader, seed=0, rank=trainer.global_rank, ranks=trainer.world_size, train=False)
    images = len(ours.sampler.samples) if ours else 0
    if ours is None or not images:
        return loader
    if images < trainer.world_size:
        raise UserError(f"{images} images are too few for {trainer.world_size} processes: start at most {images}")
    return ours


def _seeded(loader: DataLoader[Any], trainer: Trainer, module: LightningModule) -> EpochLoader | DataLoader[Any]:
    """Return a loader whose order is a function of (seed, epoch), or the loader itself if its sampler is not known."""
    if getattr(trainer, "overfit_batches", 0):  # Lightning repeats the same batches
        return loader
    model: MaskedModule = module  # type: ignore[assignment]
    rank, ranks = (trainer.global_rank, trainer.world_size) if internals.shards_loaders(trainer) else (0, 1)
    ours = seeded(loader, seed=model.seed, rank=rank, ranks=ranks)
    if ours is None and loader.worker_init_fn is None:
        # The seed of an epoch is the same on all ranks, and the augmentation of a worker is not.
        loader.worker_init_fn = partial(pl_worker_init_function, rank=trainer.global_rank)
    _check_batches(loader, ours, ranks, trainer, model)
    return ours or loader


def _check_batches(
    loader: DataLoader[Any], ours: EpochLoader | None, ranks: int, trainer: Trainer, module: MaskedModule
) -> None:
    """Check that each rank has a batch, and that the network can be trained on one image if a batch has only one."""
    if ours is not None:
        # A single last image joins the batch before it, so it is alone only if it is the only image.
        images, size, left = len(ours.sampler), ours.batch_size, len(ours.sampler)
    elif loader.batch_size is not None and hasattr(loader.sampler, "__len__"):  # that of a stream has no length
        images, size = -(-len(loader.sampler) // ranks), loader.batch_size  # type: ignore[arg-type]
        left = images % size
    else:
        return
    if not images or (loader.drop_last and images < size):
        share = f"for each of {ranks} processes" if ranks > 1 else "to train on"
        raise UserError(
            f"the {type(loader).__name__} has no batch {share}: look at what its {type(loader.dataset).__name__} reads"
        )
    if size == 1 or (left == 1 and not loader.drop_last):
        with isolated_rng(0):
            batch = internals.batch_on_device(trainer, module, loader.collate_fn([loader.dataset[0]]))
            image, _ = labelled_batch(batch, f"the {type(loader).__name__}")
            check_single_image(module, image, f"{images} images in batches of {size}")
