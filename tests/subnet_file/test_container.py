"""A file is whole or not there, and any change to it is refused."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_subnets import content, digest_in, masked, resealed, saved, write_anew

import lightning_subnets as ls
from lightning_subnets.subnet_file import container, load_subnet


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


def flips(whole: bytes, place: int) -> Iterator[bytes]:
    for other in {whole[place] ^ 1, whole[place] ^ 0x80, (whole[place] * 31 + 7) % 256} - {whole[place]}:
        yield whole[:place] + bytes([other]) + whole[place + 1 :]


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.long)])
def test_every_changed_byte_is_refused(every: int, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for place in range(0, len(whole), every):
        for changed in flips(whole, place):
            check_refused(tmp_path / "a.subnet", changed)


@pytest.mark.parametrize("every", [53, pytest.param(1, marks=pytest.mark.long)])
def test_a_truncated_file_is_refused_at_every_length(every: int, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for length in {*range(0, len(whole), every), *range(10), len(whole) - 1}:
        check_refused(tmp_path / "a.subnet", whole[:length])


def test_a_file_with_anything_behind_it_is_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for more in (b"\0", b"\n", whole):
        check_refused(tmp_path / "a.subnet", whole + more)


def test_the_digest_covers_itself_in_its_one_spelling(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    digest = digest_in(whole)
    assert whole.count(digest) == 1
    for other in (digest.upper(), b"0" * 64, digest[:-1] + b"g"):
        check_refused(tmp_path / "a.subnet", whole.replace(digest, other))


def test_the_file_is_safetensors_that_anyone_can_open(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        assert list(opened.metadata()) == ["lightning-subnets"]
        assert "mask/features.0" in opened.keys()  # noqa: SIM118


NO_FILES = [
    b"",
    b"\0" * 8,
    b"\xff" * 8,
    b"\x02\0\0\0\0\0\0\0{}",
    b"\x02\0\0\0\0\0\0\0[]",
    b"PK\x03\x04" + b"\0" * 60,
    b"\0" * 5000,
]
OF_OTHERS: list[dict[str, str] | None] = [
    None,
    {},
    {"format": "pt"},
    {"lightning-subnets": "x"},
    {"lightning-subnets": "[]"},
    {"lightning-subnets": '{"sha256":"0"}'},
    {"lightning-subnets": '{"sha256":NaN}'},
    {"lightning-subnets": "[" * 10**5},
]


@pytest.mark.parametrize("content", NO_FILES)
def test_what_is_no_subnet_file_is_refused(content: bytes, tmp_path: Path) -> None:
    check_refused(tmp_path / "a.subnet", content)


@pytest.mark.parametrize("metadata", OF_OTHERS)
def test_another_safetensors_file_is_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / "a.subnet", metadata)
    check_refused(tmp_path / "a.subnet", (tmp_path / "a.subnet").read_bytes())


def test_a_header_that_is_said_to_be_endless_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.subnet"
    with path.open("wb") as opened:
        opened.write((1 << 33).to_bytes(8, "little"))
        opened.truncate(1 << 34)  # of holes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ls.UserError, match=r"no .subnet file, or it is truncated"):
        load_subnet(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize("digest", ["5", "[]", "null", '"5"', "{}"])
def test_a_digest_that_is_none_is_refused(digest: str, file: Path, tmp_path: Path) -> None:
    decoys = '"config":{"sha256":"5"},"more":{"sha256":"SHA256"}'
    write_anew(tmp_path / "a.subnet", {}, content(file)[1], f'{{"version":1,{decoys},"sha256":{digest}}}')
    check_refused(tmp_path / "a.subnet", (tmp_path / "a.subnet").read_bytes())


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_path_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ls.UserError, match="cannot be read"):
        load_subnet(tmp_path / name)


def test_the_same_network_gives_the_same_bytes(file: Path, tmp_path: Path) -> None:
    assert saved(tmp_path / "b.subnet").read_bytes() == file.read_bytes()


def test_others_may_read_a_file_as_they_may_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    assert saved(tmp_path / "a.subnet").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_an_existing_file_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.subnet"
    path.write_text("a year of work")
    with pytest.raises(ls.UserError, match=r"exists: .*--force"):
        saved(path)
    assert path.read_text() == "a year of work"
    load_subnet(saved(path, force=True))


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_writing_that_is_cut_short_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, network = saved(tmp_path / "a.subnet"), masked()
    before = path.read_bytes()
    for function in ("save", "_digest"):
        with monkeypatch.context() as context:
            context.setattr(container, function, interrupted)
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


@pytest.mark.parametrize(
    ("error", "message"), [(OSError(28, "No space left on device"), "No space left"), (PermissionError(13, "no"), "no")]
)
def test_an_error_of_the_disk_is_told(
    error: OSError, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(container, "replacing", failing)
    with pytest.raises(ls.UserError, match=rf"cannot be written \({message}"):
        saved(tmp_path / "a.subnet")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ls.UserError, match="nowhere is no directory: create it"):
        saved(tmp_path / "nowhere" / "a.subnet")


TYPES = {"F6_E2M3": 12, "F4": 8, "C64": 128, "U16": 32, "F8_E8M0": 16, "I64": 128, "BOOL": 16}


@pytest.mark.parametrize("dtype", TYPES)
def test_a_mask_of_another_type_is_refused(dtype: str, file: Path, tmp_path: Path) -> None:
    header, tensors = content(file)
    tensors["mask/features.0"] = torch.zeros(TYPES[dtype], dtype=torch.uint8)
    path = write_anew(tmp_path / "a.subnet", header, tensors)
    old = f'"mask/features.0":{{"dtype":"U8","shape":[{TYPES[dtype]}]'
    path.write_bytes(resealed(path.read_bytes(), old, f'"mask/features.0":{{"dtype":"{dtype}","shape":[16]'))
    with pytest.raises(ls.UserError, match="mask"):
        load_subnet(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"dtype":"U8"', '"dtype":"' + "x" * 10**5 + '\\n\\u001b"'),
        ('"shape":[', '"shape":[' + "1," * 10**5),
        ('"shape":[', '"shape":[4294967296,4294967296,'),
        ('"shape":[', '"shape":[-1,'),
        ('"data_offsets":[0', '"data_offsets":[1'),
        ('"mask/features.0"', '"mask/classifier.1"'),
        ('"__metadata__"', '"__metadata__":{},"__metadata__"'),
    ],
)
def test_what_safetensors_does_not_take_is_one_error(old: str, new: str, file: Path, tmp_path: Path) -> None:
    check_refused(tmp_path / "a.subnet", resealed(file.read_bytes(), old, new))
