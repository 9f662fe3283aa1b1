"""The ``subnets`` command: list configs, export, import, inspect, check and verify subnetworks, and experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionYesNo, ArgumentParser, auto_cli

from lightning_subnets._version import in_words
from lightning_subnets.commands import failures
from lightning_subnets.commands.arguments import with_home
from lightning_subnets.commands.configs import configs
from lightning_subnets.errors import UserError


def main(args: list[str] | None = None) -> None:
    """Run a command line; end it with one clear error and exit code 2 if it has a mistake."""
    commands: dict[str, Any] = {
        command.__name__.rstrip("_"): command
        for command in (configs, inspect, check, verify, sweep, report, continual, export, import_)
    }
    with failures.told_in_one_line():
        auto_cli(commands, args=with_home(args), prog="subnets", version=in_words(), parser_class=Parser)


class Parser(ArgumentParser):
    """A parser whose errors have no usage before them, and whose flags need no value."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("type") is bool:
            del kwargs["type"]
            kwargs["action"] = ActionYesNo(no_prefix=None)  # type: ignore[arg-type]
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        failures.end(message, tip="subnets --help lists the commands")


def export(
    checkpoint: str,
    out: str,
    input_shape: tuple[int, int, int] | None = None,
    force: bool = False,
    model_card: bool = False,
    license: str | None = None,
    network: str | None = None,
    int8: bool = False,
    calibrate: str | None = None,
    task: str | None = None,
) -> None:
    """Write the subnetwork of a run into a .subnet, .pt, .safetensors or .onnx file.

    - .subnet: the seed of the weights, one bit per weight, all trained parameters, and the run's whole config.
    - .pt, .safetensors: the state dict of the plain network, with zeros for the weights that are not kept.
    - .onnx: the plain network; its logits in onnxruntime are compared with PyTorch's before the file is kept.
    - .md: the model card of a .subnet file, with the header that the Hugging Face Hub reads.

    Args:
        checkpoint: a checkpoint of a run, its directory, last or best, or a .subnet file, also as hf://user/name/file.subnet.
        out: the file to write.
        input_shape: channels, height and width of an image, for .onnx if the run's data are not on this machine.
        force: replace existing files.
        model_card: write README.md, the model card, beside a .subnet file.
        license: the license in the model card, for example apache-2.0; it has none by default.
        network: the function or class that builds the network of a .subnet file, if it is your own: mynet.MyNet.
        int8: write an .onnx file whose weights and activations have eight bits; signed constants stay exact.
        calibrate: a folder of images to find the ranges of the activations with, instead of training images.
        task: the task of a .subnet file that has several.
    """
    from lightning_subnets.commands import exporting

    _check_shape(input_shape)
    exporting.export(
        checkpoint,
        Path(out),
        input_shape,
        force=force,
        card=model_card,
        license=license,
        network=network,
        int8=int8,
        calibrate=calibrate,
        task=task,
    )


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
    """Convert another program's subnetwork to a .subnet file: a public edge-popup checkpoint, or a file of masks.

    Args:
        file: a file of torch or safetensors with scores or masks, see docs/subnet_file.md.
        out: the .subnet file to write.
        network: the function or class that builds the network, for example torchvision.models.resnet50.
        arguments: the arguments of the network, for example '{num_classes: 10}'.
        density: the fraction of weights to keep, needed for a file of scores (``prune_rate`` in the public code).
        weights: the distribution to draw the weights from, needed if the file has masks and no weights.
        seed: the seed to draw the weights with.
        force: replace an existing file.
    """
    from lightning_subnets.commands.exporting import print_size
    from lightning_subnets.interop import exporting
    from lightning_subnets.interop.importing import import_subnet_
    from lightning_subnets.run_files.builders import class_path_of, named_builder
    from lightning_subnets.subnet_file import save_subnet
    from lightning_subnets.subnet_file.building import build

    path = Path(out)
    if network is None:
        raise UserError(f"{file} does not name its network: set it, for example --network=torchvision.models.resnet50")
    if path.suffix != ".subnet":
        raise UserError(f"{out} does not end in .subnet: import writes this format only, and subnets export the others")
    exporting.check(path, force=force)
    plain = build(network, arguments or {}, trusted=named_builder(network))
    import_subnet_(file, plain, density=density, weights=weights, seed=seed)
    save_subnet(plain, path, network={"class_path": class_path_of(network), "init_args": arguments or {}}, force=force)
    print_size(path)


def inspect(file: str, against: str | None = None, input_shape: tuple[int, int, int] | None = None) -> None:
    """Print the weights of a subnetwork, with size, density and units, its paths, and the trace of the path kernel.

    For a run, ``widths.png`` is drawn in the run's directory; for a file, the file's header is printed.

    Args:
        file: a checkpoint of a run, its directory, last or best (of the newest run in runs), or a .subnet file.
        against: another subnetwork of the same network, to compare the masks.
        input_shape: channels, height and width of an image, if the run's data are not on this machine.
    """
    from lightning_subnets.commands.inspecting import show_file, show_run
    from lightning_subnets.run_files.naming_checkpoints import checkpoint_named

    _check_shape(input_shape)
    file, against = checkpoint_named(file), against and checkpoint_named(against)
    (show_file if file.endswith(".subnet") else show_run)(file, against, input_shape)


