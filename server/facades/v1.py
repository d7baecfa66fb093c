"""The addresses under `/v1` that two clouds claim: one place that says whose a request is.

Knows: `GET /v1/models` is OpenAI's list and Replicate's page at once, and what tells their `POST /v1/files` apart.
Does not know: what they answer. Where only one of the two is served, it has these addresses to itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MODELS = "/v1/models"
FILES = "/v1/files"
PEEK = 65536  # bytes of a form that are looked at
CONTENT = re.compile(rb'name="?content"?[;\r]')


def shared(facades: Mapping[str, ASGIApp]) -> list[tuple[str, ASGIApp]]:
    """Routes for `front.ByPrefix`."""
    openai, replicate = facades.get("openai"), facades.get("replicate")
    if openai is None or replicate is None:
        only = openai or replicate
        return [] if only is None else [(MODELS, only), (FILES, only)]
    return [(MODELS, Models(openai, replicate)), (FILES, Files(openai, replicate))]


class Models:
    """`/v1/models` with the keys of both lists, `/v1/models/{id}` to OpenAI, anything deeper to Replicate."""

    def __init__(self, openai: ASGIApp, replicate: ASGIApp) -> None:
        self.openai, self.replicate = openai, replicate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        depth = scope["path"].strip("/").count("/")
        if depth == 1 and scope["method"] in ("GET", "HEAD"):
            await (await self._both(scope))(scope, receive, send)
        else:
            await (self.openai if depth <= 2 else self.replicate)(scope, receive, send)

    async def _both(self, scope: Scope) -> Response:
        first = await _answer(self.openai, scope)
        if first.status_code != 200:
            return first
        second = await _answer(self.replicate, scope)
        body: dict[str, Any] = json.loads(bytes(first.body))
        if second.status_code == 200:
            body = {**json.loads(bytes(second.body)), **body}
        headers = {k: v for k, v in first.headers.items() if k.startswith("access-control-")}
        return Response(json.dumps(body), media_type="application/json", headers=headers)


class Files:
    """A form that begins with a part `content` is Replicate's, others are OpenAI's; ids tell them apart otherwise."""

    def __init__(self, openai: ASGIApp, replicate: ASGIApp) -> None:
        self.openai, self.replicate = openai, replicate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            last = scope["path"].strip("/").split("/")[2:3]
            mine = self.openai if not last or last[0].startswith("file-") else self.replicate
            await mine(scope, receive, send)
            return
        messages, seen = [await receive()], b""
        while (seen := b"".join(m.get("body", b"") for m in messages))[PEEK:] == b"" and messages[-1].get("more_body"):
            messages.append(await receive())

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        mine = self.replicate if CONTENT.search(seen[: 2 * PEEK]) else self.openai
        await mine(scope, again, send)


async def _answer(app: ASGIApp, scope: Scope) -> Response:
    """What `app` answers to a request without a body."""
    start: Message = {}
    parts: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            parts.append(message.get("body", b""))

    await app({**scope, "state": dict(scope.get("state", {}))}, receive, send)
    answer = Response(b"".join(parts), start["status"])
    answer.raw_headers = list(start["headers"])
    return answer
