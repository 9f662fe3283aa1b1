"""Random damage may not crash or hang a reader, and is found if the description shows it."""

from __future__ import annotations

import os
import resource
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from apart import run_apart
from contents import CLASSES, allocations, images, joined, noise_files, photographs_in, samples, stream

from lightning_subnets import UserError
from lightning_subnets.datamodules.ffcv import beton, writer
from lightning_subnets.datamodules.ffcv.beton import Beton, description_path, verify
from lightning_subnets.datamodules.ffcv.loader import installed
from lightning_subnets.datamodules.ffcv.writer import Storage, write

ROOM = 2 << 30  # bytes that a campaign may take beyond those of its process at the start


@pytest.fixture(scope="module")
def whole(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of JPEG and raw images on small pages, so that most damage falls on images."""
    if not installed():
        pytest.skip("FFCV is not installed: data/install_ffcv.sh")
    root = tmp_path_factory.mktemp("whole")
    files = noise_files(root, 8) + photographs_in(photographs / "train")[:8]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PAGE", 1 << 14)
        write(root / "a.beton", files, CLASSES, Storage(48, None, 90, 0.5))
    return root / "a.beton"


def parts_of(whole: Path) -> dict[str, range]:
    table, length = Beton.open(whole), whole.stat().st_size
    start, payload = beton.HEAD_SIZE + len(table) * beton.SAMPLE.itemsize, table.payload
    ends = [0, beton.HEADER.itemsize, beton.HEAD_SIZE, start, payload.start, payload.stop, length]
    names = ["header", "fields", "metadata", "filling", "images", "allocations"]
    return {name: range(*ends[index : index + 2]) for index, name in enumerate(names)}


def damaged(content: bytes, parts: dict[str, range], seed: int) -> bytes:
    """Cut a file, flip bits, write zeros or noise, or move an image; half of the damage is in the structure."""
    rng = np.random.default_rng(seed)
    structure = [parts["header"], parts["fields"], parts["metadata"], parts["allocations"]]
    while True:
        part = structure[rng.integers(4)] if rng.random() < 0.5 else range(len(content))
        place, length = int(rng.integers(part.start, part.stop)), int(2 ** rng.uniform(0, 12))
        changed = bytearray(content)
        match rng.integers(5):
            case 0:
                del changed[place:]
            case 1:
                for bit in rng.integers(8 * part.start, 8 * part.stop, rng.integers(1, 9)).tolist():
                    changed[bit // 8] ^= 1 << bit % 8
            case 2:
                changed[place : place + length] = bytes(len(changed[place : place + length]))
            case 3:
                changed[place : place + length] = rng.bytes(len(changed[place : place + length]))
            case 4:  # in both the sample and the allocation table
                sample = rng.integers(len(samples(changed)))
                pointer = [0, place, 2**31, 2**63, 2**64 - 1, int(rng.integers(2**63))][rng.integers(6)]
                images(changed)["pointer"][sample] = allocations(changed)["pointer"][sample] = pointer
                if rng.random() < 0.5:
                    size = [1, length, 2**31, 2**63, 2**64 - 1][rng.integers(5)]
                    allocations(changed)["size"][sample] = size
        if changed != content:
            return bytes(changed)


def read(path: Path, seed: int) -> str:
    """Return the outcome of opening and reading a file."""
    try:
        table = Beton.open(path)
    except UserError:
        return "refused"
    try:
        pixels, labels = joined(stream(table, augment=seed % 4 == 0))
    except UserError:
        return "found by the decoder"
    assert pixels.shape == (len(table), 3, 32, 32)
    assert 0 <= int(labels.min()) <= int(labels.max()) < len(table.classes)
    return "read"


def check(path: Path, whole: Path, parts: dict[str, range], seed: int) -> str:
    """Return the outcome of reading a damaged file, which has a description if the seed is even."""
    content = whole.read_bytes()
    changed = damaged(content, parts, seed)
    path.unlink(missing_ok=True)  # cutting a file that is mapped into memory would end the process
    path.write_bytes(changed)
    description_path(path).unlink(missing_ok=True)
    if seed % 2:
        return read(path, seed)
    description_path(path).write_bytes(description_path(whole).read_bytes())
    outcome = read(path, seed)
    stored = slice(parts["images"].start, parts["images"].stop)
    contents = slice(parts["filling"].start), slice(stored.stop, None)  # nothing reads the filling
    if any(changed[part] != content[part] for part in contents):
        assert outcome == "refused"
    elif changed[stored] != content[stored]:
        assert outcome != "refused"
        with pytest.raises(UserError):
            verify(path)
    return outcome


def campaign(whole: Path, seeds: range, log: Path) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    warnings.simplefilter("error")
    parts = parts_of(whole)
    with log.open("w", buffering=1) as lines:
        for seed in seeds:
            lines.write(f"{seed}: ")
            try:
                lines.write(check(log.with_suffix(".beton"), whole, parts, seed) + "\n")
            except BaseException:
                lines.write(traceback.format_exc())
                raise


@pytest.mark.parametrize(
    "seeds",
    [pytest.param(range(240), marks=pytest.mark.thorough), pytest.param(range(400, 6400), marks=pytest.mark.long)],
    ids=["sample", "campaign"],
)
def test_a_damaged_file_is_an_error_or_harmless(whole: Path, seeds: range, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    code = run_apart(campaign, whole, seeds, log, limit=60 + len(seeds))
    lines = log.read_text().splitlines()
    assert code == 0, (code, lines[-20:])
    assert len(lines) == len(seeds)
    outcomes = Counter(line.partition(": ")[2] for line in lines)
    # All outcomes have to occur.
    assert outcomes["refused"] > len(seeds) / 4
    assert outcomes["found by the decoder"] > len(seeds) / 50
    assert outcomes["read"] > len(seeds) / 50
