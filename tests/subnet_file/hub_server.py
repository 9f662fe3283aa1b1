"""A local stand-in for the Hugging Face Hub, which keeps the requests that it answers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMITS = {"main": "1" * 40, "v1": "2" * 40, "a/b": "3" * 40}


class HubServer:
    """A hub at ``url`` with the public model user/net, the gated user/gated, and whatever is in ``files``."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}  # content by revision and path, of user/net and user/gated
        self.requests: list[str] = []  # such as "GET user/net main a.subnet"
        handler = type("Handler", (_Handler,), {"state": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving() -> Iterator[HubServer]:
    server = HubServer()
    try:
        yield server
    finally:
        server.stop()


class _Handler(BaseHTTPRequestHandler):
    state: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self) -> None:
        if self.path == "/api/agent-harnesses":  # huggingface_hub asks for these names once a day, for its statistics
            self._send(404, {})
            return
        user, name, _, revision, path = self.path.removeprefix("/").split("/", 4)
        revision, path = unquote(revision), unquote(path)
        self.state.requests.append(f"{self.command} {user}/{name} {revision} {path}")
        if name not in ("net", "gated"):
            self._send(401, {"X-Error-Code": "RepoNotFound"})
        elif name == "gated":
            self._send(403, {"X-Error-Code": "GatedRepo"})
        elif revision not in COMMITS:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif (content := self.state.files.get((revision, path))) is None:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMITS[revision]})
        else:
            etag = hashlib.sha256(content).hexdigest()
            self._send(200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMITS[revision]}, content)

    def _send(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
