"""The address book: which paths belong to which cloud, and which cloud gets a request where two share a path.

Knows: the prefixes of every cloud; that under `/v1` the lists of models and of files are OpenAI's and Replicate's at
once, that of models fal's too, and what tells their uploads and searches apart. Does not know: what they answer. If
only one of the clouds that share a path is served, it gets all requests for that path.
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

# the longest prefix wins: Segmind gets the rest of "/v1"
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
# words after /v1 that are never the name of a model of Segmind's, also where the other clouds are not served
RESERVED = {"requests", "get-user-credits"} | {
    path.removeprefix("/v1/")
    for path in (MODELS, FILES, *(prefix for prefixes in PREFIXES.values() for prefix in prefixes))
    if path.startswith("/v1/")
}
FALS = {"endpoint_id", "expand", "q", "category", "status"}  # parameters that only fal's list has
PEEK = 65536  # bytes of a form that are looked at
FIRST_PART = re.compile(rb'^content-disposition:[^\r\n]*?[;\s]name="?([^";\s]+)[";\s]', re.IGNORECASE | re.MULTILINE)
REPLICATES = (b"content", b"metadata", b"type", b"filename")  # the parts of its form; OpenAI's are file, purpose, …


def routes(apps: Mapping[str, ASGIApp]) -> list[tuple[str, ASGIApp]]:
    """Prefix and app, for `ByPrefix`; `apps`: by the name of their cloud."""
    return [*((prefix, app) for name, app in apps.items() for prefix in PREFIXES[name]), *shared(apps)]


def clouds(names: Iterable[str]) -> dict[str, str]:
    """Prefix -> the cloud it belongs to."""
    return {prefix: name for name in names for prefix in PREFIXES[name]}


def shared(apps: Mapping[str, ASGIApp]) -> list[tuple[str, ASGIApp]]:
    """The paths that several clouds have."""
    openai, replicate, fal = (apps.get(name) for name in ("openai", "replicate", "fal"))
    models = files = openai or replicate
    if openai is not None and replicate is not None:
        models, files = Models(openai, replicate), Files(openai, replicate)
    if fal is not None:
        models = fal if models is None else Searched(fal, models)
    return [(path, app) for path, app in ((MODELS, models), (FILES, files)) if app is not None]


class Searched:
    """`/v1/models` goes to fal if the request looks like one of fal's tools (by host, kind of key or parameters, though
    other lists have `limit` too). The prices always go to fal."""

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
    """`/v1/models` answers with the fields of both lists, `/v1/models/{id}` goes to OpenAI, anything deeper to
    Replicate."""

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
    """`/v1/files`: a list has the fields of both clouds. The first part of a form, or the id of a file, tells which
    cloud it belongs to."""

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
        with suppress(HTTPException, BodyTooLarge):  # of a compressed body; raised again when the body is read
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
    """A response whose body serves as both lists. If OpenAI's part refuses, so does this; if only Replicate's does, its
    part is left out."""
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
