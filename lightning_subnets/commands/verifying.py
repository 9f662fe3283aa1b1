"""``subnets verify``: compute every claim about the ``.subnet`` files of a folder again."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Column, Table

from lightning_subnets.commands import claims
from lightning_subnets.commands.claims import Claim, File, Test
from lightning_subnets.errors import UserError, printable
from lightning_subnets.subnet_file.building import builder


def verify(folder: Path, arguments: dict[str, Any]) -> bool:
    """Print what is found of each claim, and return whether none is wrong and no file lacks a claim."""
    stated = claims.read(folder)
    claims.check_arguments(arguments)
    columns = ("size", "kept", "data", "claimed", "found")
    right = (Column(title, justify="right") for title in columns)
    table = Table(Column("file", overflow="fold"), *right, "verdict", collapse_padding=True)  # for 80 columns
    notes: list[str] = []
    verified = wrong = 0
    for name, claim in stated.items():
        verdict, found, reason = _verdict(folder / name, claim, arguments)
        verified, wrong = verified + (verdict == "verified"), wrong + (verdict == "wrong")
        if reason:
            notes.append(f"{name}, {verdict}: {reason}")
        density = f"{claim.file.kept / claim.file.total:.1%}" if claim.file.total else ""
        accuracies = (f"{claim.test.accuracy:.2%}", f"{found.accuracy:.2%}" if found else "")
        file = name.removesuffix(".subnet")
        table.add_row(*map(_shown, (file, decimal(claim.file.bytes), density, claim.test.data, *accuracies, verdict)))
    Console().print(table)
    for note in notes:
        print(printable(note))
    unclaimed = sorted(path for path in folder.glob("*.subnet") if path.name not in stated)
    for path in unclaimed:
        try:
            row = _row(path, arguments)
        except UserError as error:
            print(printable(f"{path.name} has no claim, and none can be computed here: {error}"))
        else:
            print(f"{printable(path.name)} has no claim. Complete this row and add it to {folder / claims.NAME}:\n")
            print(row)
    print(f"{verified} of {len(stated)} claims verified, {wrong} wrong, {len(stated) - verified - wrong} not checked")
    return not wrong and not unclaimed


def _verdict(path: Path, claim: Claim, arguments: dict[str, Any]) -> tuple[str, Test | None, str]:
    """Return ``verified``, ``wrong`` or ``not checked``, the test if there was one, and a reason."""
    try:
        differences = _differences(claim.file, claims.file_facts(path))
    except UserError as error:
        return "wrong", None, str(error)
    if differences:
        return "wrong", None, differences
    try:
        if (kind := claims.kind_of(path)) != claim.test.data:
            return "wrong", None, f"data is {kind} instead of {claim.test.data}"
        if builder(claim.file.network) is None:
            return "not checked", None, f"{claim.file.network} is not of torchvision, timm or this package"
        data = claims.data_of(path, arguments)
    except UserError as error:
        return "not checked", None, str(error)
    try:
        found = claims.test_facts(path, data)
    except UserError as error:
        return "wrong", None, str(error)
    # Images in a directory may be others of the same name; those that come with a package are those of the claim.
    if hasattr(data, "root") and found.images_sha256 != claim.test.images_sha256:
        return "not checked", found, "the test images are not those of the claim"
    differences = _differences(claim.test, found)
    return "wrong" if differences else "verified", found, differences


def _differences(claimed: File | Test, found: File | Test) -> str:
    here = found.model_dump()
    return ", ".join(
        f"{key} is {here[key]} instead of {value}" for key, value in claimed.model_dump().items() if value != here[key]
    )


def _row(path: Path, arguments: dict[str, Any]) -> str:
    claim = {
        "file": claims.file_facts(path).model_dump(),
        "test": claims.test_facts(path, claims.data_of(path, arguments)).model_dump(),
        "command": "lightning fit ...",
        "date": datetime.datetime.now().date(),
    }
    row: str = yaml.safe_dump({path.name: claim}, sort_keys=False)
    return row


def _shown(text: str) -> str:
    return escape(printable(text))
