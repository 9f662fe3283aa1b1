"""The ``subnets`` command: what is done with a run that is no verb of a Trainer."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jsonargparse import ActionYesNo, ArgumentParser, auto_cli

from lightning_subnets.commands import failures
from lightning_subnets.errors import UserError, printable

if TYPE_CHECKING:
    from lightning_subnets.experiments.sweep.plan import Sweep


def main(args: list[str] | None = None) -> None:
    """Run a command line; a user's mistake ends it with one clear error and exit code 2."""
    commands: dict[str, Any] = {
        "inspect": inspect,
        "check": check,
        "sweep": sweep,
        "report": report,
        "export": export,
        "import": import_,  # a keyword of Python's
    }
    with failures.told_in_one_line():
        auto_cli(commands, args=args, prog="subnets", parser_class=Parser)


class Parser(ArgumentParser):
    """Says what is wrong without the usage before it, and takes ``--force`` without a value."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("type") is bool:
            del kwargs["type"]
            kwargs["action"] = ActionYesNo(no_prefix=None)  # type: ignore[arg-type]
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        failures.end(message, tip="subnets --help lists what it can do")


def export(
    checkpoint: str,
    out: str,
    input_shape: tuple[int, int, int] | None = None,
    force: bool = False,
) -> None:
    """Write the subnetwork of a run into a file, of the form that its ending names.

    - .subnet: the seed of the weights, a bit for each, and what has been trained; and the run's config, whole.
    - .pt, .safetensors: the state dict of the plain network, the mask folded into its weights.
    - .onnx: the plain network, once its logits in onnxruntime are found to be those of PyTorch.

    Args:
        checkpoint: of a run, or a .subnet file.
        out: the file to write.
        input_shape: channels, height and width of an image, for .onnx where the run's data are not at hand.
        force: replace a file that is there.
    """
    from lightning_subnets import masking
    from lightning_subnets.interop import exporting
    from lightning_subnets.run_files.saved_run import SavedRun
    from lightning_subnets.subnet_file import load_subnet, save_subnet
    from lightning_subnets.subnet_file.container import Container

    path = Path(out)
    exporting.check(path, force=force)
    _check_shape(input_shape)
    if checkpoint.endswith(".subnet"):
        if path.suffix == ".subnet":
            raise UserError(f"{checkpoint} is a .subnet file already: copy it")
        header = Container(Path(checkpoint)).header
        network, details, shape = load_subnet(checkpoint), header.details(), input_shape or header.image_shape
    else:
        run = SavedRun(checkpoint)
        network, details = run.module().network, run.details()
        if path.suffix == ".subnet":
            save_subnet(network, path, **details, force=force)
            _print_size(path)
            return
        masking.unmask_(network)
        shape = input_shape or details["preprocessing"].get("input_shape")
    if path.suffix == ".onnx" and not shape:
        raise UserError("what shape an image has is not known here: --input_shape='[3, 224, 224]' for instance")
    texts = {name: json.dumps(details[name]) for name in ("classes", "accuracy", "preprocessing")}
    exporting.export(network.eval(), path, input_shape=tuple(shape or ()), details=texts, force=force)
    _print_size(path)


def import_(
    file: str,
    out: str,
    network: str | None = None,
    arguments: dict[str, Any] | None = None,
    density: float | None = None,
    weights: str | None = None,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Make a .subnet file of a subnetwork from elsewhere: edge-popup's public checkpoints, or plain masks.

    Args:
        file: of torch or safetensors, see ``interop/importing.py``.
        out: the .subnet file to write.
        network: what builds its network, torchvision.models.resnet50 for instance.
        arguments: of what builds it, '{num_classes: 10}' for instance.
        density: the fraction of weights kept, for a file of scores; the public code's prune_rate.
        weights: the distribution to draw them from, for a file of masks alone.
        seed: of the weights that are drawn.
        force: replace a file that is there.
    """
    from lightning_subnets.interop import exporting
    from lightning_subnets.interop.importing import import_subnet_
    from lightning_subnets.subnet_file import save_subnet
    from lightning_subnets.subnet_file.network import build, builder

    path = Path(out)
    if network is None:
        raise UserError(f"what network {file} is of is not in it: --network=torchvision.models.resnet50 for instance")
    if path.suffix != ".subnet":
        raise UserError(f"{out} does not end in .subnet, which is what is written here; subnets export writes others")
    exporting.check(path, force=force)
    if builder(network) is None:
        raise UserError(f"{network} is no network of torchvision.models, timm or lightning_subnets.networks")
    plain = build(network, arguments or {})
    import_subnet_(file, plain, density=density, weights=weights, seed=seed)
    save_subnet(plain, path, network={"class_path": network, "init_args": arguments or {}}, force=force)
    _print_size(path)


