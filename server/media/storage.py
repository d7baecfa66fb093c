"""The storage of files: each under its own key, with or without an expiry. The interface `Storage`, and its
implementation in a local folder.

Knows: how to store a file completely or not at all, and how to send it. Does not know: who may download it, how long
results are kept.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from server.datadir import copy_atomically, full_disk_named, write_atomically
from server.errors import DiskFull
from server.media.conditions import bodiless, wanted

KEY = re.compile(r"[A-Za-z0-9_-]{32}")
FOR_EVER = math.inf
EXPIRES = ".expires"
TORN_SECONDS = 86_400.0  # how long the remains of an incomplete file are kept
GONE = {"detail": "no such file"}
CORS = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "Content-Length, Content-Range, Accept-Ranges, ETag, Content-Type",
}


class StorageDown(DiskFull):
    """The storage is unavailable."""


@dataclass(frozen=True)
class Stored:
    """Times are unix seconds. `until`: as given to `put` (None: no expiry given). `tag`: a quoted ETag."""

    key: str
    name: str
    size: int
    made_at: float
    until: float | None = None
    tag: str = ""


class Storage(Protocol):
    """Every method may be called from any thread, may be slow, and may raise StorageDown."""

    def put(self, key: str, name: str, content: bytes | Path, until: float | None, headers: Mapping[str, str]) -> None:
        """`headers`: sent with every download of the file. Raises DiskFull, FileExistsError (the key is taken),
        OSError."""

    def find(self, key: str) -> Stored | None:
        """The file with that key, expired or not."""

    def all(self) -> Iterator[Stored]:
        """All files. The `name` of an incomplete file is empty."""

    def read(self, key: str, name: str) -> bytes:
        """Raises FileNotFoundError."""

    def remove(self, key: str) -> None:
        """Does nothing for an unknown key. Downloads of the file that have begun still complete."""

    def respond(self, request: Request, stored: Stored, headers: Mapping[str, str]) -> Response:
        """The response to GET or HEAD, with ranges."""

    def check(self) -> None:
        """Raises StorageDown when the storage is known to be unavailable."""


class LocalStorage:
    """`<folder>/<key>/<file name>`, one file in each folder, with a file `.expires` beside it when an expiry was
    given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, name: str, content: bytes | Path, until: float | None, headers: Mapping[str, str]) -> None:
        folder = self._folder / key
        with full_disk_named():
            folder.mkdir(mode=0o700)
        try:
            if until is not None:
                write_atomically(folder / EXPIRES, repr(until).encode())
            if isinstance(content, Path):
                copy_atomically(content, folder / name)
            else:
                write_atomically(folder / name, content)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def find(self, key: str) -> Stored | None:
        try:
            with os.scandir(self._folder / key) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        there = entry.stat()
                        return Stored(key, entry.name, there.st_size, there.st_mtime, self._until(key))
        except OSError:
            pass
        return None

    def _until(self, key: str) -> float | None:
        try:
            return float((self._folder / key / EXPIRES).read_bytes())
        except (OSError, ValueError):
            return None

    def all(self) -> Iterator[Stored]:
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if not KEY.fullmatch(entry.name):
                    continue
                try:
                    made_at = entry.stat().st_mtime
                except FileNotFoundError:
                    continue
                yield self.find(entry.name) or Stored(entry.name, "", 0, made_at, made_at + TORN_SECONDS)

    def read(self, key: str, name: str) -> bytes:
        return (self._folder / key / name).read_bytes()

    def remove(self, key: str) -> None:
        shutil.rmtree(self._folder / key, ignore_errors=True)

    def respond(self, request: Request, stored: Stored, headers: Mapping[str, str]) -> Response:
        return OpenFile(self._folder / stored.key / stored.name, headers=headers)

    def check(self) -> None:
        """Does nothing: `DataDir.check_room` reports a full disk."""


class OpenFile(FileResponse):
    """A response that keeps the file open while it is being sent, because the file may be removed meanwhile. NOTE:
    Starlette's own response supports no conditions, and answers malformed ranges with 400 although the standard says to
    ignore them.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as stack:
            try:
                file = stack.enter_context(Path(self.path).open("rb"))
            except FileNotFoundError:
                await JSONResponse(GONE, 404, headers=CORS)(scope, receive, send)
                return
            if (held := Path(f"/dev/fd/{file.fileno()}")).exists():
                self.path = held
            self.stat_result = os.fstat(file.fileno())
            self.set_stat_headers(self.stat_result)
            size = self.stat_result.st_size
            what = wanted(Headers(scope=scope), self.headers["etag"], self.stat_result.st_mtime, size)
            if what.status not in (200, 206):
                await bodiless(what, dict(self.headers), size)(scope, receive, send)
                return
            scope = {**scope, "headers": [*scope["headers"]]}
            headers = MutableHeaders(scope=scope)
            del headers["range"], headers["if-range"]
            if what.parts:
                headers["range"] = "bytes=" + ",".join(f"{begin}-{end - 1}" for begin, end in what.parts)
            await super().__call__(scope, receive, send)