def _check_shape(input_shape: tuple[int, int, int] | None) -> None:
    if input_shape and min(input_shape) < 1:
        raise UserError(f"input_shape = {list(input_shape)} has a size below 1")


def check(checkpoint: str, batches: int = 10, images: int = 10_000, seeds: int = 3) -> None:
    """Test what a mask depends on: shuffle it, redraw its weights, or use one value for all weights.

    Prints the accuracies.

    Args:
        checkpoint: a checkpoint of a run, its directory, last or best.
        batches: the number of batches of training images for the running statistics of norms.
        images: the number of test images, at most.
        seeds: how often masks are shuffled and weights drawn.
    """
    from lightning_subnets.commands.inspecting import print_checks
    from lightning_subnets.run_files.naming_checkpoints import checkpoint_named

    for name, value in (("batches", batches), ("images", images), ("seeds", seeds)):
        if value < 1:
            raise UserError(f"{name} = {value} is below 1")
    print_checks(checkpoint_named(checkpoint), batches, images, seeds)


def verify(folder: str, data: dict[str, Any] | None = None) -> None:
    """Compute every claim about the .subnet files of a folder again, from the files; fail if one is wrong.

    ``claims.yaml`` in the folder states the digest, size, density and accuracy of each file. The accuracy of a claim is
    not checked if its test images are not on this machine. For a file without a claim, prints the row to add.

    Args:
        folder: for example results/zoo.
        data: arguments of the data, for example --data.root=data/cifar10.
    """
    from lightning_subnets.commands import verifying

    if not verifying.verify(Path(folder), data or {}):
        failures.end("a claim is wrong or missing", code=1)


def sweep(
    figure: str,
    scale: str | None = None,
    out: str = "runs/figures",
    at_once: int | None = None,
    slurm: bool = False,
    partition: str | None = None,
    gpus: int | None = None,
    cpus: int | None = None,
    time: str | None = None,
    max_jobs: int | None = None,
    status: bool = False,
) -> None:
    """Run all unfinished runs of a figure; the same command resumes a stopped sweep.

    Writes ``results.csv``, with a row for each run, into a directory for the figure and its scale. With ``--slurm``
    it submits the runs and returns; ``--status`` shows them, also from another shell or to another user.

    Args:
        figure: the name of a shipped figure, for example figure3, or the path of a figure's file.
        scale: a scale of the figure: smoke takes minutes, laptop an hour, evening hours on a GPU; paper is all of it.
            By default smoke, or the only scale of the figure.
        out: the directory of the runs, which all figures share.
        at_once: the number of runs at a time on each GPU, or on the CPU if there is no GPU.
        slurm: submit a job for each run that is neither done nor submitted; without SLURM, run in the background here.
        partition: with --slurm: the partition of the jobs. sbatch's variables set the rest, such as SBATCH_ACCOUNT.
        gpus: with --slurm: the number of GPUs of each run, on one node, by default 1.
        cpus: with --slurm: the number of CPUs of each run, by default 12 for each GPU, or 4 without one.
        time: with --slurm: the time limit of a job, by default 08:00:00; a longer run is requeued until it is done.
        max_jobs: with --slurm: the number of runs at a time, by default no limit.
        status: show what waits, runs, is done and has failed, and why, and draw what there is.
    """
    from lightning_subnets.commands import sweeping

    asked = {"partition": partition, "gpus": gpus, "cpus": cpus, "time": time, "max_jobs": max_jobs}
    given = {name: value for name, value in asked.items() if value is not None}
    if given and not slurm:
        raise UserError(f"--{next(iter(given))} is for jobs: give it together with --slurm")
    if slurm + status + (at_once is not None) > 1:
        raise UserError("--slurm, --status and --at_once exclude each other: leave out all but one of them")
    if status:
        sweeping.status(figure, scale, Path(out))
    elif slurm:
        sweeping.submit(figure, scale, Path(out), given)
    else:
        sweeping.make(figure, scale, Path(out), at_once)


def continual(file: str, out: str | None = None) -> None:
    """Learn many tasks on one seed, each with its own mask, and tell them apart by one gradient.

    Writes ``tasks.subnet``, ``results.csv`` and ``tasks.png``. The same command resumes a stopped one.

    Args:
        file: the name of a shipped experiment, for example permuted_digits, or the path of its file.
        out: the directory to write to, by default runs/continual/<name of the file>.
    """
    from lightning_subnets.commands import continual as learning
    from lightning_subnets.run_files.shipped_configs import named_config

    path = named_config(file, "continual")
    learning.continual(path, Path(out or f"runs/continual/{path.stem}"))


def report(runs: str, out: str | None = None) -> None:
    """Draw figures and tables of runs, and ``index.html`` with all of them, which opens without a network.

    The figures of an incomplete sweep show the finished runs, and name the missing ones.

    Args:
        runs: a directory with sweeps or runs in it, the directory of one sweep or of one run, or last.
        out: the directory to write to, by default ``report`` in that directory.
    """
    from lightning_subnets.experiments import report as reports
    from lightning_subnets.run_files.naming_checkpoints import WORDS, checkpoint_named

    if runs in WORDS:
        runs = str(Path(checkpoint_named(runs)).parents[1])
    reports.report(runs, out)
