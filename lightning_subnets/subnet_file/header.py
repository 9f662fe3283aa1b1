"""The header of a ``.subnet`` file: JSON whose every value is checked against these dataclasses before it is used."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_subnets.errors import UserError, printable, unknown
from lightning_subnets.masking import Origin
from lightning_subnets.masking.initialization import DISTRIBUTIONS
from lightning_subnets.subnet_file.json_schema import parse

Json = dict[str, Any]

VERSION = 4

# Left out of the JSON where they have these values, as in most files.
_USUAL: Json = {"levels": None, "flipped": None, "frozen": None, "norms": "frozen", "tasks": []}


@dataclass
class Part:
    """A mask over some edges of a weight: how many it keeps, and its code, see ``mask_codec``."""

    kept: int
    code: str


@dataclass
class Frozen:
    """The edges that are not searched, see ``masking.frozen_edges``."""

    always: int
    never: int
    seed: int
    stream: str


@dataclass
class Layer:
    """The shape of a masked weight, how many of its numbers are kept, and how mask and weight are encoded."""

    shape: list[int]
    kept: int
    code: str = ""  # see mask_codec
    weights: Literal["drawn", "signs", "values"] = "drawn"  # see weight_code, also for magnitude, gain and of
    stream: str = ""  # of the draw of the weight, see initialization.stream_of
    density: float | None = None  # that the draw was scaled by, if it is not that of ``WeightsEntry``
    num_kept: int | None = None  # that the method keeps in training, if it does not follow from its density
    magnitude: float | None = None
    gain: float | None = None
    of: Literal["weight", "sign"] = "weight"
    levels: list[Part] | None = None  # of the multiplier, see multiplier_code; also for flipped and frozen
    flipped: Part | None = None
    frozen: Frozen | None = None

    def __post_init__(self) -> None:
        # Check the number of sizes before multiplying them: the product of a million sizes takes minutes.
        possible = 2 <= len(self.shape) <= 8 and all(0 < size < 2**31 for size in self.shape)
        if not possible or not 0 <= self.kept <= self.size:
            raise UserError(
                f"a weight of shape {reprlib.repr(self.shape)} cannot keep {reprlib.repr(self.kept)} numbers"
            )
        if (self.levels is None) != (self.flipped is None) or len(self.levels or ()) > 126:
            raise UserError("a multiplier of a weight has levels without signs, or more than 126 levels")
        if self.frozen and not (
            0 <= self.frozen.always <= self.kept and 0 <= self.frozen.never <= self.size - self.kept
        ):
            raise UserError(f"a weight of {self.size} numbers that keeps {self.kept} cannot freeze {self.frozen}")
        if self.density is not None and not 0 < self.density <= 1:
            raise UserError(f"a weight was drawn for a density of {self.density}, outside (0, 1]")
        if self.num_kept is not None and not 0 <= self.num_kept <= self.size:
            raise UserError(f"training cannot keep {reprlib.repr(self.num_kept)} numbers of {self.size}")
        if self.weights == "signs" and self.magnitude is None:
            raise UserError("a weight stores its signs without their magnitude")

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass
class NetworkEntry:
    """The builder of the network, named as in a config, with plain values as arguments."""

    builder: str
    arguments: Json
    dtype: Literal["float32", "float16", "bfloat16", "float64"]


@dataclass
class WeightsEntry:
    """The arguments of ``initialization.draw_weights``; no distribution if the weights came with the network."""

    distribution: str | None
    seed: int
    density: float

    def __post_init__(self) -> None:
        if self.distribution is not None and self.distribution not in DISTRIBUTIONS:
            raise UserError(f"the weights' distribution {self.distribution!r:.60} is unknown")
        if not 0 < self.density <= 1:
            raise UserError(f"the weights were drawn for a density of {self.density}, outside (0, 1]")

    def origin(self, stream: str, density: float | None = None) -> Origin:
        """Return the draw of a weight; the density is 1 for one that is not masked, and by default that of most."""
        if self.distribution is None:
            raise UserError(f"the weight of the stream {stream!r:.100} is drawn, but the file states no distribution")
        return Origin(self.distribution, self.seed, stream, self.density if density is None else density)


@dataclass
class MethodEntry:
    """The class of ``lightning_subnets.methods`` that found the subnetwork, and its arguments."""

    name: str
    arguments: Json


@dataclass
class Digests:
    """SHA-256 of the weights before masking (``digest.weights_digest``) and of the masks."""

    weights: str
    masks: str


@dataclass
class TaskLayer:
    """The fields of a ``Layer`` that each task has of its own."""

    kept: int
    code: str
    gain: float | None = None
    of: Literal["weight", "sign"] = "weight"
    levels: list[Part] | None = None
    flipped: Part | None = None


@dataclass
class Task:
    """A task of a file that has several, each with its masks over the same weights."""

    name: str
    masks: str  # SHA-256 of its masks
    layers: list[TaskLayer]  # in the order of the header's layers
    weights: str | None = None  # SHA-256 of the weights with this task's norms, if norms were trained
    accuracy: float | None = None
    preprocessing: Json = field(default_factory=dict)  # where it differs from the header's


@dataclass
class Header:
    """Everything in a file except its tensors; ``save_subnet`` explains the optional parts."""

    network: NetworkEntry
    weights: WeightsEntry
    method: MethodEntry
    layers: dict[str, Layer]  # the masked weights, by the full names of their parameters
    digests: Digests
    density: float  # the fraction of weights kept, over all masked weights
    norms: Literal["frozen", "trained"] = "frozen"
    dense: dict[str, str] = field(default_factory=dict)  # weights that are drawn and not masked, with their streams
    classes: list[str] = field(default_factory=list)
    accuracy: dict[str, float] = field(default_factory=dict)
    preprocessing: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)  # of the packages that wrote the file
    tasks: list[Task] = field(default_factory=list)  # then ``kept`` counts what some task keeps, and ``code`` is empty

    def __post_init__(self) -> None:
        _check_permutation(self.preprocessing, self.image_shape)

    @property
    def total(self) -> int:
        return sum(layer.size for layer in self.layers.values())

    @property
    def kept(self) -> int:
        return sum(layer.kept for layer in self.layers.values())

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of an image; None if the file states no plausible shape."""
        shape = self.preprocessing.get("input_shape")
        if not isinstance(shape, list) or len(shape) != 3:
            return None
        plausible = all(type(size) is int and 0 < size <= 2048 for size in shape) and math.prod(shape) <= 2**24
        return (shape[0], shape[1], shape[2]) if plausible else None

    def of_task(self, name: str | None) -> Header:
        """Return the header of a file that has this task alone; None returns this header if it has no tasks.

        Raises:
            ValueError: if the file has no such task, or has tasks and none is named.
        """
        names = [task.name for task in self.tasks]
        if name is None and not names:
            return self
        if not names:
            raise UserError(f"it has no tasks, and task {name!r:.60} is named: leave the task out")
        if name is None:
            some = ", ".join(f"{printable(each)!r:.60}" for each in names[:3])
            raise UserError(
                f"it has {len(names)} task{'s'[: len(names) > 1]}, {some}{', ...' if names[3:] else ''}: name one, "
                "load_subnet(path, task=...), or write a file of one with subnets export FILE one.subnet --task=..."
            )
        if name not in names:
            raise unknown("task", name, names)
        task = self.tasks[names.index(name)]
        layers = self._layers_of(task)
        return dataclasses.replace(
            self,
            layers=layers,
            digests=Digests(task.weights or self.digests.weights, task.masks),
            density=sum(layer.kept for layer in layers.values()) / self.total,
            accuracy={} if task.accuracy is None else {"test_accuracy": task.accuracy},
            preprocessing=self.preprocessing | task.preprocessing,
            tasks=[],
        )

    def _layers_of(self, task: Task) -> dict[str, Layer]:
        return {
            key: dataclasses.replace(layer, **vars(own))
            for (key, layer), own in zip(self.layers.items(), task.layers, strict=True)
        }

    def details(self) -> Json:
        """Return the optional parts of the header, as arguments of ``save_subnet``."""
        return {name: getattr(self, name) for name in ("classes", "accuracy", "preprocessing", "config")}

    def to_json(self, sha256: str) -> str:
        """Return the JSON that a file stores, without the values of ``_USUAL``."""
        content = {"version": VERSION, "sha256": sha256, **dataclasses.asdict(self)}
        for part in (content, *content["layers"].values()):
            for key in [key for key, usual in _USUAL.items() if key in part and part[key] == usual]:
                del part[key]
        for task in content.get("tasks", ()):
            if not task["preprocessing"]:
                del task["preprocessing"]
            task["layers"] = [{k: v for k, v in each.items() if v not in (None, "weight")} for each in task["layers"]]
        return json.dumps(content, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, content: Json) -> Header:
        """Return the header in a file's JSON, every value checked.

        Raises:
            ValueError: naming the first value that does not fit.
        """
        version = content.pop("version", None)
        if type(version) is int and version == 1:
            raise UserError("format version 1 is of a commit before the first release: export the run again")
        if type(version) is not int or not 2 <= version <= VERSION:
            raise UserError(
                f"format version {version!r:.20} is unknown, expected 2 to {VERSION}: upgrade lightning-subnets"
            )
        header: Header = parse(cls, content, "header")
        if not header.layers:
            raise UserError("the header lists no layers")
        names = {task.name for task in header.tasks}
        if "" in names or len(names) < len(header.tasks):
            raise UserError("a task has no name, or two tasks have the same one")
        for task in header.tasks:
            if len(task.layers) != len(header.layers):
                raise UserError(
                    f"the task {task.name!r:.60} has masks for {len(task.layers)} of {len(header.layers)} weights"
                )
            header._layers_of(task)  # checks the numbers kept
            # Checking the header's own permutation again for each task would take a time of tasks times pixels.
            _check_permutation(task.preprocessing, header.image_shape)
        return header


def _check_permutation(preprocessing: Json, shape: tuple[int, int, int] | None) -> None:
    if "permutation" not in preprocessing:
        return
    order = preprocessing["permutation"]
    plain = isinstance(order, list) and all(type(each) is int for each in order)
    if not plain or sorted(order) != list(range(len(order))) or (shape and len(order) != shape[1] * shape[2]):
        raise UserError(f"preprocessing.permutation is {reprlib.repr(order):.60}, expected each pixel once")
