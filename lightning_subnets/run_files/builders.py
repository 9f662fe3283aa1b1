"""Configs of networks that a function builds, such as ``torchvision.models.resnet18``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser, Namespace, _postponed_annotations
from torch import nn

_annotated_type: Callable[..., Any] = _postponed_annotations.get_return_type


def accept_builders_without_annotation() -> None:
    """Let configs name functions that do not say what they return, such as 76 of timm's, as builders of networks.

    jsonargparse refuses them, and has no option for it.
    """
    _postponed_annotations.get_return_type = _return_type


def _return_type(function: Any, logger: Any = None) -> Any:
    found = _annotated_type(function, logger)
    return nn.Module if found is inspect.Signature.empty else found


def leave_defaults_to_builder(network: Namespace) -> None:
    """Drop the arguments that the parser filled in and that the builder, or the parser, would refuse.

    torchvision's ``wide_resnet50_2`` passes its keyword arguments to ``ResNet``. The parser finds ``ResNet``'s default
    width and fills it in, and ``wide_resnet50_2`` refuses it. timm's ``Eva`` has a class as the default of
    ``norm_layer``. The config of the run would name this class, and the parser reads a class as an object to create.
    """
    module, _, name = network.class_path.rpartition(".")
    build = getattr(importlib.import_module(module), name)
    if "init_args" not in network:
        return
    parser = ArgumentParser()
    add = parser.add_class_arguments if isinstance(build, type) else parser.add_function_arguments
    add(build, fail_untyped=False)
    defaults, own = parser.get_defaults(), inspect.signature(build).parameters
    for key, value in list(network.init_args.items()):
        passed_on = not isinstance(build, type) and key not in own
        if key in defaults and defaults[key] == value and (passed_on or isinstance(value, type)):
            del network.init_args[key]
