"""A stranger's text, in a file or in a file name, cannot control the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from repository import ROOT

from lightning_subnets.commands import failures
from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main as subnets
from lightning_subnets.errors import printable
from lightning_subnets.progress_bar import progress


def test_a_strangers_text_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[2J\nerror: b\r\u202ec\u2028d\ud800\x9b"
    shown = r"a\x1b[2J\nerror: b\r\u202ec\u2028d\ud800\x9b"
    assert printable(hostile) == shown
    assert printable("Größe 日本 [bold]") == "Größe 日本 [bold]"
    with pytest.raises(SystemExit):
        failures.end("first\n  second\x1b\nerror: third")
    assert capsys.readouterr().err == "error: first\n  second\\x1b\n  error: third\n"


def test_a_files_name_is_printed_as_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a\x1b[2J\nerror: b.ckpt"
    evaluated = ["test", "-c", str(ROOT / "configs" / "quickstart.yaml"), f"--ckpt_path={path}"]
    for main, arguments in ((subnets, ["inspect", str(path)]), (lightning, evaluated)):
        with pytest.raises(SystemExit):
            main(arguments)
        error = capsys.readouterr().err
        assert r"a\x1b[2J\nerror: b.ckpt does not exist" in error
        assert error[:-1].isprintable()


def test_a_name_with_markup_is_printed_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.accelerator=cpu"]
    names = ["--name=lr[/x][bold]a", "--version=[red]b"]
    lightning(["fit", "-c", str(ROOT / "configs" / "quickstart.yaml"), *short, *names])
    said = capsys.readouterr()
    assert "run  runs/lr[/x][bold]a/[red]b " in said.out
    assert " x][bold]a: EdgePopup " in said.out
    assert "everything goes into runs/lr[/x][bold]a/[red]b" in said.err
    checkpoint = "runs/lr[/x][bold]a/[red]b/checkpoints/last.ckpt"
    subnets(["export", checkpoint, "[red]b.subnet"])
    subnets(["inspect", checkpoint, "--against", "[red]b.subnet"])
    said = capsys.readouterr()
    assert "[red]b.subnet: " in said.out
    assert "in common with [red]b.subnet: 100.00%" in said.out
    assert "lr[/x][bold]a/[red]b/widths.png" in "".join(said.out.split())


def test_a_progress_bar_prints_a_files_name_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert [*progress([1, 2], "testing a[/b]\x1b]0;mine\x07.subnet")] == [1, 2]
    assert r"testing a[/b]\x1b]0;mine\x07.subnet" in terminal.getvalue()
    assert "\x1b]0;" not in terminal.getvalue()


def test_a_narrow_terminal_cuts_off_no_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    subnets(["inspect", str(ROOT / "results" / "zoo" / "cifar10_airbench.subnet")])
    said = capsys.readouterr().out
    assert "294,912" in said
    assert "…" not in said


def test_help_warns_of_a_strangers_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lightning(["test", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "can name any code to run: take a stranger's network as a .subnet file" in said
