"""Reads request bodies within their limits, and writes JSON responses.

Knows: bytes, JSON, the memory limits for bodies. Does not know: fields.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from server.facades.kit.json_bodies import parsed
from server.limits.bodies import MAX_BODY, SCOPE_KEY, SHORT, BodyTooLarge, Share

STEP = 8 * 2**20  # bytes to reserve at a time for a body of unknown length


class Json(Response):
    """JSON in ASCII, because UTF-8 cannot encode a lone surrogate. An error may quote a lone surrogate from a
    request."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def check_length(request: Request, limit: int = MAX_BODY) -> int | None:
    """Returns the length of the body in bytes, or None if the length is unknown. Raises BodyTooLarge before any of the
    body is read."""
    length = body_length(request)
    if length is not None and length > limit:
        raise BodyTooLarge(limit)
    return length


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """Raises BodyTooLarge, TooManyBodies."""
    return await collected(request, request.stream(), limit)


async def collected(
    request: Request,
    chunks: AsyncIterator[bytes],
    limit: int = MAX_BODY,
    *,
    owner: str | None = None,
    begun: bytes = b"",
) -> bytes:
    """Returns the whole body: `begun`, followed by the pieces in `chunks`. The memory for the body counts against the
    limit of `owner`. By default, this is the request's owner, or the client's IP address if the request has no owner.

    Raises BodyTooLarge, TooManyBodies.
    """
    length = check_length(request, limit)
    share: Share | None = request.scope.get(SCOPE_KEY)
    owner = owner or getattr(request.state, "owner", "") or f"address {request.client.host if request.client else ''}"
    counted = SHORT
    if share is not None and length is not None and length > SHORT:
        await share.take(owner, length)
        counted = length
    body = io.BytesIO()  # `getvalue` does not copy the bytes
    body.write(begun)
    async for chunk in chunks:
        body.write(chunk)
        if body.tell() > limit:
            raise BodyTooLarge(limit)
        if share is not None and body.tell() > counted:  # only for a body of unknown length
            share.take_now(owner, STEP)
            counted += STEP
    return body.getvalue()


def body_length(request: Request) -> int | None:
    """The length of the body in bytes; None if the request does not state the length."""
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdecimal():
        return int(length[:20])
    return None if "transfer-encoding" in request.headers else 0


async def read_json(request: Request) -> Any:
    """Returns the JSON document in the body, or None if the body is empty. Raises BadBody and what `read_body`
    raises."""
    return await parsed(await read_body(request), getattr(request.state, "owner", ""))


def counted(
    request: Request, grow: Callable[[int], None], look: Callable[[bytes], None], limit: int = MAX_BODY
) -> Request:
    """Returns a request with the same body. Each piece of the body is passed to `look` when it is read, and the size of
    the piece is passed to `grow`.

    Reading raises BodyTooLarge, and what `look` and `grow` raise.
    """
    size = 0

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise BodyTooLarge(limit)
        look(piece)
        grow(len(piece))
        return message

    return Request(request.scope, receive)
