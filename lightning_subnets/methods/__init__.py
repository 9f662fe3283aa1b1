"""Methods that find a subnetwork, one per file; docs/design/methods.md compares them with the authors' code.

Start with ``edge_popup.py``, which trains scores, and ``snip.py``, which prunes at initialisation. This room may import
``graph``, ``masking``, ``errors`` and ``progress_bar``.
"""

from lightning_subnets.methods.biprop import Biprop
from lightning_subnets.methods.dense import Dense
from lightning_subnets.methods.dnw import DNW
from lightning_subnets.methods.edge_popup import EdgePopup
from lightning_subnets.methods.fixed_mask import FixedMask
from lightning_subnets.methods.gem_miner import GemMiner
from lightning_subnets.methods.grasp import GraSP
from lightning_subnets.methods.iterand import IteRand
from lightning_subnets.methods.linear_probe import LinearProbe
from lightning_subnets.methods.magnitude import Magnitude
from lightning_subnets.methods.multicoated import Multicoated
from lightning_subnets.methods.partially_frozen import PartiallyFrozen
from lightning_subnets.methods.phew import PHEW
from lightning_subnets.methods.random import Random
from lightning_subnets.methods.signed_supermask import SignedSupermask
from lightning_subnets.methods.snip import SNIP
from lightning_subnets.methods.supermask import Supermask
from lightning_subnets.methods.synflow import SynFlow, SynFlowL2

__all__ = [
    "DNW", "PHEW", "SNIP", "Biprop", "Dense", "EdgePopup", "FixedMask", "GemMiner", "GraSP", "IteRand", "LinearProbe",
    "Magnitude", "Multicoated", "PartiallyFrozen", "Random", "SignedSupermask", "Supermask", "SynFlow", "SynFlowL2",
]  # fmt: skip
