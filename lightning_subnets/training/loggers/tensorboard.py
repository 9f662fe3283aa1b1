"""A logger for TensorBoard that does not end the run if its file cannot be written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(TensorBoardLogger):
    """Lightning's ``TensorBoardLogger`` that a full disk does not stop.

    If its file cannot be written, a message says so once, and the file gets no more records, because TensorBoard reads
    nothing after an incomplete one. ``metrics.csv`` has the same metrics.
    """

    _failed = False

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        if self._experiment is None:
            try:
                writer = super().experiment
            except OSError as error:
                self._fail(error)
            if self._failed:
                return cast("SummaryWriter", _DummyExperiment())
            # A thread writes through this object, and an error of the thread would be raised by the next call.
            records: Any = writer._get_file_writer().event_writer._async_writer._writer
            for name in ("write", "flush", "close"):
                setattr(records, name, self._until_it_fails(getattr(records, name)))
        return cast("SummaryWriter", super().experiment)

    def finalize(self, status: str) -> None:
        """Leave the file open for the test and the pictures: after a close, another file would begin, unguarded."""
        if self._experiment is not None:
            self.experiment.flush()
        if status == "success":
            self.save()

    def add_pictures(self, pictures: Iterable[Path]) -> None:
        """Write pictures into TensorBoard's file."""
        for path in pictures:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            self.experiment.add_image(f"pictures/{path.stem}", pixels, dataformats="HWC")
        self.experiment.flush()

    def save(self) -> None:
        self._until_it_fails(super().save)()  # hparams.yaml too

    def _until_it_fails(self, function: Callable[..., None]) -> Callable[..., None]:
        def attempt(*arguments: Any) -> None:
            try:
                if not self._failed:
                    function(*arguments)
            except OSError as error:
                self._fail(error)

        return attempt

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            where = f"TensorBoard's file in {self.save_dir}"
            print(f"{where} cannot be written ({error.strerror}): metrics.csv has all metrics", file=sys.stderr)
        self._failed = True
