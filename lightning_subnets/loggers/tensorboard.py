"""A run in TensorBoard, whose file is never a reason to stop it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(TensorBoardLogger):
    """Lightning's ``TensorBoardLogger``, which a full disk does not turn into the end of the run.

    Where its file cannot be written, that is said once and nothing more is written to it, because a record that is
    there in part hides those after it. ``metrics.csv`` has the same metrics.
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
            # All that is logged comes through here, in a thread whose error the next call would raise.
            records: Any = writer._get_file_writer().event_writer._async_writer._writer
            for name in ("write", "flush", "close"):
                setattr(records, name, self._until_it_fails(getattr(records, name)))
        return cast("SummaryWriter", super().experiment)

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
            print(
                f"TensorBoard's file in {self.save_dir} cannot be written ({error.strerror}): what it lacks is in "
                "metrics.csv",
                file=sys.stderr,
            )
        self._failed = True
