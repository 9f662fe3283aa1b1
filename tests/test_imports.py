"""Importing the library loads only torch and NumPy, and the commands print their help without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

WORKSHOP = {
    *("lightning", "jsonargparse", "matplotlib", "torchvision", "sklearn", "wandb", "scipy", "pydantic", "rich"),
    "huggingface_hub",
}
PRINT_MODULES = "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"


def imported_by(code: str) -> set[str]:
    """Return the top-level packages that are imported after a program, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", code + PRINT_MODULES]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return set(output.splitlines()[-1].split())


def test_the_library_imports_nothing_of_the_application() -> None:
    program = """
import torch
import lightning_subnets as ls
network = ls.mask_(torch.nn.Sequential(torch.nn.Linear(8, 4)), ls.EdgePopup(density=0.5))
ls.density(network), ls.masks(network), ls.unmask_(network)
ls.mask_(network, ls.SynFlow(density=0.5), input_shape=(8,))
"""
    found = imported_by(program)
    assert "torch" in found
    assert not found & WORKSHOP


def test_every_public_name_is_found_and_no_other() -> None:
    import lightning_subnets

    with pytest.raises(AttributeError, match="has no attribute 'mask'"):
        lightning_subnets.mask  # type: ignore[attr-defined]  # noqa: B018
    assert "mask_" in dir(lightning_subnets)
    assert [name for name in lightning_subnets.__all__ if getattr(lightning_subnets, name, None) is None] == []


@pytest.mark.parametrize("room", ["datamodules", "methods", "networks"])
def test_a_public_package_is_an_attribute_from_the_start(room: str) -> None:
    assert "torch" in imported_by(f"import lightning_subnets as ls\nls.{room}.__all__")


@pytest.mark.parametrize("verb", ["", "inspect", "check", "sweep", "report", "continual", "export", "import"])
def test_help_is_printed_without_torch(verb: str) -> None:
    program = f"""
from lightning_subnets.commands.subnets import main
try:
    main({[*([verb] if verb else []), "--help"]})
except SystemExit as stopped:
    assert stopped.code == 0
"""
    assert not imported_by(program) & {"torch", "numpy", "lightning", "torchvision", "matplotlib"}
