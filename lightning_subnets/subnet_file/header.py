"""The header of a ``.subnet`` file: JSON whose every value is checked against these dataclasses before it is used."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import reprlib
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking.initialization import DISTRIBUTIONS, draw_weights

Json = dict[str, Any]

VERSION = 1


@dataclass
class Layer:
    """The shape of a masked layer, the number of kept weights, and how mask and weights are encoded."""

    shape: list[int]
    kept: int
    code: str = ""  # see mask_codec
    weights: Literal["drawn", "signs", "values"] = "drawn"  # see weight_code, also for magnitude, gain and of
    stream: str = ""  # the layer's name when its weights were drawn
    magnitude: float | None = None
    gain: float | None = None
    of: Literal["weight", "sign"] = "weight"

    def __post_init__(self) -> None:
        # Check the number of sizes before multiplying them: the product of a million sizes takes minutes.
        possible = len(self.shape) in (2, 4) and all(0 < size < 2**31 for size in self.shape)
        if not possible or not 0 <= self.kept <= self.size:
            raise UserError(
                f"a layer of shape {reprlib.repr(self.shape)} cannot keep {reprlib.repr(self.kept)} weights"
            )
        if self.weights == "signs" and self.magnitude is None:
            raise UserError("a layer stores the signs of its weights without their magnitude")

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass
class Network:
    """The builder of the network, named as in a config, with plain values as arguments."""

    builder: str
    arguments: Json
    dtype: Literal["float32", "float16", "bfloat16", "float64"]


@dataclass
class Weights:
    """The arguments of ``initialization.draw_weights``; no distribution if the weights came with the network."""

    distribution: str | None
    seed: int
    density: float

    def __post_init__(self) -> None:
        if self.distribution is not None and self.distribution not in DISTRIBUTIONS:
            raise UserError(f"the weights' distribution {self.distribution!r:.60} is unknown")
        if not 0 < self.density <= 1:
            raise UserError(f"the weights were drawn for a density of {self.density}, outside (0, 1]")

    def draw(self, like: Tensor, stream: str) -> Tensor:
        assert self.distribution is not None
        drawn = draw_weights(self.distribution, like.shape, seed=self.seed, layer=stream, density=self.density)
        return drawn.to(like.dtype)


@dataclass
class Method:
    """The class of ``lightning_subnets.methods`` that found the subnetwork, and its arguments."""

    name: str
    arguments: Json


@dataclass
class Digests:
    """SHA-256 of the weights before masking (``digest.weights_digest``) and of the masks."""

    weights: str
    masks: str


@dataclass
class Header:
    """Everything in a file except its tensors; ``save_subnet`` explains the optional parts."""

    network: Network
    weights: Weights
    method: Method
    layers: dict[str, Layer]
    digests: Digests
    density: float  # the fraction of weights kept, over all masked layers
    classes: list[str] = field(default_factory=list)
    accuracy: dict[str, float] = field(default_factory=dict)
    preprocessing: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)  # of the packages that wrote the file

    @property
    def total(self) -> int:
        return sum(layer.size for layer in self.layers.values())

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of an image; None if the file states no plausible shape."""
        shape = self.preprocessing.get("input_shape")
        if not isinstance(shape, list) or not all(type(size) is int and 0 < size <= 2048 for size in shape):
            return None
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None

    def details(self) -> Json:
        """Return the optional parts of the header, as arguments of ``save_subnet``."""
        return {name: getattr(self, name) for name in ("classes", "accuracy", "preprocessing", "config")}

    def to_json(self, sha256: str) -> str:
        content = {"version": VERSION, "sha256": sha256, **dataclasses.asdict(self)}
        return json.dumps(content, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, content: Json) -> Header:
        version = content.pop("version", None)
        if version != VERSION:
            raise UserError(f"format version {version!r:.20} is unknown, expected {VERSION}: upgrade lightning-subnets")
        header: Header = _parse(cls, content, "header")
        if not header.layers:
            raise UserError("the header lists no layers")
        return header


def _parse(kind: Any, value: Any, place: str) -> Any:
    """Return a JSON value as an instance of the type ``kind``, checked at every depth; objects become dataclasses."""
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        types, required = _fields(kind)
        if missing := required - value.keys():
            raise UserError(f"{place} has no {min(missing)!r}")
        if unknown := value.keys() - types.keys():
            raise UserError(f"{place} has an unknown key {min(unknown)!r:.60}")
        return kind(**{key: _parse(types[key], each, f"{place}.{key}") for key, each in value.items()})
    if origin is dict and isinstance(value, dict):
        return {key: _parse(inner[1], each, f"{place}.{key!r:.60}") for key, each in value.items()}
    if origin is list and isinstance(value, list):
        return [_parse(inner[0], each, place) for each in value]
    if type(None) in inner:
        return None if value is None else _parse(inner[0], value, place)
    if kind is float:
        fits = type(value) in (int, float) and abs(value) < 1e308
    elif origin is Literal:
        fits = type(value) is str and value in inner
    else:
        fits = kind is Any or type(value) is kind
    if not fits:
        expected = " or ".join(map(repr, inner)) if origin is Literal else (origin or kind).__name__
        raise UserError(f"{place} is {reprlib.repr(value)}, expected {expected}")
    return float(value) if kind is float else value


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the types of a dataclass's fields, and the names of the required ones."""
    fields = dataclasses.fields(kind)
    return get_type_hints(kind), {each.name for each in fields if each.default is each.default_factory is MISSING}
