"""Files that the server serves: results and uploads.

Knows: their unguessable keys, their URLs, when they expire, how a browser should treat them. Does not know: where the
files are stored (`storage.py`), jobs, vendors. Anyone who knows a key may download its file.
"""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.datadir import DataDir, full_disk_named
from server.limits.room import DAY, HOUR, TAG, Counted, tag_of
from server.media.artifact import Artifact
from server.media.storage import CORS, FOR_EVER, GONE, KEY, LocalStorage, Storage, StorageDown, Stored

PREFIX = "cogvideox.prefix"  # in a request's scope: the path below which a proxy publishes this server
HOST = re.compile(r"[A-Za-z0-9._\-\[\]:]{1,255}")
# media types of served files; any other file is served as plain bytes, so an upload can never run as a web page
MEDIA_TYPES = {
    "mp4": "video/mp4",
    "webm": "video/webm",
    "gif": "image/gif",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "avif": "image/avif",
    "heic": "image/heic",
    "mov": "video/quicktime",
    "json": "application/json",
    "txt": "text/plain",
}
EXTENSIONS = {media_type: extension for extension, media_type in reversed(MEDIA_TYPES.items())}
OTHER = "application/octet-stream"


@dataclass(frozen=True)
class Limits:
    """`keep_seconds`: how long to keep files that have no explicit expiry. Limits in bytes: `size` for all files,
    `size_per_owner` for the files of one API key, `brought_per_owner` for its uploads that never expire. None: no
    limit."""

    keep_seconds: float | None = None
    size: int | None = None
    size_per_owner: int | None = None
    brought_per_owner: int | None = None


NO_LIMITS = Limits()


