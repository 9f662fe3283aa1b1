"""Every access to a part of the Trainer that Lightning 2.6 does not promise to keep.

Lightning has no public way to ask for these facts or to change them, and each function here names one. The tests of
resuming, ``tests/training/test_run_length.py`` and ``tests/training/callbacks/test_last_checkpoint.py``, fail if a
version of Lightning changes one.
"""

from __future__ import annotations

from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch.optim.swa_utils import AveragedModel

# Lightning reports the wait for a batch and the writing of a checkpoint to the profiler under these names.
PROFILED_FETCH = "[_TrainingEpochLoop].train_dataloader_next"
PROFILED_CHECKPOINT = "save_checkpoint"


def disable_signal_handlers(trainer: Trainer) -> None:
    """Keep Lightning from handling signals, see ``LastCheckpoint``."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def disable_sigterm_broadcast(trainer: Trainer) -> None:
    """Keep Lightning from asking the other ranks at every step for a signal, which makes the host wait for a GPU."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def resume_within_epochs_only(trainer: Trainer) -> None:
    """Keep Lightning from resuming every run with ``max_steps`` as if its checkpoint were from within an epoch."""
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]


def validates_after_this_batch(trainer: Trainer) -> bool:
    """Return whether a validation follows the last batch."""
    assert trainer.fit_loop._data_fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def validates_by_time(trainer: Trainer) -> bool:
    """Return whether ``val_check_interval`` is a time."""
    return getattr(trainer, "_val_check_time_interval", None) is not None


def nothing_follows_this_batch(trainer: Trainer) -> bool:
    """Return whether a checkpoint after the last batch loses nothing.

    A resumed run skips what Lightning does after the batch, so this is false if the batch ends an epoch or training, or
    if a validation follows. It is false too if the batch has only accumulated gradients, which no checkpoint holds.
    """
    loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    ends = epoch_loop._is_training_done or (trainer.should_stop and loop._can_stop_early)
    return not (ends or validates_after_this_batch(trainer) or epoch_loop._should_accumulate())


def logs_at_this_step(trainer: Trainer) -> bool:
    """Return whether the step is one at which the Trainer logs."""
    return trainer._logger_connector.should_update_logs


def log_now(trainer: Trainer, *, step_before: bool = False) -> None:
    """Send the metrics of a step, or of an epoch, to the loggers.

    Args:
        trainer: of the run.
        step_before: log under the step before, as Lightning does at the end of an epoch, after its counter has grown.
    """
    loop, connector = trainer.fit_loop.epoch_loop, trainer._logger_connector
    loop._batches_that_stepped -= step_before
    connector.log_metrics(connector.metrics["log"])
    loop._batches_that_stepped += step_before


def is_at_end_of_epoch(trainer: Trainer) -> bool:
    """Return whether a run resumes after the last batch of an epoch, and before its validation.

    Lightning then begins the next epoch, if the number of batches in an epoch is that of the checkpoint.
    """
    loop = trainer.fit_loop.epoch_loop
    return loop.restarted_on_train_batch_end and loop.batch_progress.is_last_batch


def count_last_step_once(trainer: Trainer) -> None:
    """Keep Lightning from counting a step twice: the last one of an epoch that was cut short.

    Lightning skips the validation after that step, and then counts the step again.
    """
    loop = trainer.fit_loop.epoch_loop
    if loop.restarted_on_last and validates_after_this_batch(trainer):
        loop._batches_that_stepped = min(loop._batches_that_stepped, trainer.global_step - 1)


def train_data_source(trainer: Trainer) -> Any:
    """Return the object from which the Trainer gets its training loader; its ``dataloader`` method can be replaced."""
    return trainer.fit_loop._data_source


def evaluation_data_sources(trainer: Trainer) -> list[Any]:
    """Return the objects from which the Trainer gets its loaders for validation and test, as ``train_data_source``."""
    loops = trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop
    return [loop._data_source for loop in loops]


def train_loaders(trainer: Trainer) -> list[Any]:
    """Return the training loaders."""
    loader = trainer.fit_loop._combined_loader
    assert loader is not None
    return loader.flattened


def set_up_loaders(trainer: Trainer) -> None:
    """Read the training loader, and count its batches, before Lightning does.

    With ``max_steps`` alone, Lightning would do so only after it has loaded a checkpoint.
    """
    trainer.fit_loop.setup_data()


def restore_loaders(trainer: Trainer) -> bool:
    """Give the loaders the state that a checkpoint has for them, and return whether there is one that they can take.

    Lightning does so when it sets up the loaders. Here that is before the checkpoint is loaded, because the schedule
    needs the number of steps. Some loaders read their state only in ``iter``.
    """
    loop: Any = trainer.fit_loop
    states = loop._combined_loader_states_to_load if loop.restarting else []
    takers = [each for each in train_loaders(trainer) if hasattr(each, "load_state_dict")]
    if not states or len(states) != len(takers):  # the run had another kind of loader before
        loop._combined_loader_states_to_load = []
        return False
    loop._load_combined_loader_states()
    iter(loop._data_fetcher)
    return True


def cluster_environment(trainer: Trainer) -> ClusterEnvironment:
    """Return what starts the processes of a run: SLURM, torchrun or Lightning itself."""
    return trainer._accelerator_connector.cluster_environment


def shards_loaders(trainer: Trainer) -> bool:
    """Return whether the Trainer splits the samples of a loader among the ranks."""
    return bool(trainer._accelerator_connector.use_distributed_sampler)


def batch_on_device(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    """Return a batch as the training step gets it."""
    batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def syncs_batchnorm(trainer: Trainer) -> bool:
    """Return whether ``sync_batchnorm`` is on."""
    return bool(getattr(trainer.strategy, "_layer_sync", None))


def ddp_options(strategy: DDPStrategy) -> dict[str, Any]:
    """Return the arguments that the strategy gives to DistributedDataParallel; they can be changed."""
    return strategy._ddp_kwargs


def copies_this_process(trainer: Trainer) -> bool:
    """Return whether the other ranks are copies of this process; otherwise they run the same command."""
    return getattr(trainer.strategy, "_start_method", "popen") != "popen"


def average_of(callback: WeightAveraging) -> AveragedModel | None:
    """Return the average that a callback keeps; None before it has begun."""
    return callback._average_model


def follows_device(callback: WeightAveraging) -> bool:
    """Return whether the average is to be on the device of the network, because the user has named none."""
    return not callback._device


def begin_averaging(callback: WeightAveraging) -> None:
    """Make a callback forget the steps and epochs of a run before, in which it would update nothing."""
    callback._latest_update_step, callback._latest_update_epoch = 0, -1  # as Lightning's class begins


def end_with_average(callback: WeightAveraging, module: LightningModule) -> None:
    """Set the module to the average that a callback keeps."""
    callback._copy_average_to_current(module)
