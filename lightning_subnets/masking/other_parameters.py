"""Initial values of the parameters that are not weights: scales, shifts, tokens and tables.

If the weights are random and frozen, so is everything else. A scale that is built as 0 or 1e-6, to be trained, would
then switch off its branch for ever.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_subnets.masking import initialization
from lightning_subnets.masking.maskable import NORMS, Weight, is_matrix, padding_row

_AS_BUILT = re.compile(r"temperature|logit_scale|logit_bias|tau")
_TABLE = re.compile(r"table|token|pos|embed|query|queries|latent|prompt|probe|anchor|(height|width)_rel")
_SHIFT = re.compile(r"bias|beta|shift")
_SCALE = re.compile(r"weight|scale|gain|gamma|alpha|^ls\d*$|lambda")


@torch.no_grad()
def initialize_others_(network: nn.Module, weights: Container[str], *, seed: int) -> None:
    """Set every parameter but the weights to its initial value, and reset running statistics.

    Args:
        network: plain or masked.
        weights: the names of the parameters to leave; of a tied one, the first.
        seed: of the tokens and tables.
    """
    left = {id(each) for name, each in network.named_parameters() if name in weights}
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
        for key, parameter in module.named_parameters(name, recurse=False):
            if id(parameter) not in left:
                stream = initialization.stream_of(key)
                value = initial_value(module, own_name(key), parameter, seed=seed, stream=stream)
                if value is not None:
                    parameter.copy_(value)


def initial_value(module: nn.Module, key: str, parameter: Tensor, *, seed: int, stream: str) -> Tensor | None:
    """Return the initial value of a parameter that is not a weight, on the CPU, or None if it stays as it was built.

    ``module`` has it, as it was built, under the name ``key``, see ``own_name``.

    - ``temperature``, ``logit_scale``, slopes of PReLU: as built.
    - Tokens, position tables and embeddings: N(0, 0.02^2) from (seed, name), the standard deviation of BERT and ViT;
      the row of ``padding_idx``: 0.
    - Shifts (``bias``, ``q_bias``, ``beta``): 0.
    - Scales (``weight`` of a norm, ``gamma``, ``gain``, ``layer_scale``): 1, also if they were built as 0 or 1e-6.
    - Everything else: as built if all its numbers are equal, and drawn as a table if they differ.
    """
    kind = kind_of(module, key, parameter)
    if kind in ("as built", "zeros"):
        return None
    if kind in ("scale", "shift"):
        return torch.full(parameter.shape, 1.0 if kind == "scale" else 0.0, device="cpu")
    table = initialization.draw_table(parameter.shape, seed=seed, stream=stream)
    if (row := padding_row(module)) is not None:
        table[row] = 0
    return table


def may_be_weight(name: str, weight: Weight) -> bool:
    """Return whether a parameter without a weight's name has the shape of a weight, and no rule here knows it."""
    kinds = {kind_of(module, own_name(name), weight.parameter) for module, _ in weight.owners}
    return kinds in ({"unknown"}, {"zeros"}) and is_matrix(weight.parameter)


def own_name(name: str) -> str:
    """Return the name of a parameter in its module; for an item of a ParameterList, the name of the list."""
    return next((part for part in reversed(name.split(".")) if not part.isdigit()), "")


def kind_of(
    module: nn.Module, key: str, parameter: Tensor
) -> Literal["as built", "scale", "shift", "table", "zeros", "unknown"]:
    """Return what a parameter that is not a weight does, by the module that has it and its own name."""
    key = key.lower()
    if not parameter.numel():
        return "as built"
    if isinstance(module, NORMS):
        return "shift" if "bias" in key else "scale"
    if isinstance(module, nn.PReLU) or _AS_BUILT.search(key):
        return "as built"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) or _TABLE.search(key):
        return "table"
    if _SHIFT.search(key):
        return "shift"
    if _SCALE.search(key) and not is_matrix(parameter):
        return "scale"
    if not parameter.any():  # a factor that is to be trained, such as LoRA's: frozen, it switches its branch off
        return "zeros"
    return "as built" if bool((parameter == parameter.flatten()[0]).all()) else "unknown"
