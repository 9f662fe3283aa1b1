"""A device that is not there: its tensors are on the CPU and say otherwise.

Inside ``another_device``, tensors can be made on ``DEVICE`` and moved to it. As on a GPU, an operation on tensors of
two devices is an error, and reading a value makes the host wait. So tests without a GPU show what would fail or wait on
one. The arithmetic is that of the CPU, so results can be compared to the last bit. Such tests do not show what CUDA
itself does: its kernels, autocast, pinned memory, streams and processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("lazy", 0)  # a name that torch knows, without a library that it would load
aten = torch.ops.aten

_CROSSING = {aten._to_copy.default, aten.copy_.default}
# The indices may be on the CPU, even if what they index is not.
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
_READING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
}


class Elsewhere(Tensor):
    """A tensor on ``DEVICE``; its values are in ``held``, on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        tensor = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        tensor.held = held
        return tensor

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None  # so that Module.to exchanges parameters instead of their data

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: object) -> Elsewhere:
        return Elsewhere(inner["held"])

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held!r})"

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()  # torch has no tolist of a subclass

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {}, lambda: None)


def _run(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], note_wait: Callable[[], None]) -> Any:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    there = any(isinstance(each, Elsewhere) for each in tensors)
    here = [each for each in tensors if not isinstance(each, Elsewhere) and each.device.type == "cpu" and each.ndim]
    indices = operation in _INDEXING and isinstance(args[0], Elsewhere)
    if there and here and operation not in _CROSSING and not indices:
        raise RuntimeError(f"{operation} of tensors on {DEVICE} and on the CPU: {[tuple(each.shape) for each in here]}")
    result_there = there
    if (device := kwargs.get("device")) is not None:
        result_there = torch.device(device).type == DEVICE.type
        kwargs = kwargs | {"device": torch.device("cpu") if result_there else device}
    if operation is aten.copy_.default:
        result_there = isinstance(args[0], Elsewhere)
    if operation in _CROSSING:
        waits = there != result_there or (operation is aten.copy_.default and not isinstance(args[1], Elsewhere))
        waits = waits and not (kwargs.get("non_blocking") or True in args[2:])
    else:
        waits = there and (operation in _READING or not result_there)
    if waits:
        note_wait()
    args_here, kwargs_here = tree_map_only(Elsewhere, lambda each: each.held, (args, kwargs))
    result = operation(*args_here, **kwargs_here)
    if not result_there:
        return result
    wrapped = tree_map_only(Tensor, Elsewhere, result)
    return return_and_correct_aliasing(operation, args, kwargs, wrapped)  # type: ignore[no-untyped-call]


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets the factories of torch make tensors elsewhere, and lists the operations that make the host wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {}, lambda: self.waits.append(str(operation)))


@contextmanager
def another_device() -> Iterator[list[str]]:
    """Make ``DEVICE`` work in the block.

    Yields: the operations that have made the host wait for the device, in order.
    """
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=DEVICE) makes its values on the CPU first
    try:
        with _Mode() as mode:
            yield mode.waits
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


class _AnotherAccelerator(Accelerator):
    """What Lightning needs to know of ``DEVICE``."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def teardown(self) -> None:
        pass

    def get_device_stats(self, device: object) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: object) -> list[int]:
        return [0]

    @staticmethod
    def get_parallel_devices(devices: list[int]) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "another"


def of_trainer() -> dict[str, Any]:
    """Return the arguments with which a Trainer computes on ``DEVICE``."""
    return {"accelerator": _AnotherAccelerator(), "strategy": SingleDeviceStrategy(DEVICE)}


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a network, on the CPU."""
    return {name: each.cpu() for name, each in network.state_dict().items()}


def differences(some: dict[str, Tensor], others: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors that are not equal to the last bit."""
    assert some.keys() == others.keys()
    return [name for name in some if not torch.equal(some[name], others[name])]
