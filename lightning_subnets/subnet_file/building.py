"""Build the network that a file names, from known builders only and within the size that the file can describe."""

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
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import register_module_module_registration_hook
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_subnets import networks
from lightning_subnets.errors import UserError
from lightning_subnets.masking.maskable import BATCH_NORM_FORWARDS
from lightning_subnets.masking.masked_class import plain_class
from lightning_subnets.masking.masked_weight import scores_names
from lightning_subnets.subnet_file.header import Json

Builder = Callable[..., nn.Module]

_DOWNLOADING = {"weights", "weights_backbone", "checkpoint_path", "cache_dir", "progress"}  # and pretrained*
_MAX_ARGUMENT = 100_000  # for a number, and for the sum of a list, because builders add up depths
_MAX_MODULES = 5_000  # a large network has a thousand
_SAME_NUMBERS = {"training", "grad_checkpointing", "memory_efficient"}  # attributes that change no parameter or output


def builder(name: str) -> Builder | None:
    """Return the builder with this name in torchvision.models, timm or this package; None for another package."""
    package, last = name.partition(".")[0], name.rpartition(".")[2]
    if package == "torchvision":
        from torchvision import models

        public, known = "torchvision.models", models.list_models(module=models)
        find: Callable[[str], Builder] = models.get_model_builder
    elif package == "timm":
        try:
            import timm
        except ImportError as error:
            raise UserError(f"{name!r:.100} needs timm, which is not installed: pip install timm") from error
        public, known, find = "timm.models", timm.list_models(), timm.model_entrypoint
    elif package == "lightning_subnets":
        public, known, find = "lightning_subnets.networks", networks.__all__, partial(getattr, networks)
    else:
        return None
    # The module that defines a builder may be named as well as the package that exports it.
    if last not in known or name not in (f"{public}.{last}", f"{inspect.unwrap(find(last)).__module__}.{last}"):
        nearest = difflib.get_close_matches(last, known, n=1)
        hint = f": did you mean {public}.{nearest[0]}?" if nearest else ""
        raise UserError(f"{public} has no network {name!r:.100}{hint}")
    return find(last)


def downloads_weights(argument: str) -> bool:
    """Return whether an argument of a builder can make it download weights."""
    return argument in _DOWNLOADING or argument.startswith("pretrained")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Check that the arguments of a builder are plain and moderate values, and that none downloads weights."""
    for key, value in arguments.items():
        if downloads_weights(key):
            raise UserError(f"the builder's argument {key!r:.60} would download weights: leave it out")
        values = value if isinstance(value, list) else [value]
        sizes = [abs(each) for each in values if isinstance(each, int | float)]
        plain = all(each is None or isinstance(each, str | int | float) for each in values)
        moderate = len(values) <= 1000 and all(size <= _MAX_ARGUMENT for size in sizes) and sum(sizes) <= _MAX_ARGUMENT
        if not plain or not moderate:
            raise UserError(
                f"the builder's argument {key!r:.60} = {reprlib.repr(value):.200} is refused: plain values are "
                f"allowed, and numbers of up to {_MAX_ARGUMENT:,}"
            )


def build(
    name: str, arguments: Mapping[str, Any], *, at_most: int | None = None, trusted: Builder | None = None
) -> nn.Module:
    """Build a network on the CPU, by the name of its builder, with weights of no particular value.

    ``at_most`` limits the network's numbers before they are allocated. It is None for trusted arguments, because the
    check takes longer than the building. ``trusted`` is a builder that the user names, instead of a known one.
    """
    check_arguments(arguments)
    if (build_it := trusted or builder(name)) is None:
        raise UserError(
            f"{name!r:.100} is not a network of torchvision.models, timm or lightning_subnets.networks, and only these "
            "are built by name: build it yourself and call load_subnet(path, network=...)"
        )
    try:
        with (
            torch.device("cpu"),
            torch.random.fork_rng(devices=[]),
            _NoInitialization(),
            nullcontext() if at_most is None else _LimitedAllocation(at_most),
            _limited_modules(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # about initial weights and deprecated names
            network = build_it(**arguments)
        if at_most is not None and num_elements(network) > at_most:
            raise _TooLargeError
        return network
    except UserError:
        raise
    except _TooLargeError as error:
        raise UserError(f"the network has more than {at_most:,} numbers, too many for the size of the file") from error
    except Exception as error:  # a builder may raise anything if it does not like its arguments
        reason = " ".join(str(error).split())
        raise UserError(f"{name}({dict(arguments)!r:.200}) cannot be built: {reason!r:.200}") from error


class _NoInitialization(TorchFunctionMode):
    """Skip the drawing of parameters, which would take most of the time."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if function in (Tensor.normal_, Tensor.uniform_):
            # trunc_normal_ redraws a temporary tensor until every number is within its bounds, so fill it with 0.
            return args[0] if isinstance(args[0], nn.Parameter) else args[0].zero_()
        return function(*args, **(kwargs or {}))