def _print_size(path: Path) -> None:
    from rich.filesize import decimal

    print(
        f"{printable(str(path))}: {decimal(path.stat().st_size)}"
        + (", see subnets inspect" if path.suffix == ".subnet" else "")
    )


def inspect(file: str, against: str | None = None, input_shape: tuple[int, int, int] | None = None) -> None:
    """What is in a subnetwork: by layer, weights, density and units; in all, paths and the trace of the path kernel.

    Of a run, it draws ``widths.png`` beside the checkpoint's folder too; of a file, it prints all that it says.

    Args:
        file: the checkpoint of a run, or a .subnet file.
        against: another of the same network, to see what the two masks have in common.
        input_shape: channels, height and width of an image, where the run's data are not at hand.
    """
    from lightning_subnets.commands.inspecting import show_file, show_run

    _check_shape(input_shape)
    (show_file if file.endswith(".subnet") else show_run)(file, against, input_shape)


def _check_shape(input_shape: tuple[int, int, int] | None) -> None:
    if input_shape and min(input_shape) < 1:
        raise UserError(f"input_shape = {list(input_shape)} has a size below 1")


def check(checkpoint: str, batches: int = 10, images: int = 10_000, seeds: int = 3) -> None:
    """What a found mask depends on: shuffled, with its weights drawn again, with one weight for all; see ``sanity.py``.

    Prints the accuracies.

    Args:
        checkpoint: of a run.
        batches: of training images for the running statistics of norms.
        images: of the test set that the accuracy is of, at most.
        seeds: how often masks are shuffled and weights drawn.
    """
    from lightning_subnets.commands.checking import print_checks

    for name, value in (("batches", batches), ("images", images), ("seeds", seeds)):
        if value < 1:
            raise UserError(f"{name} = {value} is below 1")
    print_checks(checkpoint, batches, images, seeds)


def sweep(
    figure: str,
    scale: str = "smoke",
    out: str = "runs/figures",
    at_once: int | None = None,
    list: str | None = None,
) -> None:
    """Make all runs of a figure that are not made yet; the same command goes on with a sweep that was stopped.

    Keeps ``results.csv``, a row a run, in a directory for the figure and its scale.

    Args:
        figure: a file of configs/figures.
        scale: one of the figure's: smoke, in minutes; laptop, in an hour; evening, hours on a GPU; paper, all of it.
        out: directory of the runs, which figures share.
        at_once: runs at a time on each GPU, or on the processors where there is none.
        list: a file to write the commands into for slurm/sweep.sbatch, instead of running them.
    """
    from lightning_subnets.commands import cli
    from lightning_subnets.experiments.sweep import results, running
    from lightning_subnets.experiments.sweep.plan import Sweep

    planned, folder = Sweep.read(Path(figure), scale), Path(out)
    if list is not None:
        _write_list(planned, folder, Path(list))
        return
    rows = running.run_all(planned, folder, running.slots(at_once, planned.scale.at_once), cli.main)
    report(str(results.folder_of(planned, folder)))
    if any(row["status"] != "finished" for row in rows):
        print(f"error: not all runs are finished; what each prints is in {folder / 'runs'}/<run>.log", file=sys.stderr)
        sys.exit(1)


def report(runs: str, out: str | None = None) -> None:
    """Figures and tables of what has been run, and ``index.html`` that holds them all and opens without a network.

    Of a sweep that is not complete the figures are drawn with what is there, and say what is missing.

    Args:
        runs: a directory with sweeps or runs in it, or that of one sweep or of one run.
        out: where to write, by default ``report`` in that directory.
    """
    from lightning_subnets.experiments import report as reports

    reports.report(runs, out)


def _write_list(planned: Sweep, out: Path, path: Path) -> None:
    """The runs that are not made yet, a line each, as slurm/sweep.sbatch reads them."""
    from lightning_subnets.experiments.sweep import results, running

    waiting = running.unfinished(planned, out)
    if not waiting:
        print(f"all runs of {planned.name} are finished")
        return
    try:
        with path.open("x") as file:
            file.writelines(f"{shlex.join(running.arguments_of(run, out))}\n" for run in waiting)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): name another --list") from error
    results.write(planned, results.collect(planned, out), results.folder_of(planned, out))
    print(f"sbatch --array=1-{len(waiting)} --gpus-per-node=1 --cpus-per-gpu=12 slurm/sweep.sbatch {path}")
