"""Shared fixtures: random numbers, a finished run, a mistake on a command line, small data sets, a W&B server."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import torch

# Without a GPU, Triton's interpreter runs its kernels; Triton reads this variable when it is imported.
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

from hypothesis import settings
from PIL import Image
from repository import ROOT
from wandb_server import KEY, WandbServer, serving

from lightning_subnets.commands.cli import main
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.preparation import prepare

# Hypothesis draws the same examples in every run; make test-long draws different ones each time.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("exploring", deadline=None)
settings.load_profile("repeatable")

QUICKSTART = ROOT / "configs" / "quickstart.yaml"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the thorough tests, which are the longest, so that no core ends with a long one alone.

    xdist gives each worker a part of the list, of equal length, and a worker without tests takes some from another.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    thorough = [item for item in items if item.get_closest_marker("thorough")]
    quick = [item for item in items if not item.get_closest_marker("thorough")]
    share = -(-len(quick) // workers)
    items[:] = [
        item
        for worker in range(workers)
        for item in thorough[worker::workers] + quick[worker * share : (worker + 1) * share]
    ]


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Handle Ctrl-C as in a terminal, because a process in the background of a script inherits that it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def mistake(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command line with a user's mistake, and returns its standard error."""

    def run(arguments: list[str], command: Callable[[list[str]], None] = main) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            command(arguments)
        assert exit_info.value.code == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return error

    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    options = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", f"--trainer.default_root_dir={root}"]
    main(["fit", "-c", str(QUICKSTART), *options])
    return root / "quickstart" / "version_0"


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with 7 photographs in each ``train/<class>`` and 4 in each ``val/<class>``, of 3 classes.

    They are real, and repeat if a class has too few, if ``SUBNETS_TEST_IMAGES`` names a directory with a folder for
    each class. Otherwise they are smooth random pictures, landscape and portrait, one of them grey and one CMYK.
    """
    root = tmp_path_factory.mktemp("photographs")
    source = os.environ.get("SUBNETS_TEST_IMAGES")
    classes = sorted(path for path in Path(source).resolve().iterdir() if path.is_dir())[:3] if source else []
    sizes = cycle([(320, 240), (240, 320), (400, 260), (256, 256), (90, 130)])
    rng = np.random.default_rng(0)
    for label in range(3):
        real = cycle(sorted(classes[label].iterdir())) if source else None
        for folder, count in (("train", 7), ("val", 4)):
            directory = root / folder / (classes[label].name if source else f"class_{label}")
            directory.mkdir(parents=True)
            for index, size in enumerate(islice(sizes, count)):
                path = directory / f"{index}.jpg"
                if real is not None:
                    path.symlink_to(next(real))
                    continue
                coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
                mode = {0: "L", 1: "CMYK"}.get(index, "RGB") if label == 0 else "RGB"
                coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    return root


@pytest.fixture(scope="session")
def betons(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the photographs in ``train.beton``, half of them raw, and ``val.beton``, of 64 pixels."""
    if not installed():
        pytest.skip("FFCV is not installed: data/install_ffcv.sh")
    root = tmp_path_factory.mktemp("betons")
    prepare(root, photographs, raw_share=0.5, image_size=64, num_workers=2)
    return root


@pytest.fixture(scope="session")
def cifar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with 6 images in each ``train/<class>`` and 3 in each ``test/<class>``, of 10 classes.

    An image has 32x32 pixels of its class's colour with noise, so that a network can learn the classes.
    """
    root = tmp_path_factory.mktemp("cifar")
    rng = np.random.default_rng(0)
    for label in range(10):
        colour = rng.integers(0, 192, 3)
        for folder, count in (("train", 6), ("test", 3)):
            directory = root / folder / f"class_{label}"
            directory.mkdir(parents=True)
            for index in range(count):
                pixels = colour + rng.integers(0, 64, (32, 32, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(directory / f"{index}.png")
    return root


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make this machine one on which nobody has logged in to Weights & Biases."""
    import wandb
    from wandb.sdk.lib.module import unset_globals

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    yield
    wandb.teardown()
    unset_globals()  # type: ignore[no-untyped-call]  # of a run whose W&B has died


@pytest.fixture
def server(no_account: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server
