"""Read the tensors of a file from another program without running any code in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from lightning_subnets.errors import UserError
from lightning_subnets.training import torch_file


def read(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a torch file or a safetensors file by name, on the CPU.

    A torch file holds a state dict, or a dict with one under "state_dict". A tensor may claim a shape larger than its
    file, so check the shape before copying.
    """
    path = Path(path)
    content: Any
    try:
        with path.open("rb") as file:
            start = file.read(9)
            file.seek(0)
            if start[8:] == b"{":  # the JSON header of safetensors; no torch file has this byte here
                with safetensors.safe_open(path, framework="pt") as tensors:
                    content = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118  # no mapping
            else:
                content = torch_file.read(file, unzipped=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a torch file or a safetensors file") from error
    except torch_file.ForeignError as error:
        raise UserError(
            f"{path} holds more than tensors and plain values ({error}): if you trust its source, load it with "
            "torch.load(..., weights_only=False) and save its state_dict alone"
        ) from error
    except Exception as error:  # torch raises many types for damaged files
        raise UserError(
            f"{path} cannot be read: it is truncated, damaged, or neither a torch file nor a safetensors file"
        ) from error
    if isinstance(content, dict) and content.keys() >= {"subnet", "state_dict"}:
        raise UserError(f"{path} is a checkpoint of lightning-subnets already: use subnets export")
    if isinstance(content, dict) and isinstance(inner := content.get("state_dict"), dict):
        content = inner
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds no state dict: save a dict of tensors by name, such as net.state_dict()")
    for key, value in content.items():
        # A flag of a torch view may flip the sign of the stored numbers.
        ordinary = isinstance(value, Tensor) and value.dtype in torch_file.DTYPES.values() and not value.is_neg()
        if type(key) is not str or not key.isprintable() or not ordinary:
            raise UserError(f"{path} holds {key!r}, which is not an ordinary tensor: save a dict of tensors by name")
    return dict(content)
