"""Subnetworks in files: a seed, a bit for each weight, and what has been trained."""

from lightning_subnets.subnet_file.loading import load_subnet, masks_in
from lightning_subnets.subnet_file.saving import save_subnet

__all__ = ["load_subnet", "masks_in", "save_subnet"]
