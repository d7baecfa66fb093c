"""What every façade needs of HTTP: bodies, JSON, a caller that hangs up, schemas for the documentation.

Knows: bytes, ASGI and pydantic. Does not know: any vendor's words; what these errors look like is up to each façade.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NoReturn
from urllib.parse import urlsplit

from fastapi import FastAPI
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.request import RequestError
from server.auth import Unauthorized
from server.errors import IDEMPOTENCY_KEY, DiskFull, MediaError, NoModel, QueueFull, UploadTooLarge
from server.jobs.job import Job, Status
from server.jobs.jobs import Jobs, NoWorker, Stopped

MAX_BODY = 128 * 2**20  # bytes: a 64 MB clip as base64, with room to spare
MAX_VALUES = 100_000  # in a JSON body: the parser stops everything else while it reads, seconds for 100 MB of `0,0,0`
MAX_PROMPT = 20_000  # characters: far more than any text encoder of the family reads
SHOWN = 200  # characters of a caller's own value that an error repeats
LONGEST_URL = 8192  # characters
LONGEST_NAME = 255  # characters of an Idempotency-Key
REFUSAL = "refusal"  # in a request's state: the exception that it ended in, for the log


class BadBody(Exception):
    """A body that is no JSON document; `position` is the character where it stops being one."""

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


class BodyTooLarge(Exception):
    def __init__(self, limit: int = MAX_BODY) -> None:
        self.message = f"The request body is larger than {limit // 2**20} MiB"
        super().__init__(self.message)


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


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise BodyTooLarge(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(limit)
    return bytes(body)


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


def parse_json(body: bytes) -> Any:
    """The document in `body`, None when it is empty (a JSON content type without a body is common)."""
    if not body.strip():
        return None
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:  # what a picture in base64 has none of
        raise BadBody(f"The body holds more than {MAX_VALUES} values")
    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise BadBody(error.msg, error.pos) from error
    except UnicodeDecodeError as error:
        raise BadBody("The body is not UTF-8", error.start) from error
    except RecursionError as error:
        raise BadBody("The body is nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise BadBody("The body holds a number that is too long") from error


def _no_constant(name: str) -> NoReturn:
    raise BadBody(f"{name} is not a JSON value")


def flaw(text: str) -> str | None:
    """Why no tokenizer, file or database takes this text; None for all others."""
    if "\0" in text:
        return "it contains a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it contains half a surrogate pair"
    return None


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
    """The part of `payload` worth a place in the job table: known fields, without the pictures themselves."""
    return {name: _abridged(payload[name]) for name in names if payload.get(name) is not None}


def _abridged(value: Any, depth: int = 3) -> Any:
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode().replace("\0", "")
        return text if len(text) <= MAX_PROMPT else f"{text[:80]}… ({len(text)} characters)"
    if isinstance(value, dict) and depth:
        return {_abridged(k)[:SHOWN]: _abridged(v, depth - 1) for k, v in list(value.items())[:100]}
    if isinstance(value, list) and depth:
        return [_abridged(v, depth - 1) for v in value[:100]]
    return shown(value)


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


def replay(request: Request, body: bytes) -> Request:
    """A request whose body was already read, to be read again (by the form parser)."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)


class Doorman:
    """ASGI middleware: shows each HTTP request to `look`, which may rewrite its scope or answer in the app's stead."""

    def __init__(self, app: ASGIApp, look: Callable[[Request], Awaitable[Response | None]]) -> None:
        self.app = app
        self.look = look

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self.look(Request(scope)) if scope["type"] == "http" else None
        await (answer or self.app)(scope, receive, send)


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
