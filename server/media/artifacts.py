"""Files the server hands out: results for now, uploads later.

Knows: where they lie, their unguessable keys, their URLs, how a browser should treat them.
Does not know: who may have them (who knows the key may), jobs, vendors.

Layout: `<folder>/<key>/<file name>`, one file in each; the key is made here and never by a client.
"""

from __future__ import annotations

import re
import secrets
import shutil
from pathlib import Path
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from server.datadir import DataDir, write_atomically
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
}
CORS = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "Content-Length, Content-Range, Accept-Ranges, ETag, Content-Type",
}


class Artifacts:
    def __init__(self, data: DataDir, public_url: str | None = None) -> None:
        self._data = data
        self._folder = data.artifacts
        self._public_url = public_url

    def put(self, job_id: str, attempt: int, name: str, media_type: str, data: bytes) -> Artifact:
        """Stores `data`, wholly or not at all. Every call makes a new file, so no attempt can touch another's.

        Raises DiskFull, OSError.
        """
        file_name = safe_name(name)
        key = secrets.token_urlsafe(24)
        folder = self._folder / key
        folder.mkdir(mode=0o755)
        try:
            write_atomically(folder / file_name, data)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Artifact(key, media_type, file_name, len(data))

    def path(self, key: str) -> Path | None:
        """The file of that key."""
        if not KEY.fullmatch(key):
            return None
        try:
            return next((p for p in (self._folder / key).iterdir() if not p.name.startswith(".")), None)
        except OSError:
            return None

    def read(self, artifact: Artifact) -> bytes:
        """Raises FileNotFoundError when it was removed."""
        return (self._folder / artifact.key / artifact.file_name).read_bytes()

    def remove(self, artifact: Artifact) -> None:
        shutil.rmtree(self._folder / artifact.key, ignore_errors=True)

    def check_room(self) -> None:
        """Raises DiskFull when a new job could not be promised a place for its result."""
        self._data.check_room()

    def base_url(self, request: Request) -> str:
        """What the client calls this server: PUBLIC_URL, else the address it asked (proxies are uvicorn's affair)."""
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
            parts = urlsplit(url).path.strip("/").split("/")
        except ValueError:
            return None
        if len(parts) < 3 or parts[-3] != "files":
            return None
        path = self.path(parts[-2])
        return path if path is not None and path.name == parts[-1] else None

    def respond(self, request: Request, key: str, name: str) -> Response:
        """The answer to GET or HEAD of /files/{key}/{name}, with ranges; 404 as JSON."""
        path = self.path(key)
        if path is None or path.name != name:
            return JSONResponse({"detail": "no such file"}, 404, headers=CORS)
        extension = path.suffix.lower().removeprefix(".")
        return FileResponse(
            path,
            media_type=MEDIA_TYPES.get(extension, "application/octet-stream"),
            filename=path.name,
            content_disposition_type="inline" if extension in MEDIA_TYPES else "attachment",
            headers={**CORS, "x-content-type-options": "nosniff", "cache-control": "private, max-age=31536000"},
        )


def safe_name(name: str) -> str:
    """`name` as a file name of at most 100 plain characters, its extension kept."""
    stem, dot, extension = re.split(r"[/\\]", name)[-1].rpartition(".")
    if not dot:
        stem, extension = extension, ""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem)[:80].strip("-") or "file"
    extension = re.sub(r"[^A-Za-z0-9]+", "", extension)[:10]
    return f"{stem}.{extension}" if extension else stem
