"""Predictions as a CSV file."""

from __future__ import annotations

import csv
import io
from contextlib import ExitStack, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_subnets.atomic_file import replacing
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.labelled_batch import images_and_labels
from lightning_subnets.errors import UserError, printable
from lightning_subnets.training import csv_text


class Predictions(Callback):
    """Writes the predictions of ``predict`` as CSV: sample, label, predicted class and its probability.

    Photographs without labels, ``data.images``, have their file instead of sample and label. The label is empty if a
    batch of another loader has none.

    The file appears once it is complete, and replaces no other: if another command has written it meanwhile, it gets
    the next number. A class name that a spreadsheet would compute gets an apostrophe in front, see ``csv_text``.

    Args:
        path: of the file, or a directory, in which the file is ``predictions.csv``, or ``predictions_1.csv`` and so on
            if that exists. Null is the run's directory, or the current one without a run. With several processes, each
            writes its own file, with its rank before the extension.

    Raises:
        ValueError: if the file that ``path`` names exists, or no file can be written there.
    """

    def __init__(self, path: str | None = None) -> None:
        self._given = Path(path or ".")
        self._writing: ExitStack | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        is_directory = self._given.is_dir()
        self.path = self._given / "predictions.csv" if is_directory else self._given
        if trainer.world_size > 1:
            self.path = self.path.with_suffix(f".{trainer.global_rank}{self.path.suffix}")
        if not self.path.parent.is_dir():
            raise UserError(
                f"{self.path.parent} is not a directory: create it, or name another file with --predictions.path"
            )
        if self.path.exists() and not is_directory:
            raise UserError(f"{self.path} exists: name another file with --predictions.path, or move it")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._writing = ExitStack()
        try:
            file = self._writing.enter_context(replacing(self.path, claim=self._claim))
        except OSError as error:
            raise UserError(
                f"no predictions can be written to {self.path.parent} ({error.strerror}): name a file elsewhere with "
                "--predictions.path"
            ) from error
        self._file = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        self._rows = csv.writer(self._file)
        data = trainer.datamodule  # type: ignore[attr-defined]
        self._files = getattr(data, "predicted_files", [])
        self._rows.writerow((*(("file",) if self._files else ("sample", "label")), "predicted", "probability"))
        self._classes = data.classes if isinstance(data, ImageDataModule) else None
        self._sample = trainer.global_rank

    def _claim(self) -> Path:
        """Create the first file that does not exist, so that no other command takes its name."""
        numbered = (self.path.with_stem(f"{self.path.stem}_{number}") for number in count(1))
        for path in chain([self.path], numbered):
            with suppress(FileExistsError):
                path.touch(exist_ok=False)
                self.path = path
                break
        return self.path

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        probabilities, predicted = outputs.max(dim=-1)
        _, labels = images_and_labels(batch)
        known = [""] * len(predicted) if labels is None else labels.tolist()
        name_of = (lambda label: label) if self._classes is None else self._classes.__getitem__
        for label, index, probability in zip(known, predicted.tolist(), probabilities.tolist(), strict=True):
            first = (self._files[self._sample],) if self._files else (self._sample, name_of(label))
            self._rows.writerow((*map(csv_text.escape, (*first, name_of(index))), f"{probability:.6f}"))
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
