"""``subnets export``: the subnetwork of a run or of a ``.subnet`` file in a file of another format."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal

from lightning_subnets import datamodules, masking
from lightning_subnets.commands import calibration
from lightning_subnets.commands.calibration import Calibration
from lightning_subnets.datamodules.crops import shorter_side
from lightning_subnets.errors import UserError, printable
from lightning_subnets.interop import exporting, model_card
from lightning_subnets.interop.int8 import EightBit
from lightning_subnets.run_files.builders import build_of_file
from lightning_subnets.run_files.naming_checkpoints import checkpoint_named
from lightning_subnets.run_files.saved_config import data_of_file
from lightning_subnets.run_files.saved_run import SavedRun
from lightning_subnets.subnet_file import load_subnet, save_subnet
from lightning_subnets.subnet_file.container import Container

Shape = tuple[int, int, int] | None


def export(
    checkpoint: str,
    path: Path,
    input_shape: Shape,
    *,
    force: bool,
    card: bool,
    license: str | None,
    network: str | None,
    int8: bool,
    calibrate: str | None,
    task: str | None,
) -> None:
    """Write the file that ``subnets export`` describes, and print what it is."""
    checkpoint = checkpoint_named(checkpoint)
    only_card = path.suffix == ".md"
    place = path if only_card else path.with_name("README.md")
    if card or only_card:
        if not (checkpoint.endswith(".subnet") if only_card else path.suffix == ".subnet"):
            raise UserError(f"a model card describes a .subnet file: export {checkpoint} to one with --model_card")
        model_card.check(place, force=force)
    elif license is not None:
        raise UserError("--license is written into a model card: add --model_card")
    if int8 and path.suffix != ".onnx":
        raise UserError(f"--int8 writes eight-bit ONNX, and {path} does not end in .onnx: name a file that does")
    if calibrate is not None and not int8:
        raise UserError("--calibrate names the images for eight bits: add --int8")
    if input_shape is not None and path.suffix != ".onnx":
        raise UserError(f"--input_shape is the input of an .onnx file, and {path} is not one: leave it out")
    if only_card:
        if task is not None:
            raise UserError(f"{path} describes a file of one network: export --task={task} to a .subnet file first")
        if network is not None:
            raise UserError(f"{path} is a model card, for which no network is built: leave out --network")
        _write_card(checkpoint, place, license, force=force)
        return
    exporting.check(path, force=force)
    masked = path.suffix == ".subnet"
    if checkpoint.endswith(".subnet"):
        if masked and task is None:
            raise UserError(f"{checkpoint} is a .subnet file already: copy it, or write its model card, README.md")
        file = Container(checkpoint, task=task)
        built = {"class_path": file.header.network.builder, "init_args": file.header.network.arguments}
        details, shape = {"network": built, **file.header.details()}, input_shape or file.header.image_shape
        trained_on = partial(calibration.of_file, file, checkpoint)
        plain = build_of_file(file, checkpoint, network, "--network")
        net = load_subnet(checkpoint, network=plain, masked=masked, task=task)
    else:
        if task is not None:
            raise UserError(f"--task names a task of a .subnet file, and {checkpoint} is a checkpoint: leave it out")
        if network is not None:
            raise UserError(
                f"--network builds the network of a .subnet file, and {checkpoint} is a checkpoint, whose config.yaml "
                "names its network: leave it out"
            )
        run = SavedRun(checkpoint)
        net = run.module().network
        details = run.details(net)
        shape = input_shape or details["preprocessing"].get("input_shape")
        trained_on = partial(calibration.of_run, run)
        if not masked:
            masking.unmask_(net)
    if masked:
        save_subnet(net, path, **details, force=force)
        print_size(path)
        if card:
            _write_card(str(path), place, license, force=force)
        return
    if int8 or (shape and list(shape) != list(details["preprocessing"].get("input_shape", shape))):
        details["accuracy"] = {}  # it was measured in float32, and on images of another shape
    if shape:
        details["preprocessing"] = {**details["preprocessing"], "input_shape": list(shape)}
    if input_shape and "resize" in details["preprocessing"]:
        details["preprocessing"]["resize"] = shorter_side(min(input_shape[1:]))  # of photographs
    images = _images(trained_on, calibrate, details, shape) if int8 else None
    if path.suffix == ".onnx" and not shape:
        raise UserError("the shape of an image is unknown: set it, for example --input_shape='[3, 224, 224]'")
    others = {each.dtype for each in net.parameters() if each.is_floating_point()} - {torch.float32}
    if path.suffix == ".onnx" and others:
        print(f"the network is {', '.join(sorted(map(str, others)))}, and {printable(str(path))} computes in float32")
    texts = {name: json.dumps(details[name]) for name in ("classes", "accuracy", "preprocessing")}
    eight = exporting.export(
        net.eval(),
        path,
        input_shape=tuple(shape or ()),
        details=texts,
        force=force,
        calibration=images.images if images else None,
    )
    print_size(path)
    if eight and images:
        _print_measured(eight, images)


def _images(
    trained_on: Callable[[], Calibration], calibrate: str | None, details: dict[str, Any], shape: Shape
) -> Calibration:
    """Return the images of a folder, if one is named, otherwise images that the network was trained on."""
    if calibrate is None:
        images = trained_on()
    else:
        images = calibration.of_folder(calibrate, details["preprocessing"], tuple(shape or ()))
    if shape and tuple(images.images.shape[1:]) != tuple(shape):
        raise UserError(
            f"{images.source} are {'x'.join(map(str, images.images.shape[1:]))}, and --input_shape is "
            f"{'x'.join(map(str, shape))}: name a folder of images of that shape with --calibrate"
        )
    return images


def _print_measured(eight: EightBit, images: Calibration) -> None:
    lines = {
        "weights": str(eight.weights),
        "activations": f"eight bits, calibrated on {images.source}",
        "in float32": ", ".join(eight.left) or "nothing",
        "logits": f"differ from PyTorch's by {eight.difference:.2%} of the largest, the median over these images",
        "top-1 class": f"that of PyTorch for {eight.agreement:.2%} of these images",
        "file": f"{eight.share:.3f} of the float32 file's size",
    }
    for name, text in lines.items():
        print(f"{name:>12}  {printable(text)}")


def _write_card(subnet: str, card: Path, license: str | None, *, force: bool) -> None:
    model_card.write(subnet, card, data=_data_set(subnet), license=license, force=force)
    print(f"{printable(str(card))}: the model card, to be read before it is published")


def _data_set(subnet: str) -> str | None:
    """Return the class of the data of a file's accuracy, or None if they may be other images than its class is for."""
    try:
        name, arguments = data_of_file(Container(subnet), subnet)
    except UserError:  # the file names no data of this package
        return None
    kind = getattr(datamodules, name)
    if not issubclass(kind, datamodules.CIFAR10):
        return name
    root = Path(str(arguments.get("root", signature(kind).parameters["root"].default)))
    if (root / kind.base_folder).is_dir() and not (root / "train").is_dir():
        return name
    print(
        f"the card does not say that the accuracy is on {name}: {printable(str(root))} does not hold the files that "
        "torchvision downloads, and a folder of images may hold others, such as JPEG files"
    )
    return None


def print_size(path: Path) -> None:
    """Print the name and the size of a file that was written."""
    hint = "; subnets inspect shows what it contains" if path.suffix == ".subnet" else ""
    print(f"{printable(str(path))}: {decimal(path.stat().st_size)}{hint}")
