"""Scripts in the place of SLURM's programs, and a figure to submit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from small_figure import CONFIG, FIGURE

from lightning_subnets.commands.subnets import main

OUT = Path("out")


class Cluster:
    """A PATH with scripts in the place of SLURM's programs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        monkeypatch.setattr("lightning_subnets.experiments.report.report", lambda *_: None)  # which takes long
        Path("bin").mkdir()
        monkeypatch.setenv("PATH", str(Path("bin").absolute()))
        for tool in ("sh", "env", "kill", "cat", "sleep"):
            Path("bin", tool).symlink_to(shutil.which(tool, path="/usr/bin:/bin") or "")
        monkeypatch.setenv("XDG_STATE_HOME", str(Path("state").absolute()))
        monkeypatch.setenv("USER", "ada")
        self.program("srun", "exit 1")
        self.program("sbatch", "echo Submitted batch job 77")
        self.program("squeue", "cat queue")
        self.queue()

    def program(self, name: str, script: str) -> None:
        Path("bin", name).write_text(f"#!{Path('bin/sh').absolute()}\n{script}\n")
        Path("bin", name).chmod(0o755)

    def queue(self, *states: str) -> None:
        """Set what squeue prints: a line for each run of the last submission, of the user ben."""
        files = sorted(OUT.glob("submissions/*.json"), key=lambda path: path.stat().st_mtime)
        name = files[-1].stem if files else ""
        lines = [f"{name}|77|{task}|{state}|1:23|ben|Resources|x" for task, state in enumerate(states)]
        Path("queue").write_text("".join(f"{line}\n" for line in lines))

    def sweep(self, *options: str) -> list[str]:
        """Return the lines that ``subnets sweep`` prints."""
        self._capsys.readouterr()
        main(["sweep", "figure.yaml", "--out=out", *options])
        return self._capsys.readouterr().out.splitlines()

    def mistake(self, *options: str) -> str:
        """Return the error that ``subnets sweep`` prints."""
        with pytest.raises(SystemExit) as ended:
            self.sweep(*options)
        assert ended.value.code == 2
        return self._capsys.readouterr().err

    def submissions(self) -> list[dict[str, object]]:
        return [json.loads(path.read_text()) for path in OUT.glob("submissions/*.json")]


def write_figure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("configs").mkdir()
    Path("configs/small.yaml").write_text(CONFIG)
    Path("figure.yaml").write_text(yaml.safe_dump(FIGURE))
