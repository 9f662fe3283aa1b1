"""Plain networks written for other programs: as a state dict, dense or compressed, and as ONNX."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import safetensors.torch
import torch
from torch import Tensor, nn

from lightning_subnets.atomic_file import check_place, replacing
from lightning_subnets.errors import UserError
from lightning_subnets.interop import onnx_file
from lightning_subnets.interop.compressed_rows import CompressedRows, compressed_weights

ENDINGS = {
    ".subnet": "seed and masks",
    ".pt": "state dict, for torch.load",
    ".safetensors": "state dict, for safetensors",
    ".onnx": "for onnxruntime and others",
}
NOTHING: Mapping[str, str] = MappingProxyType({})


def export(
    network: nn.Module,
    out: Path,
    *,
    input_shape: tuple[int, ...],
    sparse: bool = False,
    details: Mapping[str, str] = NOTHING,
    force: bool = False,
) -> None:
    """Write a plain network into a file of the form that the file's ending names.

    ``.pt`` and ``.safetensors`` hold its state dict, which stock torchvision loads. Sparse, they hold each weight that
    has zeros as a matrix of compressed rows instead, a row an output, see ``compressed_rows``: as a torch CSR tensor in
    ``.pt``; in ``.safetensors`` as ``<weight>.crow_indices``, ``.col_indices`` and ``.values``, the shape that
    the weight has in the network under ``compressed_rows`` in the metadata. ``.onnx`` is described in ``onnx_file``.

    The file is there whole or not at all.

    Args:
        network: in evaluation, on the CPU, masks folded in.
        input_shape: of one image, (channels, height, width).
        details: classes, preprocessing and the like, for the metadata of ``.safetensors`` and ``.onnx``.
        force: whether to replace a file that is there.

    Raises:
        ValueError: as ``check`` does; if the network has no zeros to leave out; if ONNX cannot express it, or computes
            otherwise; or if the file cannot be written.
    """
    check(out, sparse=sparse, force=force)
    if out.suffix == ".onnx":
        content: bytes | memoryview = onnx_file.content(network, input_shape, details)
    else:
        content = _state_dict(network, out.suffix, sparse, details)
    try:
        with replacing(out) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): name another place") from error


def check(out: Path, *, sparse: bool, force: bool) -> None:
    """What can be known of an export before there is a network.

    Raises:
        ValueError: if the ending is unknown, or has no sparse form; if the packages that it needs are missing; if the
            file exists, and is not to be replaced; or if its directory does not exist.
    """
    if out.suffix not in ENDINGS:
        allowed = ", ".join(f"{ending} ({what})" for ending, what in ENDINGS.items())
        raise UserError(f"the ending of {out} names no form: {allowed}")
    if sparse and out.suffix == ".onnx":
        raise UserError(
            "--sparse has no form in ONNX that pays: of its sparse tensors onnxruntime makes dense ones, and OpenVINO "
            "does not read them. The .onnx without --sparse has the zeros in it; --sparse writes .pt and .safetensors"
        )
    if sparse and out.suffix == ".subnet":
        raise UserError("--sparse is for .pt and .safetensors: a .subnet holds one bit or less for each weight already")
    if out.suffix == ".onnx":
        onnx_file.check_installed()
    check_place(out, force=force)


def _state_dict(network: nn.Module, ending: str, sparse: bool, details: Mapping[str, str]) -> bytes | memoryview:
    weights = compressed_weights(network) if sparse else {}
    if sparse and not weights:
        raise UserError(f"no weight of {type(network).__name__} is zero: leave --sparse out")
    # Copies, so that a view does not bring along all it is a view of, and two names of one tensor are two tensors.
    state = {
        name: value.clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
        if name not in weights
    }
    if ending == ".pt":
        file = io.BytesIO()
        torch.save(state | {name: _csr_tensor(rows) for name, rows in weights.items()}, file)
        return file.getbuffer()
    for name, rows in weights.items():
        state |= {f"{name}.{part}": getattr(rows, part) for part in ("crow_indices", "col_indices", "values")}
    if sparse:
        shapes = {name: rows.shape for name, rows in weights.items()}
        details = {**details, "compressed_rows": json.dumps(shapes)}
    return safetensors.torch.save(state, {"format": "pt", **details})


def _csr_tensor(rows: CompressedRows) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of CSR tensors torch says that they are in beta, and are not checked
        return torch.sparse_csr_tensor(
            rows.crow_indices,
            rows.col_indices,
            rows.values,
            (rows.shape[0], rows.shape.numel() // rows.shape[0]),
        )
