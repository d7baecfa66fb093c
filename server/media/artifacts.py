"""Files the server hands out: results, and what clients have uploaded.

Knows: where they lie, their unguessable keys, their URLs, how long they are kept, how a browser should treat them.
Does not know: who may have them (who knows the key may), jobs, vendors.

Layout: `<folder>/<key>/<file name>`, one file in each; the key is made here and never by a client. Beside a file that
is kept for a time only lies `.expires`, with the unix time of its end.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from server.datadir import DataDir, copy_atomically, write_atomically
from server.jobs.job import Artifact

KEY = re.compile(r"[A-Za-z0-9_-]{32}")
HOST = re.compile(r"[A-Za-z0-9._\-\[\]:]{1,255}")
# what a browser may be told a file is; anything else is bytes, so that an upload can never act as a page of ours
MEDIA_TYPES = {
    "mp4": "video/mp4",
    "webm": "video/webm",
    "gif": "image/gif",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "mov": "video/quicktime",
    "json": "application/json",
    "txt": "text/plain",
}
EXTENSIONS = {media_type: extension for extension, media_type in reversed(MEDIA_TYPES.items())}
OTHER = "application/octet-stream"
EXPIRES = ".expires"
CORS = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "Content-Length, Content-Range, Accept-Ranges, ETag, Content-Type",
}


class Artifacts:
    """`clock` gives unix seconds. `resolvers` know further addresses of our own files: URL path -> file or None."""

    def __init__(self, data: DataDir, public_url: str | None = None, clock: Callable[[], float] = time.time) -> None:
        self.resolvers: list[Callable[[str], Path | None]] = []
        self._clock = clock
        self._data = data
        self._folder = data.artifacts
        self._public_url = public_url

    def new_key(self) -> str:
        """A key for a file that is yet to come."""
        return secrets.token_urlsafe(24)

    def put(self, name: str, media_type: str, data: bytes, keep_seconds: float | None = None) -> Artifact:
        """Stores `data`, wholly or not at all, for so long. Every call makes a new file. Raises DiskFull, OSError."""
        return self._place(
            self.new_key(), safe_name(name), media_type, keep_seconds, lambda p: write_atomically(p, data)
        )

    def adopt(self, file: Path, key: str, name: str, media_type: str, *, keep_seconds: float | None = None) -> Artifact:
        """Keeps a copy of `file`, which a client brought; its name gets the extension of its type if it has none known.

        Raises DiskFull, OSError.
        """
        file_name = safe_name(name)
        if extension_of(file_name) not in MEDIA_TYPES and (extension := EXTENSIONS.get(media_type)):
            file_name = f"{file_name}.{extension}"
        media_type = MEDIA_TYPES.get(extension_of(file_name), OTHER)
        return self._place(key, file_name, media_type, keep_seconds, lambda path: copy_atomically(file, path))

    def _place(
        self, key: str, file_name: str, media_type: str, keep_seconds: float | None, write: Callable[[Path], None]
    ) -> Artifact:
        folder = self._folder / key
        folder.mkdir(mode=0o755)
        try:
            if keep_seconds is not None:
                (folder / EXPIRES).write_text(repr(self._clock() + keep_seconds))
            write(folder / file_name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Artifact(key, media_type, file_name, (folder / file_name).stat().st_size)

    def path(self, key: str) -> Path | None:
        """The file of that key, unless its time is over."""
        if not KEY.fullmatch(key):
            return None
        expires = self.expires_at(key)
        if expires is not None and expires <= self._clock():
            return None
        try:
            return next((p for p in (self._folder / key).iterdir() if not p.name.startswith(".")), None)
        except OSError:
            return None

    def find(self, key: str) -> Artifact | None:
        """What is known of the file of that key."""
        path = self.path(key)
        if path is None:
            return None
        return Artifact(key, MEDIA_TYPES.get(extension_of(path.name), OTHER), path.name, path.stat().st_size)

    def expires_at(self, key: str) -> float | None:
        """Unix seconds; None for a file that is kept."""
        try:
            return float((self._folder / key / EXPIRES).read_text())
        except (OSError, ValueError):
            return None

    def sweep(self) -> int:
        """Removes the files whose time is over; how many those were. One being sent is still sent to its end."""
        over = [m.parent for m in self._folder.glob(f"*/{EXPIRES}") if self.path(m.parent.name) is None]
        for folder in over:
            shutil.rmtree(folder, ignore_errors=True)
        return len(over)

    def read(self, artifact: Artifact) -> bytes:
        """Raises FileNotFoundError when it was removed."""
        return (self._folder / artifact.key / artifact.file_name).read_bytes()

    def remove(self, artifact: Artifact) -> None:
        shutil.rmtree(self._folder / artifact.key, ignore_errors=True)

    def check_room(self) -> None:
        """Raises DiskFull when a new job could not be promised a place for its result."""
        self._data.check_room()

    def base_url(self, request: Request) -> str:
        """What the client calls this server: PUBLIC_URL, else the address it asked (proxies: `front.Forwarded`)."""
        if self._public_url is not None:
            return self._public_url
        host = request.headers.get("host", "")
        if not HOST.fullmatch(host):
            name, port = request.scope.get("server") or ("127.0.0.1", 80)
            host = f"{name}:{port}"
        return f"{request.url.scheme}://{host}"

    def url(self, artifact: Artifact, base: str) -> str:
        return f"{base.rstrip('/')}/files/{artifact.key}/{quote(artifact.file_name)}"

    def of_url(self, url: str) -> Path | None:
        """The file behind one of our own URLs. The host does not count: nobody else can have made the key."""
        try:
            whole = urlsplit(url).path
        except ValueError:
            return None
        for resolve in self.resolvers:
            if (found := resolve(whole)) is not None:
                return found
        parts = whole.strip("/").split("/")
        if len(parts) < 3 or parts[-3] != "files":
            return None
        path = self.path(parts[-2])
        return path if path is not None and path.name == parts[-1] else None

    def respond(self, request: Request, key: str, name: str) -> Response:
        """The answer to GET or HEAD of /files/{key}/{name}, with ranges; 404 as JSON."""
        path = self.path(key)
        if path is None or path.name != name:
            return JSONResponse({"detail": "no such file"}, 404, headers=CORS)
        extension = extension_of(path.name)
        return FileResponse(
            path,
            media_type=MEDIA_TYPES.get(extension, OTHER),
            filename=path.name,
            content_disposition_type="inline" if extension in MEDIA_TYPES else "attachment",
            headers={**CORS, "x-content-type-options": "nosniff", "cache-control": "private, max-age=31536000"},
        )


def extension_of(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def safe_name(name: str) -> str:
    """`name` as a file name of at most 100 plain characters, its extension kept."""
    stem, dot, extension = re.split(r"[/\\]", name)[-1].rpartition(".")
    if not dot:
        stem, extension = extension, ""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem)[:80].strip("-") or "file"
    extension = re.sub(r"[^A-Za-z0-9]+", "", extension)[:12]
    return f"{stem}.{extension}" if extension else stem
