"""The schema of a checkpoint: everything that this package, Lightning and torch read from it.

The states of callbacks of other packages are not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from lightning_subnets.masking.method import is_plain
from lightning_subnets.training.schema import Count, Strict


def check(content: Mapping[Any, Any]) -> None:
    """Check the content of a checkpoint.

    Raises:
        ValidationError: if a value is missing, has another type, or is out of range.
    """
    _CHECKPOINT.model_validate(content)
    if "optimizer_states" in content:  # a checkpoint saved with save_weights_only has none
        _TRAINING.model_validate(content)
        for name, state in content["callbacks"].items():
            if name.partition("{")[0] in _CALLBACKS:
                _CALLBACKS[name.partition("{")[0]].model_validate(state)


class _Part(Strict):
    model_config = ConfigDict(arbitrary_types_allowed=True)


def _dict(fields: Mapping[str, Any], *, extra: Literal["ignore", "forbid"] = "ignore") -> type[BaseModel]:
    """Return the schema of a dict with these types of values; a pair is the type and default of an optional value."""
    kinds = {key: kind if isinstance(kind, tuple) else (kind, ...) for key, kind in fields.items()}
    base = type("Part", (_Part,), {"model_config": ConfigDict(arbitrary_types_allowed=True, extra=extra)})
    parts: dict[str, Any] = {
        f"value_{number}": (kind, Field(default, alias=key))
        for number, (key, (kind, default)) in enumerate(kinds.items())
    }
    return create_model("Part", __base__=base, **parts)


def _scalar(value: Tensor) -> Tensor:
    if value.shape:
        raise ValueError("it should be a single number")
    return value


def _bits(value: Tensor) -> Tensor:
    if value.dtype != torch.uint8 or value.dim() != 1:
        raise ValueError("it should be a vector of bytes")
    return value


def _is_no_method(state: dict[str, Any]) -> dict[str, Any]:
    for name in state:
        if callable(getattr(LambdaLR, name, None)):  # torch sets each one as an attribute
            raise ValueError(f"{name!r:.60} is a method")
    return state


def _plain(value: object) -> object:
    if not is_plain(value):
        raise ValueError("it should be a number, a text, or a list or dict of them")
    return value


PositiveCount = Annotated[int, Field(ge=1, lt=2**63)]
Scalar = Annotated[Tensor, AfterValidator(_scalar)]
Name = Annotated[str, Field(max_length=200)]
State = dict[str, Any]


# Lightning sets each item of a tracker as an attribute, so no others are allowed.
_TRACKER = _dict({"ready": Count, "completed": Count}, extra="forbid")
_STARTED = _dict({"ready": Count, "completed": Count, "started": Count}, extra="forbid")
_PROCESSED = _dict({"ready": Count, "completed": Count, "started": Count, "processed": Count}, extra="forbid")
_PROGRESS, _STARTED_PROGRESS, _PROCESSED_PROGRESS = (
    _dict({"total": tracker, "current": tracker}) for tracker in (_TRACKER, _STARTED, _PROCESSED)
)
_BATCH_PROGRESS = _dict({"total": _PROCESSED, "current": _PROCESSED, "is_last_batch": bool})
_OPTIMIZER_PROGRESS = _dict({"step": _PROGRESS, "zero_grad": _STARTED_PROGRESS})
_FIT_LOOP = _dict(
    {
        "state_dict": _dict({"combined_loader": (list[State], [])}),
        "epoch_loop.state_dict": _dict({"_batches_that_stepped": Count}),
        "epoch_loop.batch_progress": _BATCH_PROGRESS,
        "epoch_loop.scheduler_progress": _PROGRESS,
        "epoch_loop.automatic_optimization.optim_progress": _dict({"optimizer": _OPTIMIZER_PROGRESS}),
        "epoch_loop.manual_optimization.optim_step_progress": _PROGRESS,
        "epoch_loop.val_loop.batch_progress": _BATCH_PROGRESS,
        "epoch_progress": _PROCESSED_PROGRESS,
    }
)
_LOOPS = _dict(
    {
        "fit_loop": _FIT_LOOP,
        "validate_loop": _dict({"batch_progress": _BATCH_PROGRESS}),
        "test_loop": _dict({"batch_progress": _BATCH_PROGRESS}),
        "predict_loop": _dict({"batch_progress": _PROCESSED_PROGRESS}),
    }
)


class _Identity(_Part):
    model_config = ConfigDict(extra="allow")

    # The method's arguments, which the run compares with its own.
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_plain)]]
    network: Name
    method: Name
    weights: str | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    keep_dense: list[str] = Field(default=[])
    also_mask: list[str] = Field(default=[])
    densities: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default={})


_LAYOUT = _dict(
    {
        "ranks": PositiveCount,
        "batch_size": PositiveCount | None,
        "accumulate": PositiveCount,
        "batches": PositiveCount | None,
        "metrics": Tensor,
        "should_stop": bool,
        "data": (_dict({"classes": list[str], "num_train": Count, "held_out": str}), None),
    }
)
# If the version is below 2.0, Lightning renames the loops.
_VERSION = Field(pattern=r"^[2-9]\.[0-9]{1,4}\.[0-9]{1,4}((a|b|rc|\.post|\.dev)[0-9]{1,9})?$")
_CHECKPOINT = _dict(
    {
        "pytorch-lightning_version": Annotated[str, _VERSION],
        "epoch": Count,
        "global_step": Count,
        "state_dict": dict[str, Tensor],
        "loops": _LOOPS,
        "subnet": _Identity,
        "method_state": (dict[str, Annotated[Any, AfterValidator(_plain)]], {}),
        "optimizer": Name,
        "run": _LAYOUT,
        "weights_digest": (str, ""),
        "current_model_state": (dict[str, Tensor], {}),  # set if state_dict is an average
        "averaging_state": (_dict({"n_averaged": Scalar}, extra="forbid"), None),
    }
)

_OPTIMIZER = _dict({"state": dict[int, State], "param_groups": list[_dict({"params": list[Count]})]})  # type: ignore[misc]
_SCHEDULE = _dict(
    {
        "base_lrs": list[float],
        "last_epoch": Count,
        "_step_count": Count,
        "_last_lr": list[float],
        "lr_lambdas": list[None],
    }
)
_SCALER = _dict(
    {
        "scale": Annotated[float, Field(gt=0, allow_inf_nan=False)],
        "growth_factor": float,
        "backoff_factor": float,
        "growth_interval": PositiveCount,
        "_growth_tracker": Count,
    }
)
# The part that only a resumed run reads.
_TRAINING = _dict(
    {
        "callbacks": dict[str, State],
        "optimizer_states": Annotated[list[_OPTIMIZER], Field(min_length=1, max_length=1)],  # type: ignore[valid-type]
        "lr_schedulers": Annotated[
            list[Annotated[State, AfterValidator(_is_no_method), AfterValidator(_SCHEDULE.model_validate)]],
            Field(min_length=1, max_length=1),
        ],
        "MixedPrecision": (_SCALER | None, None),  # only with 16-mixed
    }
)


class _MaskStatistics(_Part):
    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, Annotated[Tensor, AfterValidator(_bits)]]


class _ModelCheckpoint(_Part):
    monitor: str | None
    best_model_score: Scalar | None
    best_model_path: str
    current_score: Scalar | None
    dirpath: str | None
    best_k_models: dict[str, Scalar]
    kth_best_model_path: str
    kth_value: Scalar
    last_model_path: str

    @model_validator(mode="after")
    def _check_paths(self) -> Self:
        if self.kth_best_model_path and self.kth_best_model_path not in self.best_k_models:
            raise ValueError("best_k_models does not contain kth_best_model_path")
        return self


_CALLBACKS: dict[str, type[BaseModel]] = {
    "MaskStatistics": _MaskStatistics,
    "LastCheckpoint": _dict({"seconds": Annotated[float, Field(ge=0, allow_inf_nan=False)]}),
    "BestCheckpoint": _ModelCheckpoint,
    "ModelCheckpoint": _ModelCheckpoint,
    "IterativePruning": _dict(
        {
            "pruned": Count,
            "kept": dict[str, Tensor],
            "steps_per_epoch": PositiveCount | None,
            "epochs_per_round": PositiveCount,
            "rewind_to": Count | None,
        }
    ),
}
