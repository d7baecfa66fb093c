"""Bodies of requests, read within their limits, and JSON answers.

Knows: bytes, JSON, the memory that bodies may take. Does not know: fields.
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

STEP = 8 * 2**20  # bytes that are counted at a time of a body whose length is not known


class Json(Response):
    """JSON in ASCII: a caller's lone surrogate, repeated in an error, has no UTF-8 form but has this one."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def check_length(request: Request, limit: int = MAX_BODY) -> int | None:
    """Bytes of the body, None when the request does not say. Raises BodyTooLarge before any of it is read."""
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
    """`begun` and the rest of a body, counted as `owner`'s (the request's, its address's without one).

    Raises BodyTooLarge, TooManyBodies.
    """
    length = check_length(request, limit)
    share: Share | None = request.scope.get(SCOPE_KEY)
    owner = owner or getattr(request.state, "owner", "") or f"address {request.client.host if request.client else ''}"
    counted = SHORT
    if share is not None and length is not None and length > SHORT:
        await share.take(owner, length)
        counted = length
    body = io.BytesIO()  # whose value is no copy
    body.write(begun)
    async for chunk in chunks:
        body.write(chunk)
        if body.tell() > limit:
            raise BodyTooLarge(limit)
        if share is not None and body.tell() > counted:  # a body that does not say how long it is
            share.take_now(owner, STEP)
            counted += STEP
    return body.getvalue()


def body_length(request: Request) -> int | None:
    """Bytes of the body; None when the request does not say."""
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdecimal():
        return int(length[:20])
    return None if "transfer-encoding" in request.headers else 0


async def read_json(request: Request) -> Any:
    """The document in the body, None when that is empty. Raises BadBody and what `read_body` raises."""
    return await parsed(await read_body(request), getattr(request.state, "owner", ""))


def counted(
    request: Request, grow: Callable[[int], None], look: Callable[[bytes], None], limit: int = MAX_BODY
) -> Request:
    """The same request, whose body is counted while it is read: `look` gets each piece, and `grow` its size, before the
    reader has it.

    Reading raises BodyTooLarge, and what these two raise.
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
