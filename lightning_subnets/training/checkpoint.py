"""Checkpoints: what they hold and what is left out of them, and whether one is of this run."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_subnets.errors import UserError
from lightning_subnets.masking import digest
from lightning_subnets.training import checkpoint_schema, torch_file
from lightning_subnets.training.masked_module import MaskedModule
from lightning_subnets.training.schema import first_mistake

# What every checkpoint of ours has; "optimizer" names the optimizer's class.
_KEYS = {"subnet", "optimizer", "run", "state_dict", "loops", "pytorch-lightning_version"}


def read(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint, after checking its checksums and its schema.

    Raises:
        ValueError: if the file is missing, truncated, damaged or no checkpoint of ours, or holds more than tensors and
            plain values.
    """
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
            f"the checkpoint {path} cannot be read: it is truncated, damaged or not a checkpoint"
        ) from error
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        raise UserError(f"{path} is not a checkpoint of lightning-subnets; subnets import reads other files")
    try:
        checkpoint_schema.check(content)
    except ValidationError as error:
        raise UserError(f"the checkpoint {path} is damaged or of another version: {first_mistake(error)}") from error
    return content


def leave_out_frozen_weights_(checkpoint: dict[str, Any], module: MaskedModule) -> None:
    """Take what the seed gives out of a checkpoint, and put in the digest it is known by.

    Weights that were not drawn from the seed, but came with the network, stay.
    """
    frozen = _frozen(module)
    if frozen:
        checkpoint["weights_digest"] = _digest(module)
        for name in _states(checkpoint):
            checkpoint[name] = {k: v for k, v in checkpoint[name].items() if k not in frozen}


def validate_and_complete_(checkpoint: dict[str, Any], module: MaskedModule, *, to_train: bool) -> None:
    """Check that a checkpoint is of this module, and put the frozen weights in that were left out of it.

    Args:
        to_train: go on with its optimizer too.

    Raises:
        ValueError: naming what differs: network, method, density, weights, seed, optimizer, a shape, or the frozen
            weights themselves.
    """
    _check_identity(checkpoint["subnet"], module.identity)
    own, theirs = module.state_dict(), checkpoint["state_dict"]
    left_out = {key: own.pop(key) for key in _frozen(module) - theirs.keys()}
    for name in _states(checkpoint):
        _check_state(checkpoint[name], own)
    digest_there = checkpoint.get("weights_digest", "none")
    if left_out and digest_there != (drawn := _digest(module)):
        raise UserError(
            f"the weights drawn here (sha256 {drawn[:16]}...) are not those of the checkpoint (sha256 "
            f"{digest_there[:16]}...): its network was built in another way, or its weights were drawn "
            "by another version of lightning-subnets"
        )
    if to_train:
        _make_fit_to_train_(checkpoint, module)
    for name in _states(checkpoint):
        checkpoint[name] = checkpoint[name] | left_out


