"""CORS: lets web pages of any origin call every API and read the responses.

Knows: the headers. Does not know: the requests. Browsers do not add an API key automatically, so a web page without a
key has no more access than any other client without a key. docs/operations.md describes the case of a server without
keys.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, QUERY"
NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]*")
SECONDS = "600"  # how long a browser may cache a preflight response
# `*` means every header; the names are for browsers that do not support `*`
EXPOSED = """
*, accept-ranges, content-disposition, content-length, content-range, content-type, etag, last-modified, location,
retry-after, openai-poll-after-ms, x-cogvideox-model, x-compute-time, x-cost, x-fal-billable-units, x-fal-error-type,
x-fal-needs-retry, x-fal-request-id, x-fal-request-timeout-type, x-fal-retryable, x-generation-time, x-inference-time-s,
x-model, x-rate-limit-reset-at-utc, x-remaining-credits, x-request-id, x-seed-value
"""
OPEN = {"access-control-allow-origin": "*", "access-control-expose-headers": ", ".join(re.findall(r"[^\s,]+", EXPOSED))}


class Cors:
    """ASGI middleware: answers all preflight requests, and adds the CORS headers to all responses to web pages."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "origin" not in headers:
            await self.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await preflight(headers)(scope, receive, send)
            return

        async def opened(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(OPEN)
            await send(message)

        await self.app(scope, receive, opened)


def preflight(asked: Headers) -> Response:
    """NOTE: `*` would not include Authorization, so the response repeats the requested header names."""
    headers = {"access-control-allow-origin": "*", "access-control-allow-methods": METHODS}
    headers |= {"access-control-max-age": SECONDS, "vary": "Access-Control-Request-Headers"}
    if (names := asked.get("access-control-request-headers", "")) and NAMES.fullmatch(names):
        headers["access-control-allow-headers"] = names
    if asked.get("access-control-request-private-network", "").lower() == "true":
        headers["access-control-allow-private-network"] = "true"
    return Response(None, 200, headers)
