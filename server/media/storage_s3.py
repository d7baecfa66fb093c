"""Files on S3-compatible storage.

Knows: the names of objects, retries, streaming, signed URLs. The usual AWS_* variables set the endpoint, the region and
the credentials. Does not know: how long files are kept.

An object is `<prefix>/<key>/<file name>`, or `<prefix>/<key>/until-<unix time>/<file name>` for a file with an expiry,
so that a listing alone gives all metadata.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import obstore
import structlog
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Send

from server.errors import BadSetting
from server.media.conditions import bodiless, wanted
from server.media.storage import CORS, KEY, Storage, StorageDown, Stored

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import BackoffConfig, ClientConfig

RETRIES = 6
FIRST_WAIT = timedelta(seconds=0.5)  # the wait before the second try; the waits before later tries are longer
LONGEST_WAIT = timedelta(seconds=5)
PATIENCE = timedelta(seconds=30)  # for all tries of one request to the storage together
SILENCE = timedelta(seconds=30)  # the longest time without receiving a byte
WHOLE = timedelta(days=1)  # for a whole download, because a client may read slowly
PART = 5 * 2**20  # bytes, the smallest part size that S3 accepts
PIECE = 2**20  # bytes passed on to a client at a time
SIGNED_SECONDS = 3600.0  # the longest validity of a signed URL
AGAIN_SECONDS = 10.0  # seconds from a failure until `check` tries the storage again
OBJECT = re.compile(rf"({KEY.pattern})/(?:until-(\d+\.\d+|inf)/)?([^/]+)")
KEPT_HEADERS = ("content-type", "content-disposition", "cache-control")

log = structlog.get_logger()
T = TypeVar("T")


class ObjectStorage(Storage):
    """`url`: s3://bucket/prefix. The constructor writes a test object and raises BadSetting when it cannot."""

    def __init__(self, url: str, redirect: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._redirect = redirect
        self._clock = clock
        self._failed: tuple[float, StorageDown] | None = None
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        backoff: BackoffConfig = {"init_backoff": FIRST_WAIT, "max_backoff": LONGEST_WAIT, "base": 2}
        try:
            self._store = S3Store(
                bucket,
                prefix=prefix or None,
                client_options=_client_options(),
                retry_config={"max_retries": RETRIES, "retry_timeout": PATIENCE, "backoff": backoff},
            )
            obstore.put(self._store, ".probe", b"")
            obstore.delete(self._store, ".probe")
        except (BaseError, OSError, ValueError) as e:
            raise BadSetting(f"COGVIDEOX_STORAGE_URL={url}: cannot be written to: {_first_line(e)}") from None

    def put(self, key: str, name: str, content: bytes | Path, until: float | None, headers: Mapping[str, str]) -> None:
        path = f"{key}/{name}" if until is None else f"{key}/until-{until:.3f}/{name}"
        kept = {header: headers[header] for header in KEPT_HEADERS}
        try:
            self._asked(lambda: obstore.put(self._store, path, content, attributes=kept, chunk_size=PART))
        except FileNotFoundError as e:  # the bucket does not exist
            raise self._down(e) from None

    def find(self, key: str) -> Stored | None:
        return next(self._listed(key), None)

    def all(self) -> Iterator[Stored]:
        return self._listed(None)

    def _listed(self, prefix: str | None) -> Iterator[Stored]:
        pages = iter(obstore.list(self._store, prefix=prefix))
        while page := self._asked(lambda: next(pages, None)):
            yield from filter(None, map(_stored, page))

    def read(self, key: str, name: str) -> bytes:
        return self._asked(lambda: bytes(obstore.get(self._store, self._path(key, name)).bytes()))

    def _path(self, key: str, name: str) -> str:
        """Raises FileNotFoundError."""
        stored = self.find(key)
        if stored is None or stored.name != name:
            raise FileNotFoundError(name)
        return _path(stored)

    def remove(self, key: str) -> None:
        paths = [_path(stored) for stored in self._listed(key)]
        if paths:
            self._asked(lambda: obstore.delete(self._store, paths))

    def respond(self, request: Request, stored: Stored, headers: Mapping[str, str]) -> Response:
        path = _path(stored)
        if self._redirect:
            return self._sent_on(request, path, stored)
        shown = {**headers, "accept-ranges": "bytes", "last-modified": formatdate(stored.made_at, usegmt=True)}
        if stored.tag:
            shown["etag"] = stored.tag
        what = wanted(request.headers, stored.tag, stored.made_at, stored.size)
        if what.status not in (200, 206):
            return bodiless(what, shown, stored.size)
        status, begin, end = 200, 0, stored.size
        # S3 sends one range at a time; for several ranges, the standard allows a response with the whole file
        if len(what.parts) == 1:
            (begin, end), status = what.parts[0], 206
            shown["content-range"] = f"bytes {begin}-{end - 1}/{stored.size}"
        shown["content-length"] = str(end - begin)
        if request.method == "HEAD" or begin == end:
            return Response(None, status, shown)
        found = self._asked(lambda: obstore.get(self._store, path, options={"range": (begin, end)}))
        return Passed(self._pieces(found), status, shown)

    async def _pieces(self, found: GetResult) -> AsyncIterator[bytes]:
        try:
            async for piece in found.stream(min_chunk_size=PIECE):
                yield bytes(piece)
        except (BaseError, OSError) as e:
            raise self._down(e) from None

    def _sent_on(self, request: Request, path: str, stored: Stored) -> Response:
        seconds = SIGNED_SECONDS if stored.until is None else min(SIGNED_SECONDS, stored.until - time.time())
        method: Literal["GET", "HEAD"] = "HEAD" if request.method == "HEAD" else "GET"
        address = obstore.sign(self._store, method, path, timedelta(seconds=max(1, int(seconds))))
        return RedirectResponse(address, 307, {**CORS, "cache-control": "no-store"})

    def check(self) -> None:
        """After a failure, raises that failure again for AGAIN_SECONDS, without trying the storage. After that time,
        tries the storage again."""
        if self._failed is None:
            return
        since, why = self._failed
        if self._clock() - since < AGAIN_SECONDS:
            raise StorageDown(why.message)
        self.find("-" * 32)

    def _asked(self, ask: Callable[[], T]) -> T:
        """Returns the result of `ask`. Raises StorageDown, FileNotFoundError."""
        try:
            answer = ask()
        except BaseError as e:
            raise self._down(e) from None
        self._failed = None
        return answer

    def _down(self, error: Exception) -> StorageDown:
        log.warning("storage failed", why=_first_line(error))
        refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        down = StorageDown(f"the storage for files {'refuses this server' if refused else 'cannot be reached'}")
        self._failed = self._clock(), down
        return down


class Passed(StreamingResponse):
    """A response that ends early when the storage fails, so that the client notices the missing bytes."""

    def __init__(self, pieces: AsyncIterator[bytes], status: int, headers: Mapping[str, str]) -> None:
        super().__init__(pieces, status, headers)

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except StorageDown:
            return  # the response is incomplete, so the connection is cut


def _client_options() -> ClientConfig:
    """Raises ValueError, OSError."""
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": SILENCE,
        "timeout": WHOLE,
    }
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):  # the second variable takes precedence
        if endpoint := os.environ.get(name):
            if not re.match(r"https?://[^/\s]", endpoint):
                raise ValueError(f"{name} must look like https://s3.example.org")
            options["allow_http"] = endpoint.startswith("http://")
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        options["root_certificate"] = Path(bundle).read_bytes()
    return options


def _stored(meta: ObjectMeta) -> Stored | None:
    """The file of this object; None for an object that this server did not create."""
    found = OBJECT.fullmatch(meta["path"])
    if found is None:
        return None
    key, until, name = found.groups()
    made_at = meta["last_modified"].timestamp()
    return Stored(key, name, meta["size"], made_at, None if until is None else float(until), meta["e_tag"] or "")


def _path(stored: Stored) -> str:
    until = "" if stored.until is None else f"until-{stored.until:.3f}/"
    return f"{stored.key}/{until}{stored.name}"


def _first_line(error: Exception) -> str:
    """The error's first line, without the tree of causes that follows and without file keys."""
    lines = str(error).splitlines() or [type(error).__name__]
    return re.sub(KEY.pattern, "…", lines[0])[:300]