def in_float64(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether the network of a checkpoint was trained in float64, with ``--trainer.precision=64-true``."""
    return any(value.dtype == torch.float64 for value in checkpoint["state_dict"].values())


def whole_epochs(checkpoint: Mapping[str, Any]) -> int:
    """Return how many epochs are complete; Lightning also counts one that ``max_steps`` cut short."""
    loops = checkpoint["loops"]["fit_loop"]
    epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
    cut_short = 0 < epochs["ready"] == epochs["processed"] and not batches["is_last_batch"]
    done: int = epochs["processed"] - cut_short
    return done


def check_unfinished(path: Path | str, checkpoint: Mapping[str, Any], max_epochs: int | None, max_steps: int) -> None:
    """Check that something is left to train when another run begins from a checkpoint.

    Raises:
        ValueError: if all epochs or all steps are done.
    """
    for name, limit, done in (
        ("epochs", max_epochs or -1, whole_epochs(checkpoint)),
        ("steps", max_steps, checkpoint["global_step"]),
    ):
        if 0 < limit <= done:
            raise UserError(f"{path} has all of its {done} {name}: raise --trainer.max_{name} to train more")


def check_limits(path: Path, checkpoint: Mapping[str, Any], max_epochs: int | None, max_steps: int) -> None:
    """Check that a run that is to go on ends where it has not been yet; at its end it may be, to be tested.

    Raises:
        ValueError: if it is beyond its end.
    """
    epochs, steps = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"], checkpoint["global_step"]
    for name, limit, beyond in (
        ("max_epochs", max_epochs or -1, max(epochs["ready"], epochs["processed"])),
        ("max_steps", max_steps, steps),
    ):
        if 0 <= limit < beyond:
            raise UserError(
                f"{path} is at step {steps}, in epoch {epochs['ready']}, and --trainer.{name}={limit} is before that: "
                "raise it, or begin another run"
            )


def _states(checkpoint: Mapping[str, Any]) -> set[str]:
    """Return the keys of the network's states in a checkpoint; with an average, the trained network has its own."""
    return {"state_dict", "current_model_state"} & checkpoint.keys()


def _check_state(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    check_shapes(theirs, ours)
    for key, value in theirs.items():
        if value.dtype != ours[key].dtype:
            raise UserError(
                f"the checkpoint has {key} in {value.dtype} and this run has it in {ours[key].dtype}: take the "
                "--trainer.precision of the config.yaml beside the checkpoint"
            )


def _frozen(module: MaskedModule) -> set[str]:
    """The names of what is a function of the seed, as in the module's state dict."""
    if module.identity["weights"] is None or module.method.rerandomizes:
        return set()
    return {*digest.weights(module, frozen=True)}


def _digest(module: MaskedModule) -> str:
    """The digest of the frozen weights, which takes a second for a wide network: made once for as long as they stay."""
    state = tuple((p.data_ptr(), p._version) for p in module.parameters() if not p.requires_grad)
    if module.known_digest is None or module.known_digest[0] != state:
        module.known_digest = state, digest.weights_digest(module.network, frozen=True)
    return module.known_digest[1]


def _make_fit_to_train_(checkpoint: Mapping[str, Any], module: MaskedModule) -> None:
    """Check that the module's optimizer can load the state in a checkpoint, and give that state this run's options."""
    if "optimizer_states" not in checkpoint:
        raise UserError(
            "the checkpoint has no state of an optimizer to resume with: take one saved without save_weights_only"
        )
    optimizer, theirs = module.build_optimizer(), checkpoint["optimizer_states"][0]
    if checkpoint["optimizer"] != (name := type(optimizer).__name__):
        raise UserError(f"the checkpoint is of a run by {checkpoint['optimizer']} and this run is by {name}")
    own = _after_a_step(module)
    for index, state in theirs["state"].items():
        if own and state and (index not in own or not _forms(state).items() >= _forms(own[index]).items()):
            raise UserError(
                f"the checkpoint is damaged: its state of {name} does not fit parameter {index} of this network"
            )
    schedule = LambdaLR(optimizer, lambda step: 1.0)
    options = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in theirs["param_groups"]] != [group["params"] for group in options]:
        raise UserError(f"the checkpoint is damaged: its {name} has different parameters from this network")
    theirs["param_groups"] = options  # the options of this run's config count
    try:
        optimizer.load_state_dict(theirs)
        schedule.load_state_dict(checkpoint["lr_schedulers"][0])
    except Exception as error:  # whatever the optimizer's own code raises
        raise UserError(f"the checkpoint is damaged: {name} cannot load its state ({error!r:.200})") from error


def _after_a_step(module: MaskedModule) -> dict[int, Any]:
    """Return the state of the module's optimizer after a step, as meta tensors; empty if the step needs values."""
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


def _forms(state: Mapping[str, Any]) -> dict[str, object]:
    return {
        key: (value.shape, value.is_floating_point()) if isinstance(value, Tensor) else type(value)
        for key, value in state.items()
    }


def _check_identity(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    for key in dict.fromkeys((*ours, *theirs)):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"the checkpoint has {key} = {reprlib.repr(theirs.get(key))} and this run has {key} = "
                f"{ours.get(key)!r}: run it with the config.yaml beside its checkpoints"
            )


def check_shapes(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Check that the state of a checkpoint has the names and shapes of ours.

    Raises:
        ValueError: naming the first that differs.
    """
    for key in dict.fromkeys((*ours, *theirs)):
        here, there = (tuple(state[key].shape) if key in state else "none" for state in (ours, theirs))
        if here != there:
            raise UserError(f"the checkpoint is of another network: {key} has shape {there} there and {here} here")