class Artifacts:
    """`clock` returns unix seconds. `file_at` finds the file at a URL path of a façade."""

    def __init__(
        self,
        data: DataDir,
        public_url: str | None = None,
        clock: Callable[[], float] = time.time,
        storage: Storage | None = None,
        file_at: Callable[[str], Artifact | None] = lambda path: None,
    ) -> None:
        self._file_at = file_at
        self._clock = clock
        self._data = data
        self._storage = storage or LocalStorage(data.artifacts)
        self._public_url = public_url

    def new_key(self, owner: str = "") -> str:
        """A key for a new file: a prefix shared by all keys of this owner, and 144 random bits."""
        return tag_of(owner) + secrets.token_urlsafe(18)

    def put(
        self, name: str, media_type: str, data: bytes, keep_seconds: float | None = None, owner: str = ""
    ) -> Artifact:
        """Stores a result under a new key, completely or not at all. `sweep` decides when to remove it, unless
        `keep_seconds` is given.

        Raises DiskFull, OSError.
        """
        key, file_name = self.new_key(owner), safe_name(name)
        until = None if keep_seconds is None else self._clock() + keep_seconds
        self._storage.put(key, file_name, data, until, headers_of(file_name))
        self._data.room.note(key[:TAG], len(data), brought=until is not None)
        return Artifact(key, media_type, file_name, len(data))

    def adopt(self, file: Path, key: str, name: str, media_type: str, *, keep_seconds: float | None = None) -> Artifact:
        """Stores a copy of a client's `file`. A name without a known extension gets the extension of the media type.

        Raises DiskFull, FileExistsError, OSError.
        """
        file_name = safe_name(name)
        if extension_of(file_name) not in MEDIA_TYPES and (extension := EXTENSIONS.get(media_type)):
            file_name = f"{file_name}.{extension}"
        until = FOR_EVER if keep_seconds is None else self._clock() + keep_seconds
        self._storage.put(key, file_name, file, until, headers_of(file_name))
        size = file.stat().st_size
        self._data.room.note(key[:TAG], size, brought=True)
        return Artifact(key, MEDIA_TYPES.get(extension_of(file_name), OTHER), file_name, size)

    def find(self, key: str) -> Artifact | None:
        """The file with this key; None for a file that has expired or does not exist."""
        if (stored := self._find(key)) is None:
            return None
        return Artifact(key, MEDIA_TYPES.get(extension_of(stored.name), OTHER), stored.name, stored.size)

    def _find(self, key: str) -> Stored | None:
        stored = self._storage.find(key) if KEY.fullmatch(key) else None
        return None if stored is None or self._is_over(stored) else stored

    def _is_over(self, stored: Stored) -> bool:
        return stored.until is not None and stored.until <= self._clock()

    def expires_at(self, key: str) -> float | None:
        """The file's expiry in unix seconds; None for a file that never expires or does not exist."""
        stored = self._storage.find(key) if KEY.fullmatch(key) else None
        return None if stored is None or stored.until == FOR_EVER else stored.until

    def sweep(self, limits: Limits = NO_LIMITS, others: Callable[[], Iterable[Counted]] = tuple) -> int:
        """Removes expired files, then the oldest files while a limit is exceeded; returns the number of removed files.

        To get below a limit, it first removes results without an explicit expiry, then uploads and files with an
        explicit expiry. `others` returns the files that are stored elsewhere but count as uploads. Raises StorageDown.
        """
        with self._data.room.recount() as recounted:
            over, left = self._listed(limits)
            kept = ((one.key[:TAG], one.size, one.until is not None, one.made_at) for one in left)
            recounted((*kept, *others()))
        for key in over:
            self._storage.remove(key)
        return len(over)

    def _listed(self, limits: Limits) -> tuple[list[str], list[Stored]]:
        """The keys of the files to remove, and the files that stay. Raises StorageDown."""
        now = self._clock()
        over, others = [], []
        for stored in self._storage.all():
            lasting = limits.keep_seconds if stored.until is None else None
            if self._is_over(stored) or (lasting is not None and stored.made_at + lasting <= now):
                over.append(stored.key)
            else:
                others.append(stored)
        files: dict[str, list[Stored]] = defaultdict(list)
        for stored in others:
            files[stored.key[:TAG]].append(stored)
        for of_one in files.values():
            if limits.brought_per_owner is not None:
                lasting_ones = [stored for stored in of_one if stored.until == FOR_EVER]
                over += _surplus(lasting_ones, limits.brought_per_owner, now, DAY)
            if limits.size_per_owner is not None:
                over += _surplus(of_one, limits.size_per_owner, now)
        if limits.size is not None:
            gone = set(over)
            over += _surplus([stored for stored in others if stored.key not in gone], limits.size, now)
        gone = set(over)
        return over, [stored for stored in others if stored.key not in gone]

    def keys(self) -> set[str]:
        """The keys of all files. Raises StorageDown."""
        return {stored.key for stored in self._storage.all() if stored.name}

    def read(self, artifact: Artifact) -> bytes:
        """Raises FileNotFoundError for a removed file, and StorageDown."""
        return self._storage.read(artifact.key, artifact.file_name)

    @contextmanager
    def on_disk(self, artifact: Artifact) -> Iterator[Path]:
        """A temporary copy of the file on disk. Raises FileNotFoundError, DiskFull."""
        with full_disk_named(), tempfile.NamedTemporaryFile(dir=self._data.uploads) as file:
            file.write(self.read(artifact))
            file.flush()
            yield Path(file.name)

    def remove(self, artifact: Artifact) -> None:
        """Removes the file; does nothing while the storage is unavailable."""
        with suppress(StorageDown):
            if (stored := self._storage.find(artifact.key)) is not None:
                self._storage.remove(artifact.key)
                self._data.room.note(stored.key[:TAG], -stored.size, stored.until is not None, stored.made_at)

    def check_room(self) -> None:
        """Raises DiskFull when there may be too little room for the result of a new job."""
        self._data.check_room()
        self._storage.check()

    def base_url(self, request: Request) -> str:
        """The base URL of this server for the client: PUBLIC_URL, otherwise from the request's Host header."""
        if self._public_url is not None:
            return self._public_url
        host = request.headers.get("host", "")
        if not HOST.fullmatch(host):
            name, port = request.scope.get("server") or ("127.0.0.1", 80)
            host = f"{name}:{port}"
        return f"{request.scope['scheme']}://{host}{request.scope.get(PREFIX, '')}"

    def url(self, artifact: Artifact, base: str) -> str:
        return f"{base.rstrip('/')}/files/{artifact.key}/{quote(artifact.file_name)}"

    def of_url(self, url: str) -> Artifact | None:
        """The file at one of this server's own URLs. The host in the URL is ignored, because only this server generates
        such keys."""
        try:
            whole = urlsplit(url).path
        except ValueError:
            return None
        if (found := self._file_at(whole)) is not None:
            return found
        parts = whole.strip("/").split("/")
        if len(parts) < 3 or parts[-3] != "files":
            return None
        found = self.find(parts[-2])
        return found if found is not None and found.file_name == parts[-1] else None

    def respond(self, request: Request, key: str, name: str) -> Response:
        """The response to GET or HEAD of /files/{key}/{name}; errors are JSON with status 404 or 503."""
        try:
            return self.sent(request, key, name)
        except StorageDown as e:
            return JSONResponse({"detail": e.message}, 503, headers=CORS)
        except FileNotFoundError:
            return JSONResponse(GONE, 404, headers=CORS)

    def sent(self, request: Request, key: str, name: str) -> Response:
        """The response to GET or HEAD of a file, with ranges and conditions. Raises FileNotFoundError, StorageDown."""
        stored = self._find(key)
        if stored is None or stored.name != name:
            raise FileNotFoundError(name)
        return self._storage.respond(request, stored, headers_of(name))


def _surplus(files: list[Stored], limit: int, now: float, safe: float = HOUR) -> list[str]:
    """The keys of the files to remove so that the remaining files fit into `limit` bytes. Files younger than `safe`
    seconds are never removed."""
    surplus, keys = sum(stored.size for stored in files) - limit, []
    for stored in sorted(files, key=lambda one: (one.until is not None, one.made_at)):
        if surplus <= 0:
            break
        if stored.made_at <= now - safe:
            keys.append(stored.key)
            surplus -= stored.size
    return keys


def headers_of(name: str) -> dict[str, str]:
    """The response headers for a file of that name."""
    extension = extension_of(name)
    media_type = MEDIA_TYPES.get(extension, OTHER)
    how = "inline" if extension in MEDIA_TYPES else "attachment"
    return {
        **CORS,
        "content-type": f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type,
        "content-disposition": f'{how}; filename="{name}"',
        "x-content-type-options": "nosniff",
        "cache-control": "private, max-age=3600",  # files expire, so caches must revalidate
    }


def extension_of(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def safe_name(name: str) -> str:
    """`name` as a file name of at most 100 plain characters, with its extension."""
    stem, dot, extension = re.split(r"[/\\]", name)[-1].rpartition(".")
    if not dot:
        stem, extension = extension, ""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem)[:80].strip("-") or "file"
    extension = re.sub(r"[^A-Za-z0-9]+", "", extension)[:12]
    return f"{stem}.{extension}" if extension else stem
