"""A local W&B server that answers as much as one run needs, and keeps what it is sent."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a" * 40


class WandbServer:
    """A server at ``url`` that keeps each run's config, rows and state."""

    def __init__(self) -> None:
        # By id: a run's displayName, groupName and config; the rows of its history by offset; its file streams.
        self.runs: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        self.streams: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.views: list[dict[str, Any]] = []  # the saved workspaces
        self.answering = threading.Event()  # if cleared, requests wait, as for a server behind a dead link
        self.answering.set()
        handler = type("Handler", (_Handler,), {"state": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self.answering.set()
        self._server.shutdown()
        self._server.server_close()

    def history(self, run_id: str) -> list[dict[str, Any]]:
        return [row for _, row in sorted(self.rows[run_id].items())]

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        if operation == "Viewer":
            return {"viewer": {"id": "1", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": None}}
        if operation == "RunResumeStatus":
            return {"model": {"id": "2", "name": "p", "entity": _ENTITY, "bucket": self._known(variables["name"])}}
        if operation == "UpsertBucket":
            name = variables["name"]
            new = name not in self.runs
            given = {key: value for key, value in variables.items() if value is not None}
            self.runs[name] = self.runs.get(name, {}) | given
            project = {"id": "2", "name": variables["project"], "entity": _ENTITY}
            bucket = {"id": name, "name": name, "displayName": self.runs[name].get("displayName"), "project": project}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": len(self.rows[name])}, "inserted": new}}
        if operation == "UpsertView2":
            self.views.append(variables)
            return {"upsertView": {"view": {"id": "4", "name": variables["name"]}, "inserted": True}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/storage/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        return {}

    def file_stream(self, run_id: str, said: dict[str, Any]) -> None:
        self.streams[run_id].append(said)
        history = said.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        for place, line in enumerate(history["content"], history["offset"]):
            self.rows[run_id][place] = json.loads(line)

    def _known(self, name: str) -> dict[str, Any] | None:
        if name not in self.runs:
            return None
        lines = [json.dumps(row) for row in self.history(name)]
        return {
            "id": name,
            "name": name,
            "summaryMetrics": "{}",
            "displayName": self.runs[name].get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps(lines[-1:]),
            "eventsTail": "[]",
            "config": self.runs[name].get("config", "{}"),
            "tags": [],
            "notes": None,
            "wandbConfig": '{"t": 1}',
        }


@contextmanager
def serving() -> Iterator[WandbServer]:
    server = WandbServer()
    try:
        yield server
    finally:
        server.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing: a client that ends does not close its connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: WandbServer

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            asked = json.loads(body)
            operation = re.findall(r"\w+", asked["query"])[1]  # after "query" or "mutation"
            self._answer({"data": self.state.graphql(operation, asked.get("variables") or {})})
            return
        if self.path.endswith("/file_stream"):
            self.state.file_stream(self.path.split("/")[-2], json.loads(body))
        self._answer({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, content: Any) -> None:
        self.state.answering.wait()
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


_ENTITY = {"id": "3", "name": "me"}
