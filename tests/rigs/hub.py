"""A stand-in for the model hub on a loopback port: the three routes that a snapshot download uses."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.rigs import loopback

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Serves `folder` as every repository; `served` lists the paths whose content was sent."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.status = 200
        self.error_code = ""
        self.cut = ""  # a path whose next download stops half-way
        self.drips = 0.0  # seconds between two bytes of a file
        self.served: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.answer(send=False)

    def do_GET(self) -> None:
        self.answer(send=True)

    def answer(self, send: bool) -> None:
        if self.server.status != 200:
            self.say(self.server.status, b"{}", send, {"X-Error-Code": self.server.error_code})
        elif "/revision/" in self.path:
            self.say(200, json.dumps({"id": "x/y", "sha": COMMIT, "siblings": []}).encode(), send)
        elif "/tree/" in self.path:
            self.say(200, json.dumps([self.entry(p) for p in self.files()]).encode(), send)
        elif match := re.search(r"/resolve/[^/]+/([^?]+)", self.path):
            self.send_file(match[1], send)
        else:
            self.say(404, b"{}", send)

    def files(self) -> list[Path]:
        return sorted(p for p in self.server.folder.rglob("*") if p.is_file())

    def entry(self, path: Path) -> dict[str, Any]:
        data = path.read_bytes()
        name, digest = path.relative_to(self.server.folder).as_posix(), hashlib.sha256(data).hexdigest()
        lfs = {"lfs": {"oid": digest, "size": len(data), "pointerSize": 130}} if name.endswith(".safetensors") else {}
        return {"type": "file", "path": name, "size": len(data), "oid": digest[:40], **lfs}

    def send_file(self, name: str, send: bool) -> None:
        path = self.server.folder / name
        if not path.is_file():
            self.say(404, b"", send, {"X-Error-Code": "EntryNotFound"})
            return
        data, entry = path.read_bytes(), self.entry(path)
        etag = entry.get("lfs", {}).get("oid", entry["oid"])
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data))}
        if send:
            self.server.served.append(name)
        if send and self.server.drips:
            self.say(200, data, False, headers)
            self.drip(data)
        else:
            self.say(200, data, send, headers, cut=send and self.server.cut == name)

    def drip(self, data: bytes) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client has disconnected
            for at in range(len(data)):
                time.sleep(self.server.drips)
                self.wfile.write(data[at : at + 1])

    def say(
        self, status: int, body: bytes, send: bool, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if send:
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.server.cut = ""
            self.close_connection = True


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    server = Hub(folder)
    with loopback.serving(server):
        yield server
