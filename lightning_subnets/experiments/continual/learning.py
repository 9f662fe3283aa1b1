"""Learn the tasks of a continual experiment one after the other, and test what is remembered of all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_subnets import atomic_file
from lightning_subnets.continual import SupSup
from lightning_subnets.datamodules.images import ImageDataModule
from lightning_subnets.datamodules.loader import generator
from lightning_subnets.errors import UserError
from lightning_subnets.graph.logits import logits_of
from lightning_subnets.masking import unmask_
from lightning_subnets.masking.digest import digest_of
from lightning_subnets.progress_bar import progress
from lightning_subnets.subnet_file.container import Container
from lightning_subnets.training import csv_text
from lightning_subnets.training.csv_text import Row
from lightning_subnets.training.module import SubnetModule

SIZES = (1, 4, 16, 64)  # of the batches of unlabelled images whose task is inferred
Built = tuple[SubnetModule, ImageDataModule, Trainer]


class Learning:
    """The directory of an experiment, with ``tasks.subnet`` and ``results.csv``, which grow with each task.

    Args:
        folder: of the experiment; it may hold the first tasks already.
        build: returns a new module, its data and a Trainer for the number of a task.
        saved: the builder of the network, as ``SupSup.save`` takes it.
    """

    def __init__(self, folder: Path, build: Callable[[int], Built], saved: Any) -> None:
        self.folder, self.build, self.saved = folder, build, saved
        self.file, self.results = folder / "tasks.subnet", folder / "results.csv"
        network, data = _untrained(build(0))
        # The names of the classes if they are the same in all tasks, or else none.
        self.classes = Container(self.file, whole=True).header.classes if self.file.exists() else list(data.classes)
        self.tasks = SupSup.load(self.file, network=network) if self.file.exists() else SupSup(network)
        self.rows = _read(self.results)[: len(self.tasks)] if len(self.tasks) else []
        if [row["task"] for row in self.rows] != self.tasks.names:
            raise UserError(
                f"{self.results} does not have the tasks of {self.file}: remove both, or name another --out"
            )

    def learn(self, total: int) -> None:
        """Learn the tasks that are missing."""
        for number in progress(range(len(self.tasks), total), f"learning {total} tasks"):
            module, data, trainer = self.build(number)
            trainer.fit(module, datamodule=data)
            images, labels = test_images(data, self.tasks.net)
            # The answers of what the file will hold: one mask of each task, where the network of a run may have another
            # memory format, and sample others at each pass.
            self.tasks.net.load_state_dict(module.network.state_dict())
            answers = _answers(unmask_(copy.deepcopy(self.tasks.net)).eval(), images)
            accuracy = int((answers.argmax(dim=1) == labels).sum()) / len(labels)
            about = data.preprocessing
            own = {"permutation": about.pop("permutation")} if "permutation" in about else {}
            self.tasks.add(str(number), accuracy=accuracy, preprocessing=own)
            self.rows.append({"task": str(number), "test_accuracy": accuracy, "answers": _digest(answers)})
            self._write()  # first, because a resumed run takes the tasks of the file
            if list(data.classes) != self.classes:
                self.classes = []
            self.tasks.save(self.file, network=self.saved, classes=self.classes, preprocessing=about, force=True)

    def test(self) -> list[list[float]]:
        """Read the file again, and test for each task what it answers and whether its images tell it.

        Returns: for the largest batch of each task, the slopes of all tasks, see ``SupSup.slopes``.
        """
        # Into the network of the config, because the builder of a network of your own is not imported for a file.
        tasks, matrix = SupSup.load(self.file, network=_untrained(self.build(0))[0]), []
        for number, row in enumerate(progress(self.rows, f"testing {len(self.rows)} tasks")):
            _, data, _ = self.build(number)
            images, _ = test_images(data, tasks.net)
            row["unchanged"] = str(_digest(_answers(tasks.network(str(number)), images)) == row["answers"]).lower()
            order = torch.randperm(len(images), generator=generator(number))
            for size in SIZES:
                slopes = tasks.slopes(images[order[:size]])
                row[f"inferred_from_{size}"] = max(slopes, key=slopes.__getitem__)
            matrix.append([*slopes.values()])
        self._write()
        return matrix

    def summary(self) -> dict[str, str]:
        """Return the results in words, after ``test``."""
        accuracies = [float(row["test_accuracy"] or 0) for row in self.rows]
        size, count = self.file.stat().st_size, len(self.rows)
        inferred = {size: self.inferred(size) for size in SIZES}
        return {
            "tasks": f"{count} on one seed, {len({row['answers'] for row in self.rows})} different answers",
            "accuracy, task known": f"{mean(accuracies):.2%}, {min(accuracies):.2%} or more in each task",
            "task inferred": f"{inferred[SIZES[-1]]:.1%} by one gradient on {SIZES[-1]} unlabelled test images",
            "from fewer images": ", ".join(f"{share:.1%} from {size}" for size, share in inferred.items()),
            "chance": f"{1 / count:.1%}",
            "answers unchanged": f"{sum(row['unchanged'] == 'true' for row in self.rows)} of {count}, bit for bit",
            "file": f"{size / 1000:,.0f} kB, {size / count / 1000:.2f} kB a task",
        }

    def inferred(self, size: int) -> float:
        """Return the share of the tasks that were inferred from batches of a size."""
        return mean(row[f"inferred_from_{size}"] == row["task"] for row in self.rows)

    def _write(self) -> None:
        atomic_file.write(self.results, csv_text.table(self.rows), advice="name another --out")


def _untrained(built: Built) -> tuple[nn.Module, ImageDataModule]:
    """Return the network and the data of a task.

    The network has the memory format of the file, because convolutions in another one round differently.
    """
    module, data, _ = built
    return module.network.to(memory_format=torch.contiguous_format), data


def test_images(data: ImageDataModule, network: nn.Module) -> tuple[Tensor, Tensor]:
    """Return all normalised test images, in the precision of the network, and their labels."""
    data.setup("test")
    batches = [(data.normalize(images), labels) for images, labels in data.test_dataloader()]
    images = torch.cat([images for images, _ in batches]).cpu().to(next(network.parameters()).dtype)
    return images, torch.cat([labels for _, labels in batches]).cpu()


@torch.no_grad()
def _answers(network: nn.Module, images: Tensor) -> Tensor:
    return logits_of(network, network(images))


def _digest(answers: Tensor) -> str:
    return digest_of({"logits": answers})


def _read(path: Path) -> list[Row]:
    try:
        return [
            {"task": row["task"], "test_accuracy": float(row["test_accuracy"]), "answers": row["answers"]}
            for row in csv_text.read(path)
        ]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove its directory, or name another --out") from error
