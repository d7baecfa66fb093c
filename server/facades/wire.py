"""What every façade needs of HTTP: bodies, JSON, a caller that hangs up, schemas for the documentation.

Knows: bytes, ASGI and pydantic. Does not know: any vendor's words; what these errors look like is up to each façade.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.ranges import flaw as flaw  # the façades have it from here
from pipelines.request import RequestError
from server.auth import Unauthorized
from server.errors import IDEMPOTENCY_KEY, DiskFull, MediaError, NoModel, QueueFull, UploadTooLarge
from server.facades.json_bodies import MAX_VALUES as MAX_VALUES
from server.facades.json_bodies import BadBody as BadBody
from server.facades.json_bodies import parse_json as parse_json
from server.facades.json_bodies import parsed as parsed
from server.jobs.job import Job, Status
from server.jobs.jobs import Jobs, NoWorker, Stopped
from server.limits.bodies import MAX_BODY as MAX_BODY
from server.limits.bodies import SCOPE_KEY, SHORT, Share
from server.limits.bodies import BodyTooLarge as BodyTooLarge
from server.limits.calls import in_turn
from server.limits.shares import holder

STEP = 8 * 2**20  # bytes that are counted at a time of a body whose length is not known
MAX_PROMPT = 20_000  # characters: far more than any text encoder of the family reads
KEPT = 64_000  # characters of a request's fields that are kept in the job table
SHOWN = 200  # characters of a caller's own value that an error repeats
LONGEST_URL = 8192  # characters
LONGEST_NAME = 255  # characters of an Idempotency-Key
UNKNOWN, LONGEST_FIELD = 20, 60  # fields without effect that are named, and characters of one's name
NOT_A_FIELD = "this server has no such field"


class Unavailable(HTTPException):
    """The server does no work now, for a reason that passes: 503, in each façade's shape."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message)


# what may be raised on the way to an answer, each of which a façade has its own words for
RAISED = (
    Unauthorized,
    ValidationError,
    BadBody,
    BodyTooLarge,
    MediaError,
    UploadTooLarge,
    RequestError,
    NoModel,
    QueueFull,
    DiskFull,
    ClientDisconnect,
    HTTPException,
    Exception,
)


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


def idempotency(request: Request) -> str | None:
    """The name its caller gave this call, so that calling again makes no second job. Raises RequestError."""
    name = request.headers.get(IDEMPOTENCY_KEY, "").strip()
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise RequestError(IDEMPOTENCY_KEY, f"must have at most {LONGEST_NAME} printable characters")
    return name or None


def is_callable(url: str) -> bool:
    """Whether a webhook could be told at this address."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
    return whole and len(url) <= LONGEST_URL and url.isprintable() and " " not in url and flaw(url) is None


def is_blank(text: str | bytes) -> bool:
    """Whether it is white space; of a long text its beginning decides."""
    return not text[:MAX_PROMPT].strip()


def shown(value: Any) -> Any:
    """`value` as an error may repeat it: short, and always possible to write as JSON."""
    if isinstance(value, str):
        return value if len(value) <= SHOWN else f"{value[:SHOWN]}… ({len(value)} characters)"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return value if abs(value) < 2**63 else shown(hex(value))
    if isinstance(value, dict):
        return f"an object of {len(value)} fields" if value else {}
    if isinstance(value, list):
        return f"a list of {len(value)} entries" if value else []
    return None


def kept(payload: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The part of `payload` worth a place in the job table: known fields, without the images themselves, and no more of
    them than KEPT characters altogether."""
    left = Left(KEPT)
    return {name[:SHOWN]: _abridged(payload[name], left) for name in names if payload.get(name) is not None}


@dataclass
class Left:
    """Characters that may still be kept."""

    characters: int

    def take(self, size: int) -> bool:
        self.characters -= size
        return self.characters >= 0


