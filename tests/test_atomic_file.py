from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_subnets import atomic_file
from lightning_subnets.atomic_file import check_place, replacing
from lightning_subnets.errors import UserError
from lightning_subnets.training.checkpoint import CheckpointFiles

# Loads the file without the package, and so without torch and its threads, so that a fork is a complete copy.
KILLED_AT_EACH_BYTE = """
import importlib.util, os, signal, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("atomic_file", sys.argv[1])
atomic_file = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic_file)
path, new = Path(sys.argv[2]), b"the new content"
for last in range(len(new) + 1):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert path.read_bytes() == b"what is there", last
        continue
    with atomic_file.replacing(path) as file:
        for byte in new[:last]:
            file.write(bytes([byte]))
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
with atomic_file.replacing(path) as file:
    file.write(new)
assert path.read_bytes() == new
assert os.listdir(path.parent) == [path.name]
"""


def test_a_kill_at_any_byte_leaves_what_was_there_and_the_next_writing_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"what is there")
    subprocess.run([sys.executable, "-c", KILLED_AT_EACH_BYTE, atomic_file.__file__, path], check=True, timeout=60)


def test_a_failure_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"what is there")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.writelines(bytes([1 // (2 - count)]) for count in range(3))
    assert path.read_bytes() == b"what is there"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


def test_two_writers_of_a_file_at_once_both_write_it_completely(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    with replacing(path) as first:
        first.write(b"the first ")
        with replacing(path) as second:
            second.write(b"the second writer")
        assert path.read_bytes() == b"the second writer"
        first.write(b"writer")
    assert path.read_bytes() == b"the first writer"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


def test_only_a_regular_file_is_replaced_even_by_force(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null")):
        for force in (True, False):
            with pytest.raises(UserError, match=r"is a device, a pipe or a socket, .*: name a file"):
                check_place(path, force=force)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("dangling", "new"):
        check_place(tmp_path / name, force=False)


def test_only_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    others = [".kept.my.partial", ".kept.0123456.partial", ".kept.0123456789.partial", ".kept.0123456g.partial"]
    for name in (*others, ".kept.01234567.partial", ".kept.89abcdef.partial"):
        (tmp_path / name).touch()
    atomic_file.write(tmp_path / "kept", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "kept"])


def test_a_file_is_written_if_the_file_system_refuses_to_flush_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr("os.fsync", refuse)
    atomic_file.write(tmp_path / "kept", "new")
    assert (tmp_path / "kept").read_text() == "new"


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_it_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, files = tmp_path / "new" / "last.ckpt", CheckpointFiles()
    files.save_checkpoint({"step": 1}, path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.warns(UserWarning, match=r"last\.ckpt could not be written .*No space left.*the old one is kept"):
        files.save_checkpoint({"step": 2}, path)
    assert torch.load(path) == {"step": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
