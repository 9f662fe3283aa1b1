"""Rehearse an ImageNet run with a few photographs, from the archives to answers: see README.md beside this file.

    python data/rehearse_imagenet.py /path/to/photographs
    python data/rehearse_imagenet.py /path/to/photographs --image_size 224 --trainer.accelerator=gpu

The photographs become archives like those of ILSVRC 2012, with one image for each of 1,000 classes. The rest are the
commands of a real run: those of README.md that unpack the archives, prepare_imagenet.py, two epochs of
configs/wrn50_signed.yaml on two processes of a CPU, which are stopped once and killed once, and the exports. The
exported files must give the answers of the run. More options are those of lightning fit.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from scipy.io import savemat
from torch import Tensor

from lightning_subnets import UserError, load_subnet
from lightning_subnets.commands import failures
from lightning_subnets.commands import subnets as commands
from lightning_subnets.datamodules import ImageNet
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.image_files import image_paths, read_image
from lightning_subnets.run_files.saved_run import SavedRun
from lightning_subnets.training import checkpoint

ROOT = Path(__file__).resolve().parents[1]
CLASSES = [f"n{1_440_764 + 13_921 * index:08d}" for index in range(1000)]
VALIDATED = 100  # images
# ImageNet too has a PNG file that is named .JPEG, and photographs in CMYK and in grey.
ODD_FORMATS = {0: ("RGB", "PNG"), 1: ("CMYK", "JPEG"), 2: ("L", "JPEG")}
FFCV, ONNX = installed(), bool(find_spec("onnxruntime"))
BEGAN = time.monotonic()


def archive(images: list[bytes]) -> list[int]:
    """Write the three archives of ILSVRC 2012 with these images, and return the label of each validation image."""
    rng = random.Random(0)
    with tarfile.open("ILSVRC2012_img_train.tar", "w") as archives:
        for index, name in enumerate(CLASSES):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive_of_class:
                add(archive_of_class, f"{name}_{index}.JPEG", images[index % len(images)])
            add(archives, f"{name}.tar", inner.getvalue())
    labels = [rng.randrange(len(CLASSES)) for _ in range(VALIDATED)]
    with tarfile.open("ILSVRC2012_img_val.tar", "w") as archive:
        for index in range(VALIDATED):
            add(archive, f"ILSVRC2012_val_{index + 1:08d}.JPEG", images[3 * index % len(images)])
    # The development kit numbers the classes in an order of its own, and has more classes than photographs.
    numbered = [*rng.sample(CLASSES, len(CLASSES)), "n00001740"]
    table = np.zeros((len(numbered), 1), [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    for index, name in enumerate(numbered):
        table[index, 0] = (index + 1, name, f"thing {index + 1}")
    savemat(meta := io.BytesIO(), {"synsets": table})
    truth = "".join(f"{numbered.index(CLASSES[label]) + 1}\n" for label in labels)
    with tarfile.open("ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        add(archive, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.encode())
    return labels


def encoded(photographs: Path, longer_side: int) -> list[bytes]:
    """Return the files of at most 1,000 photographs, scaled to at most this size."""
    paths = image_paths(photographs)[: len(CLASSES)] if photographs.is_dir() else []
    if not paths:
        raise UserError(f"{photographs} has no images: name a folder of photographs")
    files = []
    for index, path in enumerate(paths):
        mode, kind = ODD_FORMATS.get(index, ("RGB", "JPEG"))
        image, file = read_image(path), io.BytesIO()
        image.thumbnail((longer_side, longer_side))
        image.convert(mode).save(file, kind)
        files.append(file.getvalue())
    return files


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def start(*command: object) -> subprocess.Popen[bytes]:
    """Print a command and start it, with the programs of this Python first."""
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    # In a job of SLURM, Lightning would leave it to srun to start the processes.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(words, env=environment)


def run(*command: object) -> None:
    """Run a command that has to succeed."""
    check(start(*command).wait() == 0, "the command succeeds")


def subnets(*words: object) -> None:
    """Run a command of ``subnets`` in this process, which has imported everything."""
    print(f"\n$ {shlex.join(['subnets', *map(str, words)])}", flush=True)
    commands.main([str(word) for word in words])


def check(holds: bool, what: str) -> None:
    if not holds:
        raise UserError(f"the rehearsal expects that {what}, and this does not hold: the lines above may say why")
    print(f"checked after {time.monotonic() - BEGAN:.0f} s: {what}", flush=True)


def fit(options: list[str]) -> Path:
    """Train until a stop, resume until a process is killed, resume until the end, and return the last checkpoint."""
    loader = [] if FFCV else ["--data.loader=folder"]
    root = Path("imagenet" if FFCV else "ILSVRC2012").resolve()
    command = ["lightning", "fit", "-c", "wrn50_signed", "--version=rehearsal", f"--data.root={root}", *loader]
    command += ["--data.batch_size=32", "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.max_epochs=2"]
    command += ["--trainer.log_every_n_steps=1", *options]  # so that metrics.csv says how far the run is
    folder = Path("runs/wrn50_signed/rehearsal")
    last = folder / "checkpoints" / "last.ckpt"

    process = start(*command)
    wait_for_steps(2, folder, process)
    process.send_signal(signal.SIGTERM)
    check(process.wait() == 128 + signal.SIGTERM, "SIGTERM stops the run")
    saved = checkpoint.read(last)
    stopped, batches = saved["global_step"], saved["run"]["batches"]
    check(stopped < batches, f"it has stopped within the first epoch (after step {stopped} of {batches})")

    process = start(*command)
    wait_for_steps(stopped + 2, folder, process)
    os.kill(last_rank(process), signal.SIGKILL)
    check(process.wait() != 0, "the run ends when one of its processes is killed")
    check(checkpoint.read(last)["global_step"] == stopped, "its last checkpoint is still that of the stop")

    run(*command)
    summary = json.loads((folder / "summary.json").read_text())
    check(summary["steps"] == 2 * batches, f"the resumed run has all {2 * batches} steps of two epochs")
    check(summary["weights_unchanged"], "no frozen weight has changed")
    return last


def wait_for_steps(steps: int, folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has logged that many steps."""
    metrics, done = folder / "metrics.csv", 0
    while done < steps:
        check_runs(process)
        time.sleep(0.02)
        if metrics.exists():
            with metrics.open() as file:
                done = 1 + max((int(row["step"]) for row in csv.DictReader(file) if row["step"]), default=-1)


