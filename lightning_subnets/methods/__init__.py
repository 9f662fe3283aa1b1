"""Ways to find a subnetwork, one file each."""

from lightning_subnets.methods.biprop import Biprop
from lightning_subnets.methods.dense import Dense
from lightning_subnets.methods.dnw import DNW
from lightning_subnets.methods.edge_popup import EdgePopup
from lightning_subnets.methods.given import Given
from lightning_subnets.methods.iterand import IteRand
from lightning_subnets.methods.linear_probe import LinearProbe
from lightning_subnets.methods.magnitude import Magnitude
from lightning_subnets.methods.random import Random
from lightning_subnets.methods.supermask import Supermask

__all__ = ["DNW", "Biprop", "Dense", "EdgePopup", "Given", "IteRand", "LinearProbe", "Magnitude", "Random", "Supermask"]
