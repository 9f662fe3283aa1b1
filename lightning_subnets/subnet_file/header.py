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

VERSION = 3

# What version 3 added. A file without these parts is of version 2, so that older releases read it.
_SINCE_3 = {"levels": None, "flipped": None, "frozen": None, "norms": "frozen"}


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
    density: float | None = None  # that the draw was scaled by, if it is not that of ``Weights``
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

    def draw(self, like: Tensor, stream: str, density: float | None = None) -> Tensor:
        """Draw a weight on the CPU; the density is 1 for a weight that is not masked, and by default that of most."""
        assert self.distribution is not None
        density = self.density if density is None else density
        drawn = draw_weights(self.distribution, like.shape, seed=self.seed, stream=stream, density=density)
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

    # Whether the file is of version 1, which names layers, not weights. Without annotation, so it is not in the JSON.
    names_layers = False

    def stored_name(self, name: str) -> str:
        """Return the name of a weight in the file's tensors and in the digest of its masks."""
        return name.removesuffix("weight").removesuffix(".") if self.names_layers else name

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
        content = {"version": 2, "sha256": sha256, **dataclasses.asdict(self)}
        for part in (content, *content["layers"].values()):
            for key, default in _SINCE_3.items():
                if key in part and part[key] == default:
                    del part[key]
                elif key in part:
                    content["version"] = VERSION
        return json.dumps(content, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, content: Json) -> Header:
        version = content.pop("version", None)
        if type(version) is not int or version not in (1, 2, VERSION):
            raise UserError(
                f"format version {version!r:.20} is unknown, expected 1 to {VERSION}: upgrade lightning-subnets"
            )
        if version == 1 and isinstance(layers := content.get("layers"), dict):
            content["layers"] = {f"{name}.weight" if name else "weight": each for name, each in layers.items()}
        header: Header = _parse(cls, content, "header")
        header.names_layers = version == 1
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
    if kind is str and isinstance(value, str) and not _is_text(value):
        raise UserError(f"{place} is no text, because it has half of a surrogate pair: {value!r:.60}")
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


def _is_text(value: str) -> bool:
    """Return whether a string can be encoded; in JSON, half of a surrogate pair is a character too."""
    return not any(0xD800 <= ord(each) < 0xE000 for each in value)


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the types of a dataclass's fields, and the names of the required ones."""
    fields = dataclasses.fields(kind)
    return get_type_hints(kind), {each.name for each in fields if each.default is each.default_factory is MISSING}
