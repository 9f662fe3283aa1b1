"""A file is written completely or not at all, and is refused after any change."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from small_subnets import content, digest_in, masked, resealed, rewrite, saved

import lightning_subnets as ls
from lightning_subnets.subnet_file import container, load_subnet
from lightning_subnets.subnet_file.container import NUMBERS_PER_BYTE, Container


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("container") / "a.subnet")


def check_refused(path: Path, changed: bytes) -> None:
    path.write_bytes(changed)
    with pytest.raises(ls.UserError) as error:
        load_subnet(path)
    assert str(path) in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value).replace(str(path), "")) < 400


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.long)])
def test_every_changed_byte_is_refused(every: int, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for place in range(0, len(whole), every):
        for byte in {whole[place] ^ 1, whole[place] ^ 0x80, (whole[place] * 31 + 7) % 256} - {whole[place]}:
            check_refused(tmp_path / "a.subnet", whole[:place] + bytes([byte]) + whole[place + 1 :])


@pytest.mark.parametrize("every", [53, pytest.param(1, marks=pytest.mark.long)])
def test_every_other_length_is_refused(every: int, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for length in {*range(0, len(whole), every), *range(10), len(whole) - 1}:
        check_refused(tmp_path / "a.subnet", whole[:length])
    for more in (b"\0", b"\n", whole):
        check_refused(tmp_path / "a.subnet", whole + more)


def test_the_digest_is_refused_in_any_other_form(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    digest = digest_in(whole)
    assert whole.count(digest) == 1
    for other in (digest.upper(), b"0" * 64, digest[:-1] + b"g"):
        check_refused(tmp_path / "a.subnet", whole.replace(digest, other))
    decoys = '"config":{"sha256":"5"},"more":{"sha256":"SHA256"}'
    for value in ("5", "[]", "null", '"5"', "{}"):
        rewrite(tmp_path / "a.subnet", {}, content(file)[1], f'{{"version":2,{decoys},"sha256":{value}}}')
        check_refused(tmp_path / "a.subnet", (tmp_path / "a.subnet").read_bytes())


def test_the_file_is_safetensors_that_anyone_can_open(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        assert list(opened.metadata()) == ["lightning-subnets"]
        assert "mask/features.0.weight" in opened.keys()  # noqa: SIM118


def of_others(metadata: dict[str, str] | None) -> bytes:
    return save({"weight": torch.ones(3)}, metadata)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 8,
        b"\x02\0\0\0\0\0\0\0{}",
        b"\x02\0\0\0\0\0\0\0[]",
        b"PK\x03\x04" + b"\0" * 60,
        b"\0" * 5000,
        of_others(None),
        of_others({"format": "pt"}),
        of_others({"lightning-subnets": "x"}),
        of_others({"lightning-subnets": "[]"}),
        of_others({"lightning-subnets": '{"sha256":"0"}'}),
        of_others({"lightning-subnets": '{"sha256":NaN}'}),
        of_others({"lightning-subnets": "[" * 10**5}),
    ],
    ids=range(14),
)
def test_another_kind_of_file_is_refused(content: bytes, tmp_path: Path) -> None:
    check_refused(tmp_path / "a.subnet", content)


def test_a_header_of_an_absurd_length_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.subnet"
    with path.open("wb") as opened:
        opened.write((1 << 33).to_bytes(8, "little"))
        opened.truncate(1 << 34)  # a sparse file
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ls.UserError, match=r"not a .subnet file, or it is truncated"):
        load_subnet(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name in ("nothing", "."):
        with pytest.raises(ls.UserError, match="cannot be read"):
            load_subnet(tmp_path / name)


def test_the_same_network_gives_the_same_bytes_with_default_permissions(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    assert saved(tmp_path / "b.subnet").read_bytes() == file.read_bytes()
    assert (tmp_path / "b.subnet").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("more", [-1, 0, 1, 8 * NUMBERS_PER_BYTE, 8 * NUMBERS_PER_BYTE + 1])
def test_a_file_is_as_large_as_the_numbers_need_that_it_describes(more: int, file: Path, tmp_path: Path) -> None:
    numbers = file.stat().st_size * NUMBERS_PER_BYTE + more
    container.write(tmp_path / "a.subnet", Container(file).header, load_file(file), numbers=numbers)
    assert (tmp_path / "a.subnet").stat().st_size * NUMBERS_PER_BYTE >= numbers
    assert content(tmp_path / "a.subnet")[0] == content(file)[0]


def test_an_existing_file_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.subnet"
    path.write_text("a year of work")
    with pytest.raises(ls.UserError, match=r"exists: .*--force"):
        saved(path)
    assert path.read_text() == "a year of work"
    load_subnet(saved(path, force=True))


def test_an_interrupted_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    path, network = saved(tmp_path / "a.subnet"), masked()
    before = path.read_bytes()
    for module, function in ((container, "_digest"), (os, "fsync")):
        with monkeypatch.context() as context:
            context.setattr(module, function, interrupt)
            with pytest.raises(KeyboardInterrupt):
                saved(path, network, force=True)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["a.subnet"]


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    network, limits = masked(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ls.UserError, match=r"a.subnet cannot be written \(.*File too large"):
            saved(tmp_path / "a.subnet", network)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not os.listdir(tmp_path)


BITS = {"F6_E2M3": 6, "F4": 4, "C64": 64, "U16": 16, "F8_E8M0": 8, "I64": 64, "BOOL": 8}


@pytest.mark.parametrize("dtype", BITS)
def test_a_mask_of_another_type_is_refused(dtype: str, file: Path, tmp_path: Path) -> None:
    header, tensors = content(file)
    size = 2 * BITS[dtype]  # bytes of 16 numbers
    tensors["mask/features.0.weight"] = torch.zeros(size, dtype=torch.uint8)
    path = rewrite(tmp_path / "a.subnet", header, tensors)
    old = f'"mask/features.0.weight":{{"dtype":"U8","shape":[{size}]'
    path.write_bytes(resealed(path.read_bytes(), old, f'"mask/features.0.weight":{{"dtype":"{dtype}","shape":[16]'))
    with pytest.raises(ls.UserError, match=r"mask|damaged"):
        load_subnet(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"dtype":"U8"', '"dtype":"' + "x" * 10**5 + '\\n\\u001b"'),
        ('"shape":[', '"shape":[' + "1," * 10**5),
        ('"shape":[', '"shape":[4294967296,4294967296,'),
        ('"shape":[', '"shape":[-1,'),
        ('"data_offsets":[0', '"data_offsets":[1'),
        ('"mask/features.0.weight"', '"mask/classifier.1.weight"'),
        ('"__metadata__"', '"__metadata__":{},"__metadata__"'),
    ],
)
def test_what_safetensors_refuses_is_one_error(old: str, new: str, file: Path, tmp_path: Path) -> None:
    check_refused(tmp_path / "a.subnet", resealed(file.read_bytes(), old, new))
