"""Subnetworks in ``.subnet`` files: a seed, one bit per weight, and whatever was trained.

Start with ``saving.py`` and ``loading.py``. ``container.py`` reads and writes the bytes, ``hub.py`` downloads a file,
``header.py`` and ``json_schema.py`` check the JSON, ``mask_codec.py`` and ``weight_code.py`` encode a weight,
``tasks.py`` encodes and reads the tasks of a file that has several, and ``building.py`` builds the network that a file
names. This room imports ``masking``, ``methods`` and ``networks``. docs/subnet_file.md describes the format.
"""

from lightning_subnets.subnet_file.loading import load_subnet, masks_in
from lightning_subnets.subnet_file.saving import save_subnet, save_tasks
from lightning_subnets.subnet_file.tasks import LearnedTask, load_tasks

__all__ = ["LearnedTask", "load_subnet", "load_tasks", "masks_in", "save_subnet", "save_tasks"]