def check_runs(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        check(False, "the run continues until it is stopped")


def last_rank(process: subprocess.Popen[bytes]) -> int:
    """Return the process of the highest rank on this machine, which is a child of the first rank."""
    ranks = {0: process.pid}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if found := re.search(rb"\0LOCAL_RANK=(\d+)", Path(f"/proc/{child}/environ").read_bytes()):
            ranks[int(found[1])] = int(child)
    return ranks[max(ranks)]


@torch.no_grad()
def compare(last: Path, labels: list[int]) -> None:
    """Compare what exported files answer with what the run's own network answers."""
    saved = SavedRun(str(last))
    data = saved.data()
    data.setup("test")
    images, found = zip(*data.test_dataloader(), strict=True)
    check(torch.cat(found).tolist() == labels, "every validation image has the label of the development kit")
    if FFCV:
        folder = ImageNet("ILSVRC2012", "folder", image_size=data.image_shape[-1], num_workers=0)
        folder.setup("test")
        same = torch.cat([batch for batch, _ in folder.test_dataloader()])
        check(torch.equal(torch.cat(images), same), "FFCV gives the validation images that are in the folder")
    batch = data.normalize(torch.cat(images))[:8]
    expected = saved.module().eval()(batch)
    subnets("export", last, "net.subnet")
    subnets("inspect", "net.subnet")
    check(close(load_subnet("net.subnet").eval()(batch), expected), "the .subnet file gives the logits of the run")
    if not ONNX:
        print('\nonnxruntime is not installed, so nothing is served: pip install "lightning-subnets[onnx]"')
        return
    import onnxruntime

    subnets("export", "net.subnet", "net.onnx")
    (logits,) = onnxruntime.InferenceSession("net.onnx").run(["logits"], {"images": batch.numpy()})
    check(close(torch.from_numpy(logits), expected), "the .onnx file gives the logits of the run")
    run("lightning", "predict", "--ckpt_path", last, "--data.images=ILSVRC2012/val", "--trainer.precision=32-true")
    # Two processes write a file each, with every other photograph.
    rows = [row for path in last.parents[1].glob("predictions*.csv") for row in csv.DictReader(path.open())]
    predicted = {row["file"]: row for row in rows}
    check(len(predicted) == VALIDATED, "every photograph has a prediction")
    for photo in sorted(predicted)[:4]:
        check(serve(photo, predicted[photo]), "classify.py serves the answer of lightning predict")


def serve(photo: str, row: dict[str, str]) -> bool:
    """Return whether docs/classify/classify.py names the class of a prediction, with its probability."""
    command = [sys.executable, str(ROOT / "docs" / "classify" / "classify.py"), "net.onnx", photo]
    print(f"\n$ {shlex.join(command)}", flush=True)
    served = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    print(served, end="")
    percent, name, *_ = served.split()
    # It prints tenths of a per cent.
    return name == row["predicted"] and abs(float(percent.rstrip("%")) / 100 - float(row["probability"])) < 6e-4


def close(logits: Tensor, expected: Tensor) -> bool:
    return torch.allclose(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, help="a folder of any photographs")
    parser.add_argument("--out", type=Path, default=Path("runs/rehearsal"), help="a new directory, of 3 GB")
    parser.add_argument("--image_size", type=int, default=32, help="height and width in pixels; the real run has 224")
    arguments, options = parser.parse_known_args(args)
    with failures.told_in_one_line():
        rehearse(arguments.photographs, arguments.out, arguments.image_size, options)


def rehearse(photographs: Path, out: Path, image_size: int, options: list[str]) -> None:
    images = encoded(photographs, min(500, 4 * image_size))  # at most what prepare_imagenet.py stores
    try:
        out.mkdir(parents=True)
    except FileExistsError as error:
        raise UserError(f"{out} exists: remove it, or name another directory with --out") from error
    os.chdir(out)
    labels = archive(images)
    (unpack,) = re.findall(r"```bash\n(mkdir -p ILSVRC2012.*?)```", (ROOT / "data/README.md").read_text(), re.DOTALL)
    run("bash", "-ec", unpack)
    if FFCV:
        prepare = ROOT / "data" / "prepare_imagenet.py"
        run("python", prepare, "--source", "ILSVRC2012", "--out", "imagenet", "--image_size", image_size)
    compare(fit([f"--data.image_size={image_size}", *options]), labels)
    print(f"\nEverything works, in {(time.monotonic() - BEGAN) / 60:.1f} minutes. To clean up: rm -r {out}")


if __name__ == "__main__":
    main()
