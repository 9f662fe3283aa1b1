"""The version of a tensor, which tells whether a cached effective weight is outdated."""

from __future__ import annotations

from weakref import ReferenceType, ref

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


class TensorVersion:
    """Fingerprint of a tensor (memory and version), to detect a change without keeping the tensor alive."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: ReferenceType[Tensor] = ref(tensor)
        # While this reference lives, no other storage can get the same address.
        self.storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        # ``data`` may move to another part of the same storage, such as a row of a population.
        self.offset, self.stride = int(tensor.storage_offset()), tensor.stride()
        # Tensors created in inference mode have no version.
        self.version = None if tensor.is_inference() else tensor._version

    def is_unchanged(self, tensor: Tensor) -> bool:
        """Return whether this is the tensor, with the same values; False if another process could have changed it."""
        return (
            tensor is self.tensor()
            and self.version is not None
            and tensor._version == self.version
            and tensor.untyped_storage()._cdata == self.storage.cdata
            and self.offset == tensor.storage_offset()
            and tensor.stride() == self.stride
            # Each process counts its own versions, so a network in shared memory chooses its masks at each read.
            and not (tensor.is_cpu and tensor.untyped_storage().is_shared())
        )
