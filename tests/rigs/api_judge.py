"""Sends raw requests to a façade over ASGI, and checks the form of its responses.

This module contains ASGI as uvicorn uses it and the form of each vendor's errors. It ignores what requests mean.
"""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message

from tests.rigs import pace

SECRET = "secret-of-the-key"
KEY = f"id:{SECRET}"
SECONDS = 30.0
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Asked:
    method: str
    target: bytes  # as in the request line
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    what: str = ""  # a description of the unusual part of the request

    def __str__(self) -> str:
        shown = [f"{name.decode('latin-1')}: {value[:80]!r}" for name, value in self.headers if name != b"x-api-key"]
        body = self.body if len(self.body) <= 300 else self.body[:200] + b"... (%d bytes)" % len(self.body)
        return f"[{self.what}] {self.method} {self.target[:200]!r} {shown} {body!r}"


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raised: str = ""


async def ask(app: ASGIApp, asked: Asked) -> Answer:
    """Returns the response that uvicorn would send; the client stays connected until the response is complete."""
    path, _, query = asked.target.partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"here:8000"), *asked.headers],
        "client": ("127.0.0.1", 9),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    answer, parts, sent = Answer(), [], False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": asked.body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in message["headers"]}
        else:
            parts.append(message.get("body", b""))

    try:
        async with asyncio.timeout(pace.seconds(SECONDS)):
            await app(scope, receive, send)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/server/" in f.filename]
        answer.raised = f"{type(error).__name__}: {error!s:.200} at {frames[-1] if frames else '?'}"
    answer.body = b"".join(parts)
    return answer


def flaw(vendor: str, asked: Asked, answer: Answer) -> str | None:
    """Describes a flaw that a response must not have, whatever the request was; returns None if there is no such
    flaw."""
    text = answer.body.decode("utf-8", "replace")
    if answer.raised or answer.status >= 500:
        return f"{answer.status} {answer.raised}"
    if "Traceback (most recent" in text or 'File "/' in text:
        return f"{answer.status} with a traceback"
    if SECRET in text or SECRET in str(answer.headers):
        return f"{answer.status} tells the key"
    is_json = "json" in answer.headers.get("content-type", "")
    body: Any = None
    if is_json and asked.method != "HEAD" and answer.body:
        try:
            body = json.loads(text, parse_constant=lambda name: 1 / 0)
        except (ValueError, ZeroDivisionError):
            return f"{answer.status} with JSON that is none: {text[:100]}"
    failed = answer.status >= 400 or (
        vendor == "modelslab" and isinstance(body, dict) and body.get("status") == "error"
    )
    if not failed or asked.method == "HEAD" or (asked.method == "OPTIONS" and answer.headers.get("vary")):
        return None
    if not is_json:
        return f"{answer.status} is no JSON but {answer.headers.get('content-type')}: {text[:100]!r}"
    if not isinstance(body, dict) or not SHAPES[vendor](body, answer):
        return f"{answer.status} in another shape than {vendor}'s: {text[:150]}"
    return None


def _texts(body: Any, *names: str) -> bool:
    return isinstance(body, dict) and all(isinstance(body.get(name), str) and body[name] for name in names)


def _fal(body: Any, answer: Answer) -> bool:
    """Whether `detail` and `message` have the same text, or `detail` is a list of field errors. FastAPI's own errors
    have only `detail`."""
    detail = body.get("detail")
    if isinstance(detail, list):
        return bool(detail) and all(_texts(e, "msg", "type") and isinstance(e.get("loc"), list) for e in detail)
    return _texts(body, "detail") and (body.get("message") == detail or detail == "no such file")


def _segmind(body: Any, answer: Answer) -> bool:
    return _texts(body, "error") and "detail" not in body


def _zhipu(body: Any, answer: Answer) -> bool:
    return set(body) <= {"error", "contentFilter"} and _texts(body.get("error"), "code", "message")


def _modelslab(body: Any, answer: Answer) -> bool:
    if _texts(body, "status", "message") and body["status"] == "failed":  # for an unknown id
        return "tip" in body
    return _texts(body, "status", "message", "tip") and body["status"] == "error"


def _openai(body: Any, answer: Answer) -> bool:
    error = body.get("error")
    return set(body) == {"error"} and _texts(error, "message", "type") and set(error) >= {"param", "code"}


def _replicate(body: Any, answer: Answer) -> bool:
    problem = answer.headers["content-type"].startswith("application/problem+json")
    return problem and _texts(body, "title", "detail") and body.get("status") == answer.status


def _huggingface(body: Any, answer: Answer) -> bool:
    return _texts(body, "error") and set(body) == {"error"}


SHAPES: dict[str, Callable[[Any, Answer], bool]] = {
    "fal": _fal,
    "segmind": _segmind,
    "zhipu": _zhipu,
    "modelslab": _modelslab,
    "openai": _openai,
    "replicate": _replicate,
    "huggingface": _huggingface,
}
