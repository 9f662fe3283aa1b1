"""How a network is built: by a name that a file may hold, and by no other."""

from __future__ import annotations

import difflib
import inspect
import reprlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_subnets import networks
from lightning_subnets.errors import UserError
from lightning_subnets.masking import MaskedLayer
from lightning_subnets.masking.maskable import MASKABLE
from lightning_subnets.subnet_file.header import Json

Builder = Callable[..., nn.Module]

# By these a builder would fetch weights from elsewhere.
_FETCHING = {"weights", "weights_backbone", "checkpoint_path", "cache_dir", "progress"}

_LARGEST = 100_000  # of a number, and of those in a list together: a builder adds up its depths


def builder(name: str) -> Builder | None:
    """The function or class of torchvision.models, timm or this package that has this name, as in a config.

    Returns: None for a name of another package.
    Raises:
        ValueError: if one of the three has no such builder.
    """
    package, last = name.partition(".")[0], name.rpartition(".")[2]
    if package == "torchvision":
        public, known = "torchvision.models", torchvision.models.list_models(module=torchvision.models)
        find: Callable[[str], Builder] = torchvision.models.get_model_builder
    elif package == "timm":
        try:
            import timm
        except ImportError as error:
            raise UserError(f"{name!r:.100} is built by timm, which is not installed: pip install timm") from error
        public, known, find = "timm.models", timm.list_models(), timm.model_entrypoint
    elif package == "lightning_subnets":
        public, known, find = "lightning_subnets.networks", networks.__all__, partial(getattr, networks)
    else:
        return None
    # Where it is defined is as good as where it is to be found.
    if last not in known or name not in (f"{public}.{last}", f"{inspect.unwrap(find(last)).__module__}.{last}"):
        nearest = difflib.get_close_matches(last, known, n=1)
        hint = f": did you mean {public}.{nearest[0]}?" if nearest else ""
        raise UserError(f"{public} has no network {name!r:.100}{hint}")
    return find(last)


def fetches(argument: str) -> bool:
    """Whether a builder would fetch weights from elsewhere by this argument."""
    return argument in _FETCHING or argument.startswith("pretrained")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Check that nothing would be fetched, and nothing of an absurd size made.

    Raises:
        ValueError: naming the argument.
    """
    for key, value in arguments.items():
        if fetches(key):
            raise UserError(
                f"its network is built with {key!r:.60}, which would fetch weights: those of the file are enough"
            )
        values = value if isinstance(value, list) else [value]
        sizes = [abs(each) for each in values if isinstance(each, int | float)]
        plain = all(each is None or isinstance(each, str | int | float) for each in values)
        moderate = len(values) <= 1000 and all(size <= _LARGEST for size in sizes) and sum(sizes) <= _LARGEST
        if not plain or not moderate:
            raise UserError(
                f"its network is built with {key!r:.60} = {reprlib.repr(value)}, which is no plain and moderate value"
            )


def build(name: str, arguments: Mapping[str, Any], *, at_most: int | None = None) -> nn.Module:
    """The network that a builder gives, on the CPU, with weights that are nothing in particular.

    Args:
        at_most: numbers that it may consist of; it is given up before more are allocated. None for arguments that are
            one's own: to look takes longer than to build.

    Raises:
        ValueError: if there is no such builder, it does not take the arguments, or its network is larger.
    """
    check_arguments(arguments)
    build_it = builder(name)
    if build_it is None:
        raise UserError(
            f"{name!r:.100} is no network of torchvision.models, timm or lightning_subnets.networks, which alone are "
            "built by name: build it and hand it in, in Python load_subnet(path, network=...)"
        )
    try:
        with (
            torch.device("cpu"),
            torch.random.fork_rng(devices=[]),
            _NotDrawing(),
            nullcontext() if at_most is None else _Allocating(at_most),
            _few_modules(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of first weights that are drawn in another way, of names that are old
            network = build_it(**arguments)
        if at_most is not None and numbers(network) > at_most:
            raise _TooLargeError
        return network
    except UserError:
        raise
    except _TooLargeError as error:
        raise UserError(f"its network is larger than the file can be of, more than {at_most:,} numbers") from error
    except Exception as error:  # a builder may raise anything for arguments that it does not like
        reason = " ".join(str(error).split())
        raise UserError(f"{name}({dict(arguments)!r:.200}) cannot be built: {reason!r:.200}") from error


class _NotDrawing(TorchFunctionMode):
    """Has a builder draw no parameters, which takes longer than all the rest."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if function in (Tensor.normal_, Tensor.uniform_):
            # ``trunc_normal_`` draws again, beside the parameter, for as long as a number is out of its bounds.
            return args[0] if isinstance(args[0], nn.Parameter) else args[0].zero_()
        return function(*args, **(kwargs or {}))


