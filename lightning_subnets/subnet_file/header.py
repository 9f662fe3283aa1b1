"""What a ``.subnet`` file says of its network, in JSON; every value from a file is looked at before it is used."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.masking.initialization import DISTRIBUTIONS, draw_weights

Json = dict[str, Any]

VERSION = 1


@dataclass
class Layer:
    """A masked layer: its shape, how many weights are kept, and how mask and weights are written down."""

    shape: list[int]
    kept: int
    code: str = ""  # of the mask, see ``mask_codec``
    weights: Literal["drawn", "signs", "values"] = "drawn"  # see ``weight_code``
    stream: str = ""  # the name by which its weights were drawn: the layer's, in the network that was masked
    magnitude: float | None = None
    gain: float | None = None
    of: Literal["weight", "sign"] = "weight"

    def __post_init__(self) -> None:
        # Of a Linear or a Conv2d; that first, for the product of a million sizes takes minutes.
        of_a_layer = len(self.shape) in (2, 4) and all(0 < size < 2**31 for size in self.shape)
        if not of_a_layer or not 0 <= self.kept <= self.size:
            raise UserError(
                f"a layer of shape {reprlib.repr(self.shape)} cannot keep {reprlib.repr(self.kept)} weights"
            )
        if self.weights == "signs" and self.magnitude is None:
            raise UserError("a layer's weights are signs without a magnitude")

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass
class Network:
    """How the network is built: a name as in a config, and plain values for its arguments."""

    builder: str
    arguments: Json
    dtype: Literal["float32", "float16", "bfloat16", "float64"]


@dataclass
class Weights:
    """What the weights were drawn from, see ``initialization.draw_weights``; null where they came with the network."""

    distribution: str | None
    seed: int
    density: float

    def __post_init__(self) -> None:
        if self.distribution is not None and self.distribution not in DISTRIBUTIONS:
            raise UserError(f"its weights are of the distribution {self.distribution!r:.60}, which is unknown")
        if not 0 < self.density <= 1:
            raise UserError(f"its weights are drawn for a density of {self.density}, outside (0, 1]")

    def draw(self, like: Tensor, stream: str) -> Tensor:
        """The weights of a layer, of the shape and the precision of ``like``."""
        assert self.distribution is not None
        drawn = draw_weights(self.distribution, like.shape, seed=self.seed, layer=stream, density=self.density)
        return drawn.to(like.dtype)


@dataclass
class Method:
    """What found the subnetwork: a class of ``lightning_subnets.methods``, and its arguments."""

    name: str
    arguments: Json


@dataclass
class Digests:
    """SHA-256 of the weights before the mask, see ``digest.weights_digest``, and of the masks."""

    weights: str
    masks: str


@dataclass
class Header:
    """All that is in a file beside masks, weights and norms.

    Attributes:
        density: the fraction of weights kept, of all masked layers together.
        classes: their names, in the order of the outputs.
        accuracy: fractions by name, ``test_accuracy``.
        preprocessing: of images: ``input_shape``, and ``mean`` and ``std`` by channel of values in [0, 1].
        config: of the run.
        versions: of what wrote the file.
    """

    network: Network
    weights: Weights
    method: Method
    layers: dict[str, Layer]
    digests: Digests
    density: float
    classes: list[str] = field(default_factory=list)
    accuracy: dict[str, float] = field(default_factory=dict)
    preprocessing: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(layer.size for layer in self.layers.values())

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of an image, where the file names ones that can be."""
        shape = self.preprocessing.get("input_shape")
        if not isinstance(shape, list) or not all(type(size) is int and 0 < size <= 2048 for size in shape):
            return None
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None

    def details(self) -> Json:
        """What is said of the network beside how it is made, as arguments of ``save_subnet``."""
        return {name: getattr(self, name) for name in ("classes", "accuracy", "preprocessing", "config")}

    def to_json(self, sha256: str) -> str:
        content = {"version": VERSION, "sha256": sha256, **dataclasses.asdict(self)}
        return json.dumps(content, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, content: Json) -> Header:
        """Raises:
        ValueError: if it is of another version of the format, or is no header.
        """
        version = content.pop("version", None)
        if version != VERSION:
            raise UserError(
                f"it is of version {version!r:.20} of the format, and this lightning-subnets reads {VERSION}: "
                "install a newer one"
            )
        header: Header = _checked(cls, content, "header")
        if not header.layers:
            raise UserError("it has no layers")
        return header


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _checked(kind: Any, value: Any, place: str) -> Any:
    """The value, if it is of this type all the way down; dictionaries become the dataclasses they stand for.

    Raises:
        ValueError: naming the first place where it is not.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        hints = _hints(cast(Any, kind))
        wanted = {each.name for each in dataclasses.fields(kind)}
        needed = {
            each.name
            for each in dataclasses.fields(kind)
            if each.default is each.default_factory is dataclasses.MISSING
        }
        if missing := needed - value.keys():
            raise UserError(f"its {place} has no {min(missing)}")
        if unknown := value.keys() - wanted:
            raise UserError(f"its {place} has {min(unknown)!r:.60}, which means nothing here")
        build = cast(Callable[..., Any], kind)
        return build(**{key: _checked(hints[key], each, f"{place}.{key}") for key, each in value.items()})
    if origin is Literal:
        fits = isinstance(value, str) and value in inner
    elif origin is dict and isinstance(value, dict):
        return {key: _checked(inner[1], each, f"{place}.{key!r:.60}") for key, each in value.items()}
    elif origin is list and isinstance(value, list):
        return [_checked(inner[0], each, place) for each in value]
    elif inner and type(None) in inner:
        return None if value is None else _checked(inner[0], value, place)
    elif kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308
    elif kind is Any:
        fits = True
    else:
        fits = type(value) is kind
    if not fits:
        name = " or ".join(map(repr, inner)) if origin is Literal else getattr(origin or kind, "__name__", kind)
        raise UserError(f"its {place} is {reprlib.repr(value)} and should be of type {name}")
    return float(value) if kind is float else value
