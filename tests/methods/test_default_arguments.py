"""The arguments that a config may leave out. A changed default would change each run whose config does."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import lightning_subnets as ls
from lightning_subnets import methods

DEFAULTS: dict[type[ls.Method], dict[str, Any]] = {
    ls.Biprop: {"allocation": "uniform", "absolute": True},
    ls.DNW: {},
    ls.Dense: {},
    ls.EdgePopup: {"allocation": "uniform", "absolute": True},
    ls.FixedMask: {"shuffle": False},
    ls.GemMiner: {"every": 500, "share": 0.2},
    ls.GraSP: {"samples_per_class": 10, "temperature": 200.0},
    ls.IteRand: {"every": 300, "share": 0.1, "allocation": "uniform", "absolute": False},
    ls.LinearProbe: {},
    ls.Magnitude: {"density": 1.0, "allocation": "global"},
    ls.Multicoated: {"inner": (0.2627, 0.105), "signed": False, "frozen": 0.0, "allocation": "uniform"},
    ls.PHEW: {"whole_kernels": False},
    ls.PartiallyFrozen: {"frozen": 0.7, "allocation": "uniform"},
    ls.Random: {"allocation": "uniform"},
    ls.SNIP: {"samples_per_class": 10},
    ls.SignedSupermask: {"density": 0.5, "threshold": 0.01, "frozen": 0.0},
    ls.Supermask: {"density": 0.5, "dynamic_scaling": False, "samples": 5},
    ls.SynFlow: {"rounds": 100},
    ls.SynFlowL2: {"rounds": 100},
}


@pytest.mark.parametrize("name", methods.__all__)
def test_an_argument_that_is_left_out_keeps_its_meaning(name: str) -> None:
    kind = getattr(methods, name)
    arguments = inspect.signature(kind).parameters.values()
    assert {each.name: each.default for each in arguments if each.default is not each.empty} == DEFAULTS[kind]


@pytest.mark.parametrize("name", [*methods.__all__, "SubnetModule"])
def test_options_have_to_be_named(name: str) -> None:
    first = 2 if name == "SubnetModule" else 1  # the network and the method; the density, or the masks
    options = list(inspect.signature(getattr(ls, name)).parameters.values())[first:]
    assert all(each.kind is each.KEYWORD_ONLY for each in options)
