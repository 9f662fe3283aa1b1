from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from metric_rows import rows

from lightning_subnets.run_files import drawing
from lightning_subnets.training.loggers import MetricsFile


def log(file: MetricsFile, steps: range, **more: float) -> None:
    for step in steps:
        file.log_metrics({"loss": 1 / (step + 1), "epoch": step // 2, **more}, step)
        file.save()


def content(folder: Path) -> bytes:
    return (folder / "metrics.csv").read_bytes()


def test_a_row_is_in_the_file_when_save_returns_and_columns_are_sorted(tmp_path: Path) -> None:
    file = MetricsFile(str(tmp_path))
    log(file, range(1))
    assert content(tmp_path) == b"epoch,loss,step\r\n0,1.0,0\r\n"
    log(file, range(1, 2))
    assert content(tmp_path) == b"epoch,loss,step\r\n0,1.0,0\r\n0,0.5,1\r\n"
    log(file, range(2, 3), accuracy=0.25)
    assert content(tmp_path).splitlines()[:2] == [b"accuracy,epoch,loss,step", b",0,1.0,0"]
    assert content(tmp_path).splitlines()[-1] == b"0.25,1,0.3333333333333333,2"
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_without_a_row_nothing_is_written_or_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (None, 0):
        MetricsFile(str(tmp_path), step=step).save()
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


def test_another_rank_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(MetricsFile(str(tmp_path)), range(4))
    before = content(tmp_path)
    monkeypatch.setattr("lightning.fabric.utilities.rank_zero.rank_zero_only.rank", 1)
    log(MetricsFile(str(tmp_path), step=3), range(3, 6))
    assert content(tmp_path) == before


def test_a_resumed_run_ends_with_the_file_of_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    file = MetricsFile(str(whole))
    log(file, range(5))
    log(file, range(5, 8), accuracy=0.5)
    for kill_at in range(len(content(whole)) + 1):
        (tmp_path / "metrics.csv").write_bytes(content(whole)[:kill_at])
        done = sum(line.endswith(b"\r\n") for line in content(whole)[:kill_at].splitlines(keepends=True)[1:])
        step = max(0, done - 2)  # the checkpoint is older than the last rows
        file = MetricsFile(str(tmp_path), step=step)
        log(file, range(step, 5))
        log(file, range(max(step, 5), 8), accuracy=0.5)
        assert content(tmp_path) == content(whole), kill_at


def test_rows_before_the_checkpoint_stay_byte_for_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = b"epoch,loss,step\r\n0,1.00,0\r\n\r\n0,0.50,1\r\n1,0.30,2\r\n1,0.25,3\r\n1,0.2,2"
    (tmp_path / "metrics.csv").write_bytes(before)
    file = MetricsFile(str(tmp_path), step=3)
    log(file, range(3, 4))
    assert content(tmp_path) == b"epoch,loss,step\r\n0,1.00,0\r\n0,0.50,1\r\n1,0.30,2\r\n1,0.25,3\r\n"
    assert capsys.readouterr().err == ""
    assert os.listdir(tmp_path) == ["metrics.csv"]


GOOD = b"epoch,loss,step\r\n0,1.0,0\r\n0,0.5,1\r\n1,0.25,2\r\n1,0.2,3\r\n"


def damaged(old: bytes, new: bytes) -> bytes:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("before", "lost"),
    [
        (damaged(b"epoch,loss,step", b"epoch,lo\xff\xff,step"), None),
        (damaged(b"epoch,loss,step", b"epoch,loss,stop"), None),
        (damaged(b"epoch,loss,step\r\n", b""), None),
        (damaged(b"epoch,loss,step\r\n", b"epoch,loss,step"), None),
        (damaged(b"epoch,loss,step", b"epoch,step,loss"), None),
        (b"\0" * len(GOOD), None),
        (damaged(b"epoch,loss,step", b"epoch,step"), [0, 1, 2, 3]),
        (damaged(b"0,0.5,1", b"0,0.\xff,1"), [1]),
        (damaged(b"0,0.5,1", b"0,0.5,one"), [1]),
        (damaged(b"0,0.5,1", b"0,0.5"), [1]),
        (damaged(b"0,0.5,1", b"0,half,1"), [1]),
        (damaged(b"0,0.5,1", b"inf,0.5,1"), [1]),
        (damaged(b"0,0.5,1", b'0,0.5,"1'), [1]),
        (damaged(b"0,0.5,1", b"0," + b"5" * 200_000 + b",1"), [1]),
        (damaged(b"0.25,2\r\n1,0.2,3\r\n", b"\0" * 16), [2, 3]),
    ],
    ids=map(str, range(15)),
)
def test_a_damaged_file_is_kept_aside_and_its_good_rows_stay(
    before: bytes, lost: list[int] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(before)
    drawing.read_metrics(path)
    for _ in range(2):  # the second time the file is whole
        log(MetricsFile(str(tmp_path), step=3), range(3, 5))
        steps = [step for step in range(3) if lost is not None and step not in lost]
        assert [step for step, _ in rows(tmp_path)] == [*steps, 3, 4]
        assert content(tmp_path).splitlines()[0] == b"epoch,loss,step"
        assert (tmp_path / "metrics_damaged_0.csv").read_bytes() == before
        assert sorted(os.listdir(tmp_path)) == ["metrics.csv", "metrics_damaged_0.csv"]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"{path} is damaged: ")
    assert ("its header cannot" in said) == (lost is None)
    assert "kept as metrics_damaged_0.csv, and metrics.csv continues with the " in said


def test_another_damaged_file_gets_a_name_of_its_own(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "metrics.csv").write_bytes(b"no header %d\r\n" % number)
        log(MetricsFile(str(tmp_path), step=1), range(1, 2))
        assert (tmp_path / f"metrics_damaged_{number}.csv").read_bytes() == b"no header %d\r\n" % number


def test_a_run_that_is_resumed_without_its_file_prints_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log(MetricsFile(str(tmp_path), step=3), range(3, 5))
    said = f"{tmp_path}/metrics.csv: no row was logged before step 3, or it is lost; a new one begins\n"
    assert capsys.readouterr().err == f"there is no {said}"
    assert [step for step, _ in rows(tmp_path)] == [3, 4]


@pytest.mark.parametrize("cut", [None, 0, 5, 18, 30])
@pytest.mark.parametrize("more", [{}, {"accuracy": 0.5}], ids=["rows", "a column"])
def test_a_file_that_is_deleted_or_shortened_during_the_run_is_written_again(
    cut: int | None, more: dict[str, float], tmp_path: Path
) -> None:
    for folder in (tmp_path / "whole", tmp_path / "cut"):
        folder.mkdir()
        file = MetricsFile(str(folder))
        log(file, range(3))
        if folder.name == "cut":
            (folder / "metrics.csv").unlink() if cut is None else os.truncate(folder / "metrics.csv", cut)
        log(file, range(3, 5), **more)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_metrics_logged_without_a_step_belong_to_the_last_step(tmp_path: Path) -> None:
    file = MetricsFile(str(tmp_path))
    for step in (None, 4, None):
        file.log_metrics({"loss": 1.0}, step)
    file.save()
    assert [step for step, _ in rows(tmp_path)] == [0, 4]


def test_a_row_with_nan_that_is_logged_again_is_one_row(tmp_path: Path) -> None:
    file = MetricsFile(str(tmp_path))
    for _ in range(2):
        file.log_metrics({"loss": float("nan")}, 5)
    file.save()
    assert content(tmp_path) == b"loss,step\r\nnan,5\r\n"


def test_the_file_stays_if_no_row_is_dropped(tmp_path: Path) -> None:
    log(MetricsFile(str(tmp_path)), range(3))
    inode = (tmp_path / "metrics.csv").stat().st_ino
    log(MetricsFile(str(tmp_path), step=3), range(3, 4))
    assert (tmp_path / "metrics.csv").stat().st_ino == inode


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_kill_while_a_column_is_added_leaves_the_last_good_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(MetricsFile(str(tmp_path)), range(3))
    good = content(tmp_path)

    def kill(*_: object) -> None:
        raise _Killed

    if call == "write":
        # Between any two bytes: the new file begins, and its name is never that of the old one.
        opened = Path.open

        def half(path: Path, mode: str = "r", **options: Any) -> Any:
            if mode != "xb":
                return opened(path, mode, **options)
            with opened(path, mode) as file:
                file.write(b"accuracy,epo")
            raise _Killed

        monkeypatch.setattr(Path, "open", half)
    elif call == "fsync":
        monkeypatch.setattr(os, "fsync", kill)
    else:
        monkeypatch.setattr(Path, "replace", kill)
    with pytest.raises(_Killed):
        log(MetricsFile(str(tmp_path), step=3), range(3, 4), accuracy=0.5)
    monkeypatch.undo()
    assert content(tmp_path) == good
    log(MetricsFile(str(tmp_path), step=3), range(3, 4), accuracy=0.5)
    assert len(content(tmp_path).splitlines()) == 5
    assert os.listdir(tmp_path) == ["metrics.csv"]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file grows beyond a size, in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [60, 85])
@pytest.mark.parametrize("more", [{}, {"accuracy": 0.5}], ids=["rows", "a column"])
def test_rows_that_a_full_disk_refuses_are_written_later(
    more: dict[str, float], room: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = MetricsFile(str(tmp_path))
    for step in range(5000):  # enough for the limit not to touch what the test itself prints
        file.log_metrics({"loss": 1 / (step + 1), "epoch": step // 2}, step)
    file.save()
    good = content(tmp_path)
    with full_disk(len(good) + room):
        log(file, range(5000, 5020), **more)
        assert content(tmp_path).startswith(good)
        assert content(tmp_path).endswith(b"\r\n")
        assert os.listdir(tmp_path) == ["metrics.csv"]
    log(file, range(5020, 5030), **more)
    assert [step for step, _ in rows(tmp_path)] == list(range(5030))
    assert len(drawing.read_metrics(tmp_path / "metrics.csv").get("accuracy", ([],))[0]) == 30 * len(more)
    assert os.listdir(tmp_path) == ["metrics.csv"]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"{tmp_path}/metrics.csv cannot be written now: ")
