"""The files that a Trainer's checkpoints are in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from lightning_subnets.atomic_file import replacing
from lightning_subnets.training import checkpoint as content


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, and runs nothing that one brings along.

    A disk that is full, or gone, does not end the run: the file stays as it was, and a warning says so.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.serialization.set_crc32_options(True)  # checksums, which show damage when the file is read
            with replacing(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer raises the second when its file raises the first
            kept = "the one there is kept" if path.exists() else "there is none yet"
            rank_zero_warn(f"the checkpoint {path} could not be written ({error}): {kept}, and the run goes on")

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return content.read(path)
