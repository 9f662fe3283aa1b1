"""Class paths in configs: functions that build networks, and modules of the current directory."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, _postponed_annotations, _util
from torch import nn

from lightning_subnets import networks
from lightning_subnets.errors import UserError, as_user_error
from lightning_subnets.run_files.config_files import entries
from lightning_subnets.subnet_file.building import Builder, build, builder
from lightning_subnets.subnet_file.container import NUMBERS_PER_BYTE, Container

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
    build = _util.import_object(network.class_path)
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


@contextmanager
def current_directory_last(args: Sequence[str] | None = None) -> Iterator[None]:
    """Let the class paths that a parser resolves name modules of the current directory.

    jsonargparse has no option for it. The directory is on the search path, behind everything else, only while a module
    is imported that a class path names and that is not found without the directory.

    Args:
        args: the command line of the user. Only modules that it names, or that a config that it names does, are
            looked for. By default every class path that the parser resolves is the user's.
    """
    here = Path.cwd()  # jsonargparse changes it while it reads a config

    def import_(name: str, *arguments: Any, **options: Any) -> Any:
        try:
            return __import__(name, *arguments, **options)
        except ModuleNotFoundError as error:
            module = name.partition(".")[0]
            if error.name != module or not (args is None or _names(args, here, module)):
                raise
            importlib.invalidate_caches()
            sys.path.append(str(here))
            try:
                return __import__(name, *arguments, **options)
            finally:
                sys.path.remove(str(here))

    _util.__import__ = import_  # type: ignore[attr-defined]  # import_object calls it by this name
    # To find stubs, jsonargparse asks another Python, which would import a json.py of the current directory.
    safe = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        del _util.__import__  # type: ignore[attr-defined]
        del os.environ["PYTHONSAFEPATH"]
        os.environ |= {"PYTHONSAFEPATH": safe} if safe else {}


def _names(args: Sequence[str], here: Path, module: str) -> bool:
    """Return whether a command line, or a config that it names, has a value that begins with a module's name."""
    typed = re.compile(rf"(?<![\w.]){re.escape(module)}\.")
    return any(map(typed.search, args)) or any(entry.value.startswith(f"{module}.") for entry in entries(args, here))


def class_path_of(name: str) -> str:
    """Return the class path of a network of this package that is named without its module, and any other as it is."""
    return f"{networks.__name__}.{name}" if name in networks.__all__ else name


def named_builder(name: str) -> Builder:
    """Return the function or class that a user names to build a network, from any module; see ``class_path_of``."""
    try:
        if (known := builder(class_path_of(name))) is not None:
            return known
        with current_directory_last():
            found: Builder = _util.import_object(name)
    except UserError:
        raise
    except Exception as error:  # the module may raise anything
        raise UserError(
            f"the network {name} cannot be imported ({as_user_error(error)}): name a function or class by its module, "
            "which is installed or in the current directory"
        ) from error
    return found


def build_of_file(file: Container, path: str, named: str | None, option: str) -> nn.Module:
    """Build the network of a ``.subnet`` file, with the arguments in it.

    Args:
        file: the open file.
        path: of the file.
        named: the builder that the user has named; otherwise the file names it, and only known ones are allowed.
        option: the option of the command that names it.
    """
    network, at_most = file.header.network, NUMBERS_PER_BYTE * file.size
    if named is None and builder(network.builder) is None:
        raise UserError(
            f"{path} needs the network {network.builder}, and a file does not decide what is imported: if its code is "
            f"yours, add {option}={network.builder}"
        )
    trusted = named_builder(named) if named else None
    return build(named or network.builder, network.arguments, at_most=at_most, trusted=trusted)


def as_constructor_error(error: Exception) -> UserError:
    """Return the error of a class or function that a config names as a ``UserError`` that names the class too."""
    built = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        built = frame.f_locals.get("class_type", built)  # of jsonargparse's function that calls it
    short = as_user_error(error)
    name = getattr(built, "__name__", None)
    own = isinstance(error, UserError) or isinstance(error.__cause__, UserError)
    return short if own or name is None or name in str(short) else UserError(f"{name} refuses its arguments: {short}")
