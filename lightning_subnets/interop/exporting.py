"""Write a plain network for other programs, as a state dict or as ONNX."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import safetensors.torch
import torch
from torch import nn

from lightning_subnets.atomic_file import check_place, replacing
from lightning_subnets.errors import UserError
from lightning_subnets.interop import onnx_file

EXTENSIONS = (".subnet", ".pt", ".safetensors", ".onnx")


def export(
    network: nn.Module,
    out: Path,
    *,
    input_shape: tuple[int, ...],
    details: Mapping[str, str] = MappingProxyType({}),
    force: bool = False,
) -> None:
    """Write a plain network into a file whose extension names the format.

    ``.pt`` and ``.safetensors`` hold its state dict, which stock torchvision loads; for ``.onnx`` see ``onnx_file``.
    The file is written completely or not at all.

    Args:
        network: in evaluation mode, on the CPU, masks folded into the weights.
        out: the file to write.
        input_shape: of one image, (channels, height, width).
        details: classes, preprocessing and the like, for the metadata of ``.safetensors`` and ``.onnx``.
        force: whether to replace an existing file.

    Raises:
        ValueError: as ``check``; if ONNX cannot express the network or computes different logits; or if the file cannot
            be written.
    """
    check(out, force=force)
    if out.suffix == ".onnx":
        content = onnx_file.content(network, input_shape, details)
    else:
        # Clone, because a view would bring along the whole tensor that it is a view of.
        state = {
            name: value.clone(memory_format=torch.contiguous_format) for name, value in network.state_dict().items()
        }
        if out.suffix == ".pt":
            file = io.BytesIO()
            torch.save(state, file)
            content = file.getvalue()
        else:
            content = safetensors.torch.save(state, {"format": "pt", **details})
    try:
        with replacing(out) as file_out:
            file_out.write(content)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): name another place") from error


def check(out: Path, *, force: bool) -> None:
    """Check all that can be checked before a network is built.

    Raises:
        ValueError: if the extension is unknown, the packages for ONNX are missing, the file exists and may not be
            replaced, or its directory does not exist.
    """
    if out.suffix not in EXTENSIONS:
        raise UserError(f'unsupported extension "{out.suffix}" of {out}: use .subnet, .pt, .safetensors or .onnx')
    if out.suffix == ".onnx":
        onnx_file.check_installed()
    check_place(out, force=force)
