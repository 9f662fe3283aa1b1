"""The checkpoint of the best validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Writes ``best.ckpt`` at each new highest accuracy in validation, also if the run's directory has moved.

    Lightning's class compares with the best accuracy so far only in the directory in which the run began. A run that
    starts from another run's checkpoint has no ``last.ckpt`` yet, and a best accuracy of its own.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "best", "val/accuracy", mode="max", enable_version_counter=False)

    @property
    def state_key(self) -> str:
        # Lightning's key is made of the options, and a user may add a ModelCheckpoint with the same ones.
        return type(self).__qualname__

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = Path(str(self.dirpath))
        if state_dict["dirpath"] != self.dirpath and not (folder / "last.ckpt").exists():  # another run's
            return
        scores = state_dict["best_k_models"]
        best = str(folder / "best.ckpt") if scores else ""
        moved = {"dirpath": self.dirpath, "best_model_path": best, "kth_best_model_path": best}
        super().load_state_dict(state_dict | moved | {"best_k_models": scores and {best: state_dict["kth_value"]}})