def _abridged(value: Any, left: Left, depth: int = 3) -> Any:
    left.take(8)  # what a value takes besides its characters
    if isinstance(value, str):
        if len(value) > MAX_PROMPT or not left.take(len(value)):
            value = f"{value[:80]}… ({len(value)} characters)"
        return value.encode("utf-8", "replace").decode().replace("\0", "")
    if isinstance(value, dict) and depth and left.take(0):
        some = list(value.items())[:100]
        return {name: _abridged(one, left, depth - 1) for key, one in some if (name := _plain(key)) and left.take(0)}
    if isinstance(value, list) and depth and left.take(0):
        return [_abridged(one, left, depth - 1) for one in value[:100] if left.take(0)]
    return shown(value)


def _plain(key: str) -> str:
    return key[:SHOWN].encode("utf-8", "replace").decode().replace("\0", "")


def unknown(given: Iterable[str], known: Iterable[str]) -> list[str]:
    """A note for each field that was sent and that the call does not have, at most UNKNOWN of them."""
    names = sorted(set(given) - set(known))
    said = [f"{_plain(name[:LONGEST_FIELD])}: ignored ({NOT_A_FIELD})" for name in names[:UNKNOWN]]
    return said if len(names) <= UNKNOWN else [*said, f"and {len(names) - UNKNOWN} more fields"]


async def finished_or_dropped(
    request: Request, jobs: Jobs, job: Job, start_within: float | None = None, *, one_shot: bool = False
) -> Job | None:
    """The job once it is terminal; None when the caller hung up.

    `one_shot`: nobody can ask for the job after this call, so hanging up cancels it; other jobs go on. A call with an
    Idempotency-Key is never of that kind: its caller can make it again.

    A job still queued after `start_within` seconds is cancelled and returned as such. Raises Unavailable when the
    server stops or no worker can start: the job stays queued if its caller can ask for it later, else it is cancelled.
    """
    one_shot = one_shot and job.idempotency is None
    waiting = asyncio.ensure_future(_finished(jobs, job, start_within))
    dropped = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({waiting, dropped}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            try:
                return waiting.result()
            except Stopped:
                if one_shot:
                    await run_in_threadpool(jobs.cancel, job.id)
                    raise Unavailable("The server is stopping; send the request again later") from None
                kept_for = f"request {job.id} stays queued, ask for it when the server is back"
                raise Unavailable(f"The server is stopping; {kept_for}") from None
            except NoWorker as e:
                if one_shot:
                    await run_in_threadpool(jobs.cancel, job.id)
                    raise Unavailable(e.message) from None
                raise Unavailable(f"{e.message}; request {job.id} stays queued until then") from None
        if one_shot:
            await run_in_threadpool(jobs.cancel, job.id)
        return None
    finally:
        if not waiting.cancel() and not waiting.cancelled():
            waiting.exception()  # or asyncio complains that nobody looked at it
        dropped.cancel()


async def _finished(jobs: Jobs, job: Job, start_within: float | None) -> Job:
    if start_within is not None:
        job = await jobs.wait(job.id, timeout=start_within)
        if job.status is Status.QUEUED and job.attempt == 0:
            await run_in_threadpool(jobs.cancel, job.id, True)
    return job if job.status.is_terminal else await jobs.wait(job.id)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Doorman:
    """ASGI middleware: shows each HTTP request to `look`, which may rewrite its scope or answer in the app's stead.

    Requests of the key that it names as `state.owner` take turns with those of others, and so do those it answers, by
    their address.
    """

    def __init__(self, app: ASGIApp, look: Callable[[Request], Awaitable[Response | None]]) -> None:
        self.app = app
        self.look = look

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        answer = await self.look(request)
        owner = "" if answer is not None else getattr(request.state, "owner", None)
        if owner is None:  # a key that comes with the body
            await self.app(scope, receive, send)
            return
        async with in_turn(scope, holder(owner, request), send) as sending:
            await (answer or self.app)(scope, receive, sending)


def body_schema(*models: type[BaseModel], types: Iterable[str] = ("application/json",)) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its body itself; `document` supplies what it refers to."""
    refs = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"requestBody": {"required": True, "content": {media: {"schema": schema} for media in types}}}


def document(app: FastAPI, models: Iterable[type[BaseModel]]) -> None:
    """Adds the schemas of `models` to the app's OpenAPI document."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            _, extra = models_json_schema(
                [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
            )
            schema.setdefault("components", {}).setdefault("schemas", {}).update(extra.get("$defs", {}))
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
