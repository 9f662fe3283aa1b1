"""Checkpoints: written, read without running code from them, and checked against a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_subnets.atomic_file import replacing
from lightning_subnets.errors import UserError
from lightning_subnets.masking import digest
from lightning_subnets.masking.masked_weight import check_shapes
from lightning_subnets.subnet_file import hub
from lightning_subnets.training import checkpoint_schema, identity, torch_file
from lightning_subnets.training.masked_module import MaskedModule
from lightning_subnets.training.schema import first_mistake

# The keys of every checkpoint of this package; "optimizer" names the optimizer's class.
_KEYS = {"subnet", "optimizer", "run", "state_dict", "loops", "pytorch-lightning_version"}
# Without these a run cannot resume; from those in parts, single items may be left out.
_NEEDED = {"state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "loops"}
_IN_PARTS = {"callbacks", *(each.CHECKPOINT_HYPER_PARAMS_KEY for each in (LightningModule, LightningDataModule))}


def read(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint, after checking its checksums and its schema.

    Returns: Lightning's dict, and in it ``subnet``, the arguments that a resumed run must share; ``optimizer``, the
        name of its class; ``run``, see ``resuming.state``; if weights follow from the seed, ``weights_digest``, their
        SHA-256, because ``state_dict`` leaves them out; and ``method_state``, if training has changed arguments of a
        user's method.

    Raises:
        ValueError: if the file is missing, truncated, damaged or not a checkpoint of this package, or holds more than
            tensors and plain values.
    """
    if str(path).startswith(hub.SCHEME):
        raise UserError(f"{path} does not end in .subnet: only .subnet files are loaded from a hub")
    if not Path(path).is_file():
        raise UserError(f"the checkpoint {path} does not exist")
    try:
        with Path(path).open("rb") as file:
            content = torch_file.read(file)
    except torch_file.ForeignError as error:
        raise UserError(
            f"the checkpoint {path} cannot be read: it holds more than tensors and plain values ({error})"
        ) from error
    except Exception as error:  # torch raises half a dozen types for damaged files
        raise UserError(
            f"the checkpoint {path} cannot be read: it is truncated, damaged or not a checkpoint; name another one"
        ) from error
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        raise UserError(
            f"{path} is not a checkpoint of lightning-subnets: use subnets import for files of other programs"
        )
    try:
        checkpoint_schema.check(content)
    except ValidationError as error:
        raise UserError(
            f"the checkpoint {path} is damaged or of another version: {first_mistake(error)}; name another one"
        ) from error
    return content


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint completely or not at all, and reads it by ``read``.

    If a write fails, on a full disk for instance, the old file stays and a warning says so; the run continues.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.serialization.set_crc32_options(True)  # checksums detect damage when the file is read
            with replacing(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError for an OSError
            kept = "the old one is kept" if path.exists() else "there is no older one"
            rank_zero_warn(f"the checkpoint {path} could not be written ({error}): {kept}, and the run continues")

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return read(path)


def leave_out_frozen_weights_(checkpoint: dict[str, Any], module: MaskedModule) -> None:
    """Replace the weights that the seed gives by their digest in a checkpoint.

    Weights that came with the network, instead of from the seed, stay.
    """
    frozen = _frozen(module)
    if frozen:
        checkpoint["weights_digest"] = _digest(module)
        for name in _states(checkpoint):
            checkpoint[name] = {k: v for k, v in checkpoint[name].items() if k not in frozen}


def make_readable_(checkpoint: dict[str, Any]) -> None:
    """Give a checkpoint, before it is written, only values that ``torch_file.read`` accepts.

    Hyperparameters, the states of callbacks and what else a run can do without are left out with a warning.

    Raises:
        ValueError: if a value that a run cannot do without, such as the optimizer's state, would be refused.
    """
    needed = _NEEDED & checkpoint.keys()
    for key in _IN_PARTS & checkpoint.keys():
        _leave_out_foreign_(checkpoint[key], f"{key}: ")
    _leave_out_foreign_(checkpoint, "")
    if lost := needed - checkpoint.keys():
        raise UserError(f"no run can resume from a checkpoint without its {min(lost)}: see the warning above")


def _leave_out_foreign_(content: dict[str, Any], where: str) -> None:
    for name, value in [*content.items()]:
        try:
            content[name] = torch_file.readable(value, name)
        except torch_file.ForeignError as error:
            del content[name]
            rank_zero_warn(
                f"the checkpoints leave out {where}{error}; they hold tensors, numbers, texts, and lists and dicts of "
                "them"
            )


def validate_and_complete_(checkpoint: dict[str, Any], module: MaskedModule, *, to_train: bool) -> None:
    """Check that a checkpoint is of this module, give the method its state, and add the weights that it omits.

    Args:
        checkpoint: see ``read``.
        module: of the run.
        to_train: resume with the optimizer of the checkpoint too.

    Raises:
        ValueError: if network, method, density, weights, seed, optimizer, a shape or the frozen weights differ. The
            message names what differs.
    """
    identity.check(checkpoint["subnet"], module.identity)
    own, theirs = module.state_dict(), checkpoint["state_dict"]
    left_out = {key: own.pop(key) for key in _frozen(module) - theirs.keys()}
    for name in _states(checkpoint):
        _check_state(checkpoint[name], own)
    digest_there = checkpoint.get("weights_digest", "none")
    if left_out and digest_there != (drawn := _digest(module)):
        raise UserError(
            f"the weights drawn here (sha256 {drawn[:16]}...) are not those of the checkpoint (sha256 "
            f"{digest_there[:16]}...): build the network as the run did, or use the version of lightning-subnets that "
            "drew its weights"
        )
    if to_train:
        _prepare_to_train_(checkpoint, module)
    for name in _states(checkpoint):
        checkpoint[name] = checkpoint[name] | left_out
    identity.restore_(module.method, module.identity, checkpoint.get("method_state", {}))


def in_float64(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint is of a run with ``--trainer.precision=64-true``."""
    return any(value.dtype == torch.float64 for value in checkpoint["state_dict"].values())


def whole_epochs(checkpoint: Mapping[str, Any]) -> int:
    """Return the number of complete epochs; Lightning also counts an epoch that ``max_steps`` cut short."""
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
    cut_short = 0 < epochs["ready"] == epochs["processed"] and not batches["is_last_batch"]
    done: int = epochs["processed"] - cut_short
    return done


def check_unfinished(path: Path | str, checkpoint: Mapping[str, Any], max_epochs: int | None, max_steps: int) -> None:
    """Check that a new run that begins from a checkpoint has something left to train.

    Raises:
        ValueError: if all epochs or all steps are done.
    """
    for name, limit, done in (
        ("epochs", max_epochs or -1, whole_epochs(checkpoint)),
        ("steps", max_steps, checkpoint["global_step"]),
    ):
        if 0 < limit <= done:
            raise UserError(f"{path} has finished all {done} {name}: raise --trainer.max_{name} to train more")


def check_limits(path: Path, checkpoint: Mapping[str, Any], max_epochs: int | None, max_steps: int) -> None:
    """Check that a resumed run is not beyond its end. It may be at its end, to be tested.

    Raises:
        ValueError: if the run is beyond ``max_epochs`` or ``max_steps``.
    """
    epochs, steps = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"], checkpoint["global_step"]
    for name, limit, beyond in (
        ("max_epochs", max_epochs or -1, max(epochs["ready"], epochs["processed"])),
        ("max_steps", max_steps, steps),
    ):
        if 0 <= limit < beyond:
            raise UserError(
                f"{path} is at step {steps}, in epoch {epochs['ready']}, and --trainer.{name}={limit} is before that: "
                "raise the limit, or begin another run"
            )


def _states(checkpoint: Mapping[str, Any]) -> set[str]:
    """Return the keys of the network's states in a checkpoint: one, or two in a run with an average."""
    return {"state_dict", "current_model_state"} & checkpoint.keys()


def _check_state(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    check_shapes(theirs, ours, "the checkpoint is")
    for key, value in theirs.items():
        if value.dtype != ours[key].dtype:
            raise UserError(
                f"the checkpoint has {key} in {value.dtype} and this run has it in {ours[key].dtype}: take the "
                "--trainer.precision of the config.yaml beside the checkpoint"
            )


def _frozen(module: MaskedModule) -> set[str]:
    """Return the state dict keys of the weights that are a function of the seed: none outside of the network."""
    if module.identity["weights"] is None or module.method.rerandomizes:
        return set()
    return {f"network.{name}" for name in digest.weights(module.network, frozen=True)}


def _digest(module: MaskedModule) -> str:
    """Return the digest of the frozen weights; it is cached, because it takes a second for a wide network."""
    state = tuple((p.data_ptr(), p._version) for p in module.network.parameters() if not p.requires_grad)
    if module.known_digest is None or module.known_digest[0] != state:
        module.known_digest = state, digest.weights_digest(module.network, frozen=True)
    return module.known_digest[1]


def _prepare_to_train_(checkpoint: Mapping[str, Any], module: MaskedModule) -> None:
    """Check that the module's optimizer can load the state of a checkpoint, and give the state this run's options."""
    if "optimizer_states" not in checkpoint:
        raise UserError(
            "the checkpoint has no optimizer state to resume with: take one that was saved without save_weights_only"
        )
    optimizer, theirs = module.build_optimizer(), checkpoint["optimizer_states"][0]
    if checkpoint["optimizer"] != (name := type(optimizer).__name__):
        raise UserError(
            f"the checkpoint is of a run with {checkpoint['optimizer']} and this run has {name}: use the config.yaml "
            "beside the checkpoint"
        )
    own = {index: _shapes_and_types(state) for index, state in _after_a_step(module).items()}
    for index, state in theirs["state"].items():
        fits = index in own and _shapes_and_types(state).items() >= own[index].items()
        if own and state and not fits:
            raise UserError(
                f"the checkpoint is damaged: its state of {name} does not fit parameter {index} of this network"
            )
    schedule = LambdaLR(optimizer, lambda step: 1.0)
    options = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in theirs["param_groups"]] != [group["params"] for group in options]:
        raise UserError(f"the checkpoint is damaged: its {name} has different parameters from this network")
    theirs["param_groups"] = options  # this run's config sets the options
    try:
        optimizer.load_state_dict(theirs)
        schedule.load_state_dict(checkpoint["lr_schedulers"][0])
    except Exception as error:  # from the optimizer's code
        raise UserError(f"the checkpoint is damaged: {name} cannot load its state ({error!r:.200})") from error


def _after_a_step(module: MaskedModule) -> dict[int, Any]:
    """Return the optimizer's state after a step on meta tensors; empty if the optimizer does not support them."""
    trained = (parameter for parameter in module.parameters() if parameter.requires_grad)
    parameters = [nn.Parameter(parameter.detach().to("meta")) for parameter in trained]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer = module.optimizer(iter(parameters))
        optimizer.step()
    except Exception:  # a fused optimizer, for instance, has no kernels for meta tensors
        return {}
    state: dict[int, Any] = optimizer.state_dict()["state"]
    return state


def _shapes_and_types(state: Mapping[str, Any]) -> dict[str, object]:
    return {
        key: (value.shape, value.is_floating_point()) if isinstance(value, Tensor) else type(value)
        for key, value in state.items()
    }
