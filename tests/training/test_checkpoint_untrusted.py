"""A checkpoint is not trusted: damage is one error before anything is loaded, and memory is bounded by its size."""

from __future__ import annotations

import pickle
import tracemalloc
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_files import GONE, Call, pickled, places, replaced, view, zip_file
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from small_runs import quiet_trainer
from torch import Tensor, nn

import lightning_subnets as ls
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.datamodules import Digits
from lightning_subnets.interop.importing import import_subnet_
from lightning_subnets.training import checkpoint
from lightning_subnets.training.callbacks import LastCheckpoint, MaskStatistics
from lightning_subnets.training.module import SubnetModule
from lightning_subnets.training.run_masks import masks_of


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def module() -> SubnetModule:
    return SubnetModule(
        network(), ls.EdgePopup(0.5), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    )


def fit(folder: Path, steps: int, resumed: Path | None = None) -> Trainer:
    best = ModelCheckpoint(folder, filename="best", monitor="val/accuracy", mode="max", enable_version_counter=False)
    limits = {"max_epochs": -1, "max_steps": steps, "limit_train_batches": 5, "limit_val_batches": 1}
    trainer = quiet_trainer(callbacks=[MaskStatistics(), best, LastCheckpoint(folder)], **limits)
    trainer.fit(module(), datamodule=Digits(), ckpt_path=resumed)
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint from the middle of an epoch."""
    path = tmp_path_factory.mktemp("run") / "middle.ckpt"
    fit(path.parent, steps=8).save_checkpoint(path)
    return path


def same(ours: Any, theirs: Any) -> bool:
    """Whether two contents are equal bit for bit."""
    if isinstance(ours, Tensor):
        forms = [(each.dtype, each.shape, each.numpy().tobytes()) for each in (ours, theirs)]
        return forms[0] == forms[1]
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(same(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and bool(ours == theirs)


@pytest.mark.parametrize("count", [100, pytest.param(5000, marks=pytest.mark.long)])
def test_a_bit_that_has_changed_is_refused_or_changes_nothing(count: int, whole: Path, tmp_path: Path) -> None:
    content, bytes_, path = checkpoint.read(whole), whole.read_bytes(), tmp_path / "flipped.ckpt"
    rng, refused = np.random.default_rng(0), 0
    places = [
        *rng.integers(0, 8 * len(bytes_), count // 2),
        *rng.integers(8 * (len(bytes_) - 3500), 8 * len(bytes_), count // 2),
    ]
    for place in places:
        flipped = bytearray(bytes_)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            assert same(content, checkpoint.read(path)), place
        except ls.UserError:
            refused += 1
    assert refused > 0.7 * count  # the others are in times, padding and what else no reader looks at


def opcodes(*parts: bytes) -> bytes:
    """A pickle of a list that refers to a dict of 20,000 keys, stored as item 1 of the memo."""
    large = pickle.dumps(dict.fromkeys(range(20_000)), protocol=2)[2:-1].replace(b"q\x00", b"", 1)
    return b"\x80\x02](" + large + b"q\x01" + b"".join(parts) + b"e."


def twice(levels: int) -> Any:
    """A list that holds a list twice, which holds a list twice, and so on: 2**levels lists in a few bytes a level."""
    value: Any = []
    for _ in range(levels):
        value = [value, value]
    return value


def endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def archive(*records: tuple[str, bytes]) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, content in records:
            written.writestr(f"archive/{name}", content)
    return file.getvalue()


COPIED = b"ccollections\nOrderedDict\nh\x01\x85R"
BUILT = b"ccollections\nOrderedDict\n)Rh\x01b"
NUMBER = np.ones(1, np.float32).tobytes()


@pytest.mark.parametrize(
    "content",
    [
        zip_file(opcodes(COPIED * 3000)),
        zip_file(opcodes(b"ccollections\nOrderedDict\nq\x020", b"h\x02h\x01\x85R" * 3000)),
        zip_file(opcodes(b"h\x01\x85q\x030", b"ccollections\nOrderedDict\nh\x03R" * 3000)),
        zip_file(opcodes(BUILT * 3000)),
        zip_file(pickled(twice(40))),
        zip_file(pickled(endless())),
        zip_file(pickled({"x": Call(bytearray, 10**9)})),
        zip_file(pickled({}) + bytes(10**9 // 16), compression=zipfile.ZIP_DEFLATED),
        zip_file(pickled({"x": view(torch.FloatStorage, 10**11, (1,), (1,))}), NUMBER),
        archive(("DATA.PKL", pickled({"x": Call(bytearray, 10**9)})), ("version", b"3")),
        archive(("DATA.PKL", pickled({"x": Call(bytearray, 10**9)})), ("data.pkl", pickled({})), ("version", b"3")),
    ],
    ids=[
        *("copied", "function", "arguments", "attributes", "doubled", "endless"),
        *("bytearray", "compressed", "storage", "capitals", "both"),
    ],
)  # fmt: skip
def test_a_small_file_that_would_take_much_memory_is_an_error_before_it_does(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "hostile.ckpt"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ls.UserError, match="cannot be read"):
        checkpoint.read(path)
    with pytest.raises(ls.UserError, match=r"cannot be read|more than tensors"):
        import_subnet_(path, network(), weights="signed_constant")
    assert tracemalloc.get_traced_memory()[1] < 40_000_000
    tracemalloc.stop()


def test_python_sees_no_other_archive_than_torch(tmp_path: Path) -> None:
    """A second list of records, before the comment that makes Python take the first."""
    torch.save({"x": 1}, tmp_path / "whole.ckpt")
    whole = (tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "two.ckpt").write_bytes(whole + whole)
    with pytest.raises(ls.UserError, match="truncated, damaged"):
        checkpoint.read(tmp_path / "two.ckpt")


VALUES: list[Any] = [
    *(5, None, [], {}, "__all__", torch.zeros(3), -1, float("nan"), [1] * 5000, True, 10**30, OrderedDict(), (), {1}),
    *(
        GONE,
        torch.ones((), dtype=torch.complex64),
        torch.ones((), dtype=torch.int8).expand(10**6),
        "\x1b[2J\n",
        "false",
    ),
]


@pytest.mark.filterwarnings("ignore")  # a number that can be is taken, and Lightning may warn of what follows
@pytest.mark.parametrize(
    ("count", "fits"),
    [(100, 1), pytest.param(300, 5, marks=pytest.mark.thorough), pytest.param(10**6, 10**6, marks=pytest.mark.long)],
)
def test_a_checkpoint_with_any_value_replaced_is_refused_or_can_be_resumed(
    count: int, fits: int, whole: Path, tmp_path: Path
) -> None:
    content, path, rng = torch.load(whole, weights_only=True), tmp_path / "changed.ckpt", np.random.default_rng(0)
    masks = masks_of(content, network())
    changes = [(place, value) for place in places(content) for value in VALUES if place or value is not GONE]
    accepted = []
    for index in rng.permutation(len(changes))[:count]:
        place, value = changes[index]
        torch.save(replaced(content, place, value), path)
        try:
            changed = checkpoint.read(path)
            assert all(torch.equal(mask, masks[name]) for name, mask in masks_of(changed, network()).items()), place
            checkpoint.validate_and_complete_(changed, module(), to_train=True)
            accepted.append((place, value))
        except ls.UserError as error:
            message = str(error).replace(str(path), "")
            assert len(message) < 600, message
    assert 0 < len(accepted) < 0.15 * len(changes)
    for index in rng.permutation(len(accepted))[:fits]:
        place, value = accepted[index]
        torch.save(replaced(content, place, value), path)
        try:
            fit(whole.parent, steps=12, resumed=path)
        except ls.UserError:
            pass
        except Exception as error:
            raise AssertionError((place, value)) from error


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("subnet", "network"), "\x1b[2J\nerror: all is lost"),
        *(
            pytest.param(place, value, marks=pytest.mark.thorough)
            for place, value in [
                (("subnet", "method"), "__all__"),
                (("optimizer_states",), []),
                (("state_dict", "network.features.0.scores"), torch.zeros(64, 1, 3, 3, dtype=torch.int32)),
            ]
        ),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_every_command_refuses_a_damaged_checkpoint_in_one_line(
    place: tuple[Any, ...], value: Any, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder.parent / "config.yaml").write_bytes((finished_run / "config.yaml").read_bytes())
    content = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)
    path = str(folder / "last.ckpt")
    torch.save(replaced(content, place, value), path)
    resume = ["fit", "--ckpt_path", path, "--trainer.max_epochs=3", f"--trainer.default_root_dir={tmp_path}/runs"]
    commands = [(lightning, resume)]
    if place[0] != "optimizer_states":  # which nothing else needs
        out = str(tmp_path / "out.pt")
        commands += [(lightning, ["test", "--ckpt_path", path]), (subnets, ["inspect", path])]
        commands += [(subnets, ["export", path, out]), (subnets, ["check", path])]
    for main, arguments in commands:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        error = capsys.readouterr().err
        assert ended.value.code == 2, arguments
        assert error.startswith("error: "), error
        assert error.count("\n") == 1, error
        assert error[:-1].isprintable(), error
