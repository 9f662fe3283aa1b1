"""Ways to find a subnetwork, one file each."""

from lightning_subnets.methods.dense import Dense
from lightning_subnets.methods.edge_popup import EdgePopup

__all__ = ["Dense", "EdgePopup"]
