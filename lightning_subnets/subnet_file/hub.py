"""``hf://`` addresses of ``.subnet`` files on the Hugging Face Hub, spelled as huggingface_hub's file system does.

    hf://user/name/file.subnet
    hf://user/name@revision/folder/file.subnet

huggingface_hub downloads the one file into its own cache. The file is as untrusted as any other.
"""

from __future__ import annotations

from pathlib import Path

from lightning_subnets._version import __version__
from lightning_subnets.errors import UserError, printable

SCHEME = "hf://"


def local_path(path: str | Path) -> Path:
    """Return a path as it is, or download the file of an ``hf://`` address and return its path in the hub's cache.

    Raises:
        ValueError: if huggingface_hub is not installed, or the address is malformed or has no file that can be read.
    """
    if not isinstance(path, str) or not path.startswith(SCHEME):
        return Path(path)
    try:
        from huggingface_hub import errors, hf_hub_download, parse_hf_uri
    except ImportError as error:
        raise UserError(
            f'{printable(path):.300} needs huggingface_hub 1.27 or newer: pip install "lightning-subnets[hub]"'
        ) from error

    try:
        address = parse_hf_uri(path)
        file = address.path_in_repo
        climbs = ".." in (address.revision, *file.split("/"))
        if address.type == "bucket" or not file or climbs or not path.isprintable():
            raise ValueError("it names no file of a repository")
    except ValueError as error:
        raise UserError(
            f"{printable(path):.300} is not the address of a file ({_reason(error)}): write "
            "hf://user/name/file.subnet or hf://user/name@revision/folder/file.subnet"
        ) from error
    if not file.endswith(".subnet"):
        raise UserError(f"{path:.300} does not end in .subnet: only .subnet files are loaded from a hub")
    revision = address.revision or "main"
    what = {
        errors.GatedRepoError: "access is granted on the page of the repository; then log in with `hf auth login`",
        errors.RepositoryNotFoundError: f"there is no {address.type} {address.id}, or it is private: check the name, "
        "or log in with `hf auth login` or the environment variable HF_TOKEN",
        errors.RevisionNotFoundError: f"{address.id} has no branch, tag or commit {revision!r}",
        errors.RemoteEntryNotFoundError: f"{address.id} has no file {file!r} at {revision!r}",
        errors.LocalEntryNotFoundError: "it is not in the hub's cache: check the connection, and HF_HUB_OFFLINE",
    }
    try:
        return Path(
            hf_hub_download(
                repo_id=address.id,
                filename=file,
                repo_type=address.type,
                revision=revision,
                library_name="lightning-subnets",
                library_version=__version__,
            )
        )
    except Exception as error:  # huggingface_hub 1 and 2 use the errors of different HTTP packages
        hint = next((text for kind, text in what.items() if isinstance(error, kind)), _reason(error))
        raise UserError(f"{path} cannot be downloaded: {hint}") from error


def _reason(error: BaseException) -> str:
    return printable(" ".join(str(error).split()) or type(error).__name__)[:300]
