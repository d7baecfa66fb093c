"""Decides which cloud gets a request. The prefix of the path decides; if several clouds share the path, other parts of
the request decide.

Knows: the prefixes of every cloud; which clouds share `/v1/models` (OpenAI, Replicate, fal) and `/v1/files` (OpenAI,
Replicate); how to distinguish the uploads and searches of these clouds. Does not know: the clouds' responses. If only
one of the clouds that share a path is enabled, that cloud gets all requests for the path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.limits.bodies import BodyTooLarge

# the longest prefix wins: Segmind's "/v1" gets the paths below it that no other prefix matches
PREFIXES: Mapping[str, tuple[str, ...]] = {
    "fal": (
        *("/run", "/queue", "/fal", "/api/fal", "/fal-ai"),
        *("/storage", "/files/upload", "/tokens", "/.well-known/jwks.json", "/api/openapi", "/models/fal-ai"),
    ),
    "segmind": ("/v1", "/v2", "/upload-asset", "/segmind"),
    "zhipu": ("/api/paas/v4", "/zhipu", "/paas/v4", "/bigmodel", "/cogvideox/v4", "/302"),
    "modelslab": ("/api/v6", "/api/v1/enterprise", "/api/v7", "/modelslab", "/generations"),
    "openai": (
        *("/v1/videos", "/v1/chat", "/v1/images", "/v1/audio", "/v1/completions", "/v1/embeddings", "/v1/responses"),
        "/openai",
    ),
    "replicate": (
        *("/v1/predictions", "/v1/deployments", "/v1/account", "/v1/webhooks", "/v1/trainings", "/v1/collections"),
        *("/v1/hardware", "/replicate"),
    ),
    "huggingface": ("/hf-inference", "/models", "/huggingface"),
}
MODELS = "/v1/models"
FILES = "/v1/files"
# words after /v1 that are never the name of a Segmind model, even if the other clouds are not enabled
RESERVED = {"requests", "get-user-credits"} | {
    path.removeprefix("/v1/")
    for path in (MODELS, FILES, *(prefix for prefixes in PREFIXES.values() for prefix in prefixes))
    if path.startswith("/v1/")
}
FALS = {"endpoint_id", "expand", "q", "category", "status"}  # parameters that only fal's list of models has
PEEK = 65536  # bytes of a form to inspect
FIRST_PART = re.compile(rb'^content-disposition:[^\r\n]*?[;\s]name="?([^";\s]+)[";\s]', re.IGNORECASE | re.MULTILINE)
REPLICATES = (b"content", b"metadata", b"type", b"filename")  # parts of Replicate's form; OpenAI's are file, purpose, …


def routes(apps: Mapping[str, ASGIApp]) -> list[tuple[str, ASGIApp]]:
    """Pairs of a prefix and its app, for `ByPrefix`. `apps`: name of the cloud -> its app."""
    return [*((prefix, app) for name, app in apps.items() for prefix in PREFIXES[name]), *shared(apps)]


def clouds(names: Iterable[str]) -> dict[str, str]:
    """Prefix -> the name of its cloud."""
    return {prefix: name for name in names for prefix in PREFIXES[name]}


def shared(apps: Mapping[str, ASGIApp]) -> list[tuple[str, ASGIApp]]:
    """The paths shared by several clouds, each with its app."""
    openai, replicate, fal = (apps.get(name) for name in ("openai", "replicate", "fal"))
    models = files = openai or replicate
    if openai is not None and replicate is not None:
        models, files = Models(openai, replicate), Files(openai, replicate)
    if fal is not None:
        models = fal if models is None else Searched(fal, models)
    return [(path, app) for path, app in ((MODELS, models), (FILES, files)) if app is not None]


class Searched:
    """Routes `/v1/models` to fal if the host, the kind of key or the parameters are those of fal's tools. Always routes
    requests for prices to fal. The parameter `limit`, which other lists have too, points to fal only if the request has
    no key."""

    def __init__(self, fal: ASGIApp, others: ASGIApp) -> None:
        self.fal, self.others = fal, others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = Headers(scope=scope), scope["path"].rstrip("/")
        names = {name.removesuffix("[]") for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), True)}
        host, key = headers.get("host", ""), headers.get("authorization", "").lower()
        by_fal = host.startswith("api.fal.") or key.startswith("key ") or names & FALS or ("limit" in names and not key)
        searched = path == MODELS and scope["method"] in ("GET", "HEAD") and by_fal
        priced = path == f"{MODELS}/pricing" or path.startswith(f"{MODELS}/pricing/")
        await (self.fal if searched or priced else self.others)(scope, receive, send)


class Models:
    """Answers a GET of `/v1/models` with the fields of OpenAI's list and of Replicate's list. Routes `/v1/models/{id}`
    to OpenAI, and deeper paths and searches to Replicate."""

    def __init__(self, openai: ASGIApp, replicate: ASGIApp) -> None:
        self.openai, self.replicate = openai, replicate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        depth = raw.strip(b"/").count(b"/")  # OpenAI's client escapes the slash in a model's name
        if depth == 1 and scope["method"] == "GET":
            await (await _both(self.openai, self.replicate, scope))(scope, receive, send)
        else:
            searched = scope["method"] == "QUERY"  # Replicate's search
            await (self.openai if depth <= 2 and not searched else self.replicate)(scope, receive, send)


class Files:
    """Answers a GET of `/v1/files` with the fields of OpenAI's list and of Replicate's list. Routes an upload by the
    first part of its form, and any other request by the file's id."""

    def __init__(self, openai: ASGIApp, replicate: ASGIApp) -> None:
        self.openai, self.replicate = openai, replicate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        last = scope["path"].strip("/").split("/")[2:3]
        if scope["method"] == "POST":
            await self._upload(scope, receive, send)
        elif scope["method"] == "GET" and not last:
            await (await _both(self.openai, self.replicate, scope))(scope, receive, send)
        else:
            mine = self.openai if not last or last[0].startswith("file-") else self.replicate
            await mine(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages, seen, part = list[Message](), b"", None
        # reading a compressed body may raise these exceptions; the app then raises the same exception
        with suppress(HTTPException, BodyTooLarge):
            while part is None and len(seen) <= PEEK:
                messages.append(await receive())
                seen += messages[-1].get("body", b"")
                part = FIRST_PART.search(seen)
                if not messages[-1].get("more_body"):
                    break

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        mine = self.replicate if part and part[1] in REPLICATES else self.openai
        await mine(scope, again, send)


async def _both(openai: ASGIApp, replicate: ASGIApp, scope: Scope) -> Response:
    """Returns one response with OpenAI's list and Replicate's list. If OpenAI's app refuses the request, returns
    OpenAI's error. If only Replicate's app refuses the request, returns OpenAI's list alone."""
    first = await _answer(openai, scope)
    if first.status_code != 200:
        return first
    second = await _answer(replicate, scope)
    body: dict[str, Any] = json.loads(bytes(first.body))
    if second.status_code == 200:
        body = {**json.loads(bytes(second.body)), **body}
    headers = {name: value for name, value in first.headers.items() if name.startswith("access-control-")}
    return Response(json.dumps(body), media_type="application/json", headers=headers)


async def _answer(app: ASGIApp, scope: Scope) -> Response:
    """The response of `app` to a request without a body."""
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
