"""Write a network for other programs, as a state dict or as ONNX, with its masks folded into the weights."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from lightning_subnets import atomic_file
from lightning_subnets.errors import UserError
from lightning_subnets.interop import int8, onnx_file
from lightning_subnets.interop.int8 import EightBit
from lightning_subnets.masking import is_masked, unmask_
from lightning_subnets.subnet_file.building import check_tensors


def export(
    network: nn.Module,
    out: Path,
    *,
    input_shape: tuple[int, ...],
    details: Mapping[str, str],
    force: bool = False,
    calibration: Tensor | None = None,
) -> EightBit | None:
    """Write a network into a file whose extension names the format, completely or not at all.

    ``.pt`` and ``.safetensors`` hold its state dict, which stock torchvision loads; for ``.onnx`` see ``onnx_file``.
    An ONNX network computes in float32, whatever the dtype of its weights.

    Args:
        network: in evaluation mode and on the CPU. It is not changed; a copy of a masked one is unmasked.
        out: the file to write.
        input_shape: of one image, (channels, height, width).
        details: metadata of ``.safetensors`` and ``.onnx``, such as classes and preprocessing.
        force: whether to replace an existing file.
        calibration: normalised images, for ``.onnx`` with eight bits, see ``int8``.

    Returns: what was measured of an eight-bit file.

    Raises:
        ValueError: see ``check``; if ONNX cannot express the network or computes different logits; if a state dict
            has more than tensors; or if the file cannot be written.
    """
    check(out, force=force)
    if is_masked(network):
        network = unmask_(copy.deepcopy(network))
    eight = None
    if out.suffix == ".onnx":
        numbers = (*network.parameters(), *network.buffers())
        if any(each.dtype != torch.float32 for each in numbers if each.is_floating_point()):
            network = copy.deepcopy(network).float()  # its input is float32 in any program
        content = onnx_file.content(network, input_shape, details)
        if calibration is not None:
            eight = int8.quantized(content, network, calibration)
            content = eight.content
    else:
        state = network.state_dict()
        check_tensors(state, str(out))
        # Clone each tensor, because torch.save writes the whole storage of a view.
        state = {key: each.clone(memory_format=torch.contiguous_format) for key, each in state.items()}
        if out.suffix == ".pt":
            buffer = io.BytesIO()
            torch.save(state, buffer)
            content = buffer.getvalue()
        else:
            content = safetensors.torch.save(state, {"format": "pt", **details})
    atomic_file.write(out, content, advice="name another place")
    return eight


def check(out: Path, *, force: bool) -> None:
    """Check the extension, the packages for ONNX and the place of a file, before its network is built."""
    if out.suffix not in (".subnet", ".pt", ".safetensors", ".onnx"):
        raise UserError(f'unsupported extension "{out.suffix}" of {out}: use .subnet, .pt, .safetensors or .onnx')
    if out.suffix == ".onnx":
        onnx_file.check_installed()
    atomic_file.check_place(out, force=force)
