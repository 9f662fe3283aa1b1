"""Predictions as a CSV file."""

from __future__ import annotations

import csv
import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_subnets.atomic_file import replacing
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.errors import UserError, printable
from lightning_subnets.training import csv_text


class Predictions(Callback):
    """Writes the predictions of ``predict`` as CSV: sample, label, predicted class and its probability.

    The file appears once it is complete. A class name that a spreadsheet would compute gets an apostrophe in front, see
    ``csv_text``.

    Args:
        path: of the file; with several processes, each writes its own, with its rank before the extension.

    Raises:
        ValueError: if the file exists.
    """

    def __init__(self, path: str = "predictions.csv") -> None:
        self.path = Path(path)
        self._writing: ExitStack | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        if trainer.world_size > 1:
            self.path = self.path.with_suffix(f".{trainer.global_rank}{self.path.suffix}")
        if not self.path.parent.is_dir():
            raise UserError(
                f"{self.path.parent} is not a directory: create it, or name another file with --predictions.path"
            )
        if self.path.exists():
            raise UserError(f"{self.path} exists: name another file with --predictions.path, or move it")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._writing = ExitStack()
        file = self._writing.enter_context(replacing(self.path))
        self._file = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(("sample", "label", "predicted", "probability"))
        data = trainer.datamodule  # type: ignore[attr-defined]
        self._classes = data.classes if isinstance(data, ImageDataModule) else None
        self._sample = trainer.global_rank

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        probabilities, predicted = outputs.max(dim=-1)
        for label, index, probability in zip(
            batch[1].tolist(), predicted.tolist(), probabilities.tolist(), strict=True
        ):
            names = (label, index) if self._classes is None else (self._classes[label], self._classes[index])
            self._rows.writerow((self._sample, *map(csv_text.escape, names), f"{probability:.6f}"))
            self._sample += trainer.world_size

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._writing is not None:
            self._writing.__exit__(type(exception), exception, exception.__traceback__)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._file.flush()
        assert self._writing is not None
        self._writing.close()
        self._writing = None
        print(f"predictions are in {printable(str(self.path))}")
