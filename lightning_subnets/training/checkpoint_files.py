"""Checkpoint files: written atomically, and read without running code from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from lightning_subnets.atomic_file import replacing
from lightning_subnets.training import checkpoint as content


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint completely or not at all, and runs no code from one.

    If a write fails, on a full disk for instance, the old file stays and a warning says so; the run continues.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.serialization.set_crc32_options(True)  # checksums detect damage when the file is read
            with replacing(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError for an OSError
            kept = "the old one is kept" if path.exists() else "there is no older one"
            rank_zero_warn(f"the checkpoint {path} could not be written ({error}): {kept}, and the run continues")

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return content.read(path)