class _LimitedAllocation(TorchDispatchMode):
    """Refuse to hold more than twice ``at_most`` numbers of four bytes and four megabytes, temporaries included."""

    def __init__(self, at_most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = 4 * (2 * at_most + (1 << 20))
        self.held: list[tuple[StorageWeakRef, int]] = []
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.is_view or function._schema.is_mutable:
            return function(*args, **kwargs)
        wanted = _result_bytes(function, args, kwargs)
        if self.total + wanted > self.limit:  # count again what is still alive
            self.held = [each for each in self.held if not each[0].expired()]  # type: ignore[no-untyped-call]
            self.total = sum(size for _, size in self.held)
        if self.total + wanted > self.limit:
            raise _TooLargeError
        result = function(*args, **kwargs)
        for each in pytree.tree_leaves(result):
            if isinstance(each, Tensor):
                self.held.append((StorageWeakRef(each.untyped_storage()), each.nbytes))  # type: ignore[no-untyped-call]
                self.total += each.nbytes
        return result


class _TooLargeError(Exception):
    pass


def _result_bytes(function: Any, args: Any, kwargs: Any) -> int:
    """Return the size of a result without allocating it."""
    if "device" in kwargs:
        kwargs = kwargs | {"device": torch.device("meta")}
    args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    try:
        result = function(*args, **kwargs)
    except Exception:  # the size depends on values, which are allocated already; or the function itself fails
        return 0
    return sum(each.nbytes for each in pytree.tree_leaves(result) if isinstance(each, Tensor))


@contextmanager
def _limited_modules() -> Iterator[None]:
    modules = 0

    def count(_: nn.Module, name: str, module: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        if modules > _MAX_MODULES:
            raise UserError(f"the network has more than {_MAX_MODULES:,} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def difference(expected: nn.Module, network: nn.Module) -> str | None:
    """Return the first difference between two networks: in modules, classes, options or shapes of parameters.

    ``network`` may be masked, and may have attributes that ``expected`` lacks.
    """
    modules = dict(network.named_modules())
    for name, module in expected.named_modules():
        if name not in modules:
            return f"it has no module {name!r}"
        found = _options(modules.pop(name))
        for option, value in _options(module).items():
            if found.get(option) != value:
                return f"{option} of {name or 'the network'!r} is {found.get(option)!r:.100} instead of {value!r:.100}"
    return f"it also has a module {next(iter(modules))!r}" if modules else None


def _options(module: nn.Module) -> dict[str, Any]:
    kind, scores = plain_class(module), scores_names(module)
    options: dict[str, Any] = {
        # The batch norms of a network of several processes are of other classes, and compute the same.
        "class": "BatchNorm" if kind.forward in BATCH_NORM_FORWARDS else kind.__qualname__,
        "extra_repr": kind.extra_repr(module),
        "shapes": {key: each.shape for key, each in module.named_parameters(recurse=False) if key not in scores},
    }
    if not isinstance(module, nn.Conv2d | nn.Linear):  # extra_repr states all options of these
        for key, value in vars(module).items():
            if key not in _SAME_NUMBERS and key[0] != "_" and isinstance(value, bool | int | float | str | tuple):
                options[key] = value
    return options


def identify(network: nn.Module) -> tuple[str, Json] | None:
    """Return the builder in torchvision.models that gives this network, plain or masked, and its arguments."""
    from torchvision import models

    outputs = next((each.shape[0] for each in reversed([*network.parameters()]) if each.dim()), 1000)
    arguments = {} if outputs == 1000 else {"num_classes": outputs}  # 1000 is their default
    for name in models.list_models(module=models):
        if inspect.unwrap(models.get_model_builder(name)).__module__ != type(network).__module__:
            continue
        if difference(build(f"torchvision.models.{name}", arguments), network) is None:
            return f"torchvision.models.{name}", arguments
    return None


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network in the wrappers of torch.compile, of data parallelism, of an average and of Fabric."""
    names = ["_orig_mod", "_forward_module"]
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
        names.append("module")  # which may as well be the name of a part of a network
    inner = next((network.get_submodule(name) for name in names if name in network._modules), None)
    return network if inner is None else unwrapped(inner)


def check_tensors(state: Mapping[str, Any], file: str) -> None:
    """Check that a state dict has only tensors, because ``get_extra_state`` of a module may return anything.

    Raises:
        ValueError: naming the first value that is not a tensor, and the ``file`` that cannot hold it.
    """
    if other := next((key for key, each in state.items() if not isinstance(each, Tensor)), None):
        raise UserError(
            f"{other!r} of the network is not a tensor, and {file} holds only tensors: remove get_extra_state from its "
            "module"
        )


def num_elements(network: nn.Module) -> int:
    """Return the number of values in parameters and buffers."""
    return sum(each.numel() for each in (*network.parameters(), *network.buffers()))
