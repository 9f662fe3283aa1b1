"""The files of the zoo hold what they claim."""

from __future__ import annotations

import pytest
import yaml
from repository import ROOT

from lightning_subnets.commands.subnets import main


def test_every_file_of_the_zoo_holds_what_it_claims(capsys: pytest.CaptureFixture[str]) -> None:
    zoo = ROOT / "results" / "zoo"
    stated = yaml.safe_load((zoo / "claims.yaml").read_text())
    embedded = [name for name, claim in stated.items() if claim["test"]["data"] == "Digits"]
    assert len(embedded) >= 2
    assert all(claim["file"]["bytes"] < 1_000_000 for claim in stated.values())
    main(["verify", str(zoo), "--data.root=nowhere"])
    printed = capsys.readouterr().out
    others = len(stated) - len(embedded)
    assert f"{len(embedded)} of {len(stated)} claims verified, 0 wrong, {others} not checked" in printed