class _Allocating(TorchDispatchMode):
    """Lets a builder hold so many numbers at a time, and as many again on the way, and no more."""

    def __init__(self, at_most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 4 * (2 * at_most + (1 << 20))  # bytes
        self.held: list[tuple[StorageWeakRef, int]] = []
        self.sum = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.is_view or function._schema.is_mutable:
            return function(*args, **kwargs)
        wanted = _bytes_of(function, args, kwargs)
        if self.sum + wanted > self.most:
            self.held = [each for each in self.held if not each[0].expired()]  # type: ignore[no-untyped-call]
            self.sum = sum(size for _, size in self.held)
        if self.sum + wanted > self.most:
            raise _TooLargeError
        result = function(*args, **kwargs)
        for each in pytree.tree_leaves(result):
            if isinstance(each, Tensor):
                self.held.append((StorageWeakRef(each.untyped_storage()), each.nbytes))  # type: ignore[no-untyped-call]
                self.sum += each.nbytes
        return result


class _TooLargeError(Exception):
    pass


def _bytes_of(function: Any, args: Any, kwargs: Any) -> int:
    """How many bytes the result of a function takes, found without allocating them."""
    if "device" in kwargs:
        kwargs = kwargs | {"device": torch.device("meta")}
    args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    try:
        given = function(*args, **kwargs)
    except Exception:  # its size depends on the values of what is there already; or it fails in earnest too
        return 0
    return sum(each.nbytes for each in pytree.tree_leaves(given) if isinstance(each, Tensor))


@contextmanager
def _few_modules() -> Iterator[None]:
    modules = 0

    def count(_: nn.Module, name: str, module: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        if modules > _MOST_MODULES:
            raise UserError(f"its network consists of more than {_MOST_MODULES:,} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


_MOST_MODULES = 5_000  # a thousand are many


def difference(one: nn.Module, other: nn.Module) -> str | None:
    """What two networks differ in first: a module, its class, its options or its parameters; None if in nothing.

    Args:
        one: as it is built; what another has beside that does not count, a name that was put on it say.
        other: plain or masked.
    """
    here = dict(other.named_modules())
    for name, module in one.named_modules():
        if name not in here:
            return f"it has no module {name!r}"
        ours, theirs = _anatomy(here[name]), _anatomy(module)
        for what, value in theirs.items():
            if ours.get(what) != value:
                return f"the {what} of {name or 'the network'!r} is {ours.get(what)!r:.100} and would be {value!r:.100}"
        del here[name]
    return f"it has a module {next(iter(here))!r} too" if here else None


_PLAIN = (bool, int, float, str, tuple)


def _anatomy(module: nn.Module) -> dict[str, Any]:
    kind = type(module)
    parameters = {key: tuple(each.shape) for key, each in module.named_parameters(recurse=False) if key != "scores"}
    described = isinstance(module, (MaskedLayer, *MASKABLE))  # whole, by what it says of itself
    own = () if described else vars(module).items()
    return {
        "class": (kind.plain if issubclass(kind, MaskedLayer) else kind).__qualname__,
        "description": module.extra_repr(),
        "shape of parameters": parameters,
        **{key: value for key, value in own if key != "training" and key[0] != "_" and isinstance(value, _PLAIN)},
    }


def find(network: nn.Module) -> tuple[str, Json] | None:
    """The builder of torchvision.models that gives a network of the same layers, and its arguments.

    Args:
        network: plain or masked.
    """
    home = type(network).__module__
    outputs = next(iter(reversed(list(network.parameters())))).shape[0]
    arguments = {} if outputs == 1000 else {"num_classes": outputs}  # 1,000 are what they all have by themselves
    for name in torchvision.models.list_models(module=torchvision.models):
        if inspect.unwrap(torchvision.models.get_model_builder(name)).__module__ != home:
            continue
        if difference(build(f"torchvision.models.{name}", arguments), network) is None:
            return f"torchvision.models.{name}", arguments
    return None


def numbers(network: nn.Module) -> int:
    """How many numbers a plain network consists of."""
    return sum(each.numel() for each in (*network.parameters(), *network.buffers()))
