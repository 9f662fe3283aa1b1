"""``hf://`` addresses download exactly the one file that they name, and each error says what to do."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from hub_server import HubServer, serving
from small_subnets import differing, saved

from lightning_subnets.commands.cli import main as lightning
from lightning_subnets.commands.subnets import main
from lightning_subnets.errors import UserError
from lightning_subnets.subnet_file import hub, load_subnet, masks_in
from lightning_subnets.training.run_masks import read_masks

constants = pytest.importorskip("huggingface_hub.constants", reason="pip install lightning-subnets[hub]")

TEMPLATE = "/{repo_id}/resolve/{revision}/{filename}"
ADDRESS = "hf://user/net/small.subnet"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Make huggingface_hub use a local server and an empty cache, with nobody logged in."""
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + TEMPLATE)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def file(server: HubServer, tmp_path: Path) -> Path:
    """Save a file, and serve it as user/net/small.subnet."""
    path = saved(tmp_path / "local.subnet")
    server.files["main", "small.subnet"] = path.read_bytes()
    return path


def no_network(*_: object) -> NoReturn:
    raise AssertionError("the network was used")


def refused(*_: object) -> NoReturn:
    raise ConnectionRefusedError("refused")


def test_a_file_of_the_hub_is_loaded_and_nothing_else_is_downloaded(server: HubServer, file: Path) -> None:
    server.files["main", "other.subnet"] = b""
    assert not differing(load_subnet(ADDRESS), load_subnet(file))
    assert server.requests == ["HEAD user/net main small.subnet", "GET user/net main small.subnet"]
    masked = load_subnet(ADDRESS, masked=True)
    masks, expected = masks_in(ADDRESS), masks_in(file)
    assert masked.training
    assert masks.keys() == expected.keys()
    assert all(torch.equal(masks[name], expected[name]) for name in masks)
    assert read_masks(ADDRESS, load_subnet(file)).keys() == masks.keys()
    assert server.requests[2:] == ["HEAD user/net main small.subnet"] * 3


@pytest.mark.parametrize(
    ("address", "revision", "path"),
    [
        ("hf://user/net@v1/sub/folder/a.subnet", "v1", "sub/folder/a.subnet"),
        ("hf://user/net@a%2Fb/a.subnet", "a/b", "a.subnet"),
    ],
)
def test_an_address_may_name_a_revision_and_folders(
    server: HubServer, file: Path, address: str, revision: str, path: str
) -> None:
    server.files[revision, path] = file.read_bytes()
    assert hub.local_path(address).read_bytes() == file.read_bytes()
    assert server.requests == [f"{verb} user/net {revision} {path}" for verb in ("HEAD", "GET")]


def test_a_local_path_uses_no_network(file: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    load_subnet(file)
    load_subnet(str(file))
    assert hub.local_path("models/hf://x.subnet") == Path("models/hf:/x.subnet")
    assert not server.requests


def test_a_downloaded_file_is_loaded_offline(
    server: HubServer, file: Path, monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., str]
) -> None:
    expected = load_subnet(ADDRESS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    assert not differing(load_subnet(ADDRESS), expected)
    assert len(server.requests) == 2
    error = mistake(["inspect", "hf://user/net/other.subnet"], main)
    assert "not in the hub's cache: check the connection, and HF_HUB_OFFLINE" in error


def test_a_hub_that_cannot_be_reached_is_an_error_only_if_the_cache_lacks_the_file(
    server: HubServer, file: Path, mistake: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_subnet(ADDRESS)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # huggingface_hub tries again for half a minute
    load_subnet(ADDRESS)
    assert "not in the hub's cache" in mistake(["inspect", "hf://user/net/other.subnet"], main)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://user/absent/a.subnet", "no model user/absent, or it is private: check the name, or log in"),
        ("hf://user/gated/a.subnet", "then log in with `hf auth login`"),
        ("hf://user/net@v9/a.subnet", "user/net has no branch, tag or commit 'v9'"),
        ("hf://user/net/absent.subnet", "user/net has no file 'absent.subnet' at 'main'"),
    ],
)
def test_what_the_hub_does_not_have_is_an_error_that_names_it(
    server: HubServer, file: Path, mistake: Callable[..., str], address: str, expected: str
) -> None:
    assert expected in mistake(["inspect", address], main)
    assert {request.split()[0] for request in server.requests} == {"HEAD"}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://a.subnet", "is not the address of a file"),
        ("hf://user/net.subnet", "is not the address of a file"),
        ("hf://user/net@/a.subnet", "is not the address of a file"),
        ("hf://user/net//a.subnet", "is not the address of a file"),
        ("hf://user/../a.subnet", "is not the address of a file"),
        ("hf://user/net/../../a.subnet", "is not the address of a file"),
        ("hf://user/net@../a.subnet", "is not the address of a file"),
        ("hf://buckets/user/net/a.subnet", "is not the address of a file"),
        ("hf://user/net/\x1b[2J.subnet", "is not the address of a file"),
        ("hf://user/net/model.safetensors", "does not end in .subnet"),
    ],
)
def test_a_malformed_address_is_refused_without_a_request(
    server: HubServer, mistake: Callable[..., str], address: str, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        load_subnet(address)
    error = mistake(["inspect", address], main)
    assert expected in error
    assert "\x1b" not in error
    assert not server.requests


def test_a_damaged_file_of_the_hub_is_refused(server: HubServer, file: Path, mistake: Callable[..., str]) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    server.files["main", "small.subnet"] = bytes(content)
    assert f"{ADDRESS} cannot be loaded: the file is damaged" in mistake(["inspect", ADDRESS], main)


def test_without_the_package_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert 'pip install "lightning-subnets[hub]"' in mistake(["inspect", ADDRESS], main)


def test_the_commands_take_an_address(
    server: HubServer, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: Callable[..., str]
) -> None:
    main(["inspect", ADDRESS, "--against", str(file)])
    assert "in common with" in capsys.readouterr().out
    main(["export", ADDRESS, str(tmp_path / "net.safetensors")])
    assert (tmp_path / "net.safetensors").stat().st_size
    assert [request for request in server.requests if "GET" in request] == ["GET user/net main small.subnet"]
    assert "does not end in .subnet" in mistake(["check", "hf://user/net/last.ckpt"], main)
    # The file's config names no data, which is known only after the file has been read.
    assert f"{ADDRESS} does not say which data" in mistake(["test", "--ckpt_path", ADDRESS], lightning)
