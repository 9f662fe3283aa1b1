"""The schema of a checkpoint: everything that this package, Lightning and torch read from one.

The states of other callbacks are not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Generic, Self, TypeVar

import torch
from pydantic import AfterValidator, ConfigDict, Field, model_validator
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from lightning_subnets.training.schema import Count, Strict


def check(content: Mapping[Any, Any]) -> None:
    """Check the content of a checkpoint.

    Raises:
        ValidationError: if a value is missing, has another type, or is out of range.
    """
    _Checkpoint.model_validate(content)
    if "optimizer_states" in content:  # save_weights_only leaves out what a run is resumed from
        _Training.model_validate(content)
        for name, state in content["callbacks"].items():
            if name.partition("{")[0] in _CALLBACKS:
                _CALLBACKS[name.partition("{")[0]].model_validate(state)


class _Part(Strict):
    model_config = ConfigDict(arbitrary_types_allowed=True)


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


def is_plain(value: object) -> bool:
    """Whether a checkpoint and a summary hold a value as it is: numbers, texts, and lists and dicts of them."""
    if type(value) in (list, tuple):
        return all(map(is_plain, value))  # type: ignore[call-overload]
    if type(value) is dict:
        return all(is_plain(each) for each in (*value, *value.values())) and tuple not in map(type, value)
    # Of no subclass, which a checkpoint would name and nobody would load. NaN is no value that can be compared.
    return type(value) in (str, int, float, bool, type(None)) and value == value


def _plain(value: object) -> object:
    if not is_plain(value):
        raise ValueError("it should be a number, a text, or a list or dict of them")
    return value


PositiveCount = Annotated[int, Field(ge=1, lt=2**63)]
Scalar = Annotated[Tensor, AfterValidator(_scalar)]
Name = Annotated[str, Field(max_length=200)]
State = dict[str, Any]


class _Tracker(_Part):
    model_config = ConfigDict(extra="forbid")  # Lightning sets each one as an attribute

    ready: Count
    completed: Count


class _Started(_Tracker):
    started: Count


class _Processed(_Started):
    processed: Count


_T = TypeVar("_T", bound=_Tracker)


class _Progress(_Part, Generic[_T]):
    total: _T
    current: _T


class _BatchProgress(_Progress[_Processed]):
    is_last_batch: bool


class _OptimizerProgress(_Part):
    step: _Progress[_Tracker]
    zero_grad: _Progress[_Started]


class _OptimizersProgress(_Part):
    optimizer: _OptimizerProgress


class _Loaders(_Part):
    combined_loader: list[State] = Field(default=[])


class _Stepped(_Part):
    batches: Count = Field(alias="_batches_that_stepped")


class _FitLoop(_Part):
    loaders: _Loaders = Field(alias="state_dict")
    stepped: _Stepped = Field(alias="epoch_loop.state_dict")
    batches: _BatchProgress = Field(alias="epoch_loop.batch_progress")
    schedules: _Progress[_Tracker] = Field(alias="epoch_loop.scheduler_progress")
    optimizers: _OptimizersProgress = Field(alias="epoch_loop.automatic_optimization.optim_progress")
    manual: _Progress[_Tracker] = Field(alias="epoch_loop.manual_optimization.optim_step_progress")
    validation: _BatchProgress = Field(alias="epoch_loop.val_loop.batch_progress")
    epoch_progress: _Progress[_Processed]


class _EvaluationLoop(_Part):
    batch_progress: _BatchProgress


class _PredictionLoop(_Part):
    batch_progress: _Progress[_Processed]


class _Loops(_Part):
    fit_loop: _FitLoop
    validate_loop: _EvaluationLoop
    test_loop: _EvaluationLoop
    predict_loop: _PredictionLoop


class _Identity(_Part):
    model_config = ConfigDict(extra="allow")

    # The method's arguments, which the run compares with its own.
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_plain)]]
    network: Name
    method: Name
    weights: str | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]


class _MakeUp(_Part):
    ranks: PositiveCount
    batch_size: PositiveCount | None
    accumulate: PositiveCount
    batches: PositiveCount | None
    metrics: Tensor
    should_stop: bool


class _Averaging(_Part):
    model_config = ConfigDict(extra="forbid")

    n_averaged: Scalar


class _Checkpoint(_Part):
    version: str = Field(  # if the version is below 2.0, Lightning renames the loops
        alias="pytorch-lightning_version",
        pattern=r"^[2-9]\.[0-9]{1,4}\.[0-9]{1,4}((a|b|rc|\.post|\.dev)[0-9]{1,9})?$",
    )
    epoch: Count
    global_step: Count
    state_dict: dict[str, Tensor]
    loops: _Loops
    subnet: _Identity
    optimizer: Name
    run: _MakeUp
    weights_digest: str = ""
    current_model_state: dict[str, Tensor] = Field(default={})  # the network in training, if state_dict is its average
    averaging_state: _Averaging = Field(default_factory=lambda: _Averaging(n_averaged=torch.zeros(())))


class _Group(_Part):
    params: list[Count]


class _OptimizerState(_Part):
    state: dict[int, State]
    param_groups: list[_Group]


class _Schedule(_Part):
    base_lrs: list[float]
    last_epoch: Count
    step_count: Count = Field(alias="_step_count")
    last_lr: list[float] = Field(alias="_last_lr")
    lr_lambdas: list[None]


class _Scaler(_Part):
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    growth_factor: float
    backoff_factor: float
    growth_interval: PositiveCount
    tracker: Count = Field(alias="_growth_tracker")


class _Training(_Part):
    """What a resumed run reads, and an evaluation does not."""

    callbacks: dict[str, State]
    optimizer_states: Annotated[list[_OptimizerState], Field(min_length=1, max_length=1)]
    lr_schedulers: Annotated[
        list[Annotated[State, AfterValidator(_is_no_method), AfterValidator(_Schedule.model_validate)]],
        Field(min_length=1, max_length=1),
    ]
    scaler: _Scaler | None = Field(alias="MixedPrecision", default=None)  # only with 16-mixed


class _MaskStatistics(_Part):
    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, Annotated[Tensor, AfterValidator(_bits)]]


class _LastCheckpoint(_Part):
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


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


class _IterativePruning(_Part):
    pruned: Count
    kept: dict[str, Tensor]
    steps_per_epoch: PositiveCount | None
    epochs_per_round: PositiveCount
    rewind_to: Count | None


_CALLBACKS: dict[str, type[_Part]] = {
    "MaskStatistics": _MaskStatistics,
    "LastCheckpoint": _LastCheckpoint,
    "ModelCheckpoint": _ModelCheckpoint,
    "IterativePruning": _IterativePruning,
}
