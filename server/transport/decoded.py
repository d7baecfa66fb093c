"""Decompresses request bodies in small pieces before the app reads them.

Knows: gzip, deflate. Does not know: what a body holds or how large it may be. The reader counts the decompressed bytes,
so a decompression bomb takes no more memory than an uncompressed body.
"""

from __future__ import annotations

import asyncio
import zlib

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.limits.bodies import BodyTooLarge

PIECE = 64 * 2**10  # bytes to pass on before the event loop gets a turn
MOST_MEMBERS = 100  # members of one gzip body; limited, because each member needs its own decompressor
TAKEN = "gzip, deflate"
WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's `wbits`
RAW = -15


class Decoded:
    """ASGI middleware: decompresses a body that has a Content-Encoding.

    `receive` raises the errors, so that the app answers these errors like any other error: HTTPException 415 for an
    unsupported coding, 400 for a body that does not match its coding, BodyTooLarge for more than `limit` compressed
    bytes.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (codings := codings_of(Headers(scope=scope))):
            changed = (b"content-encoding", b"content-length", b"transfer-encoding")
            rest = [(name, value) for name, value in scope["headers"] if name not in changed]
            scope["headers"] = [*rest, (b"transfer-encoding", b"chunked")]  # the decompressed length is unknown
            receive = Plain(receive, codings, self.limit)
        await self.app(scope, receive, send)


def codings_of(headers: Headers) -> list[str]:
    """The codings of the body in the order they were applied; empty for a request without a body."""
    if headers.get("content-length", "0").strip("0") == "" and "transfer-encoding" not in headers:
        return []
    named = ",".join(headers.getlist("content-encoding")).lower().split(",")
    return [name for part in named if (name := part.strip()) not in ("", "identity")]


class Plain:
    """An ASGI `receive` that decompresses the body. After an error, every further call raises the same error again."""

    def __init__(self, receive: Receive, codings: list[str], limit: int) -> None:
        self._receive = receive
        self._coding = codings[0]
        self._limit = limit
        self._came = self._members = 0  # compressed bytes received, completed gzip members
        self._packed = b""  # received and not yet decompressed
        self._has_more = False  # the decompressor holds output that did not fit into the last piece
        self._is_last = self._has_ended = False
        self._inflater = zlib.decompressobj(WINDOW.get(self._coding, RAW))
        self._failure: Exception | None = None
        if len(codings) > 1 or self._coding not in WINDOW:
            what = ", ".join(codings)[:100]
            text = f"Content-Encoding {what} is not supported: send the body with gzip, deflate, or as it is"
            self._failure = HTTPException(415, text, {"accept-encoding": TAKEN})

    async def __call__(self) -> Message:
        if self._failure is not None:
            raise self._failure
        if self._has_ended:
            return await self._receive()
        try:
            return await self._next()
        except (HTTPException, BodyTooLarge) as e:
            self._failure = e
            raise

    async def _next(self) -> Message:
        while True:
            if self._packed or self._has_more:
                await asyncio.sleep(0)
                if piece := self._piece():
                    return {"type": "http.request", "body": piece, "more_body": True}
            elif self._is_last:
                if self._came and not self._inflater.eof:
                    raise HTTPException(400, f"The {self._coding} body is cut off")
                self._has_ended = True
                return {"type": "http.request", "body": b"", "more_body": False}
            else:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._take(message)

    def _take(self, message: Message) -> None:
        fresh = message.get("body", b"")
        self._is_last = not message.get("more_body", False)
        if not self._came and fresh and self._coding == "deflate" and fresh[0] & 0x8F != 8:
            self._inflater = zlib.decompressobj(RAW)  # some clients omit the zlib header
        self._came += len(fresh)
        if self._came > self._limit:
            raise BodyTooLarge(self._limit)
        self._packed += fresh

    def _piece(self) -> bytes:
        if self._inflater.eof:  # further data follows a complete member
            self._members += 1
            if WINDOW[self._coding] != WINDOW["gzip"] or self._members > MOST_MEMBERS:
                raise HTTPException(400, f"The {self._coding} body has data after its end")
            self._inflater = zlib.decompressobj(WINDOW["gzip"])
        try:
            piece = self._inflater.decompress(self._packed, PIECE)
        except zlib.error:
            raise HTTPException(400, f"The body is not {self._coding}, as its Content-Encoding claims") from None
        self._packed = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
        self._has_more = len(piece) == PIECE and not self._inflater.eof
        return piece
