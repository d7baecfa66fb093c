"""Middleware around the façades: routing by path prefix, trusted proxies, and the model header of every response.

Knows: the first segments of paths, headers. Does not know: what the façades do. Plain ASGI, so that streamed responses
pass through unbuffered.
"""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv6Address, ip_address, ip_network

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.docs import protect
from server.media.artifacts import PREFIX
from server.request_state import models_of

MODEL_HEADER = "x-cogvideox-model"
PATH = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+){1,20}")

log = structlog.get_logger()


class ByPrefix:
    """Routes a request to the app with the longest matching prefix, without changing its path; otherwise to `app`,
    without a trailing slash."""

    def __init__(self, app: ASGIApp, routes: Iterable[tuple[str, ASGIApp]]) -> None:
        self.app = app
        self.routes = sorted(routes, key=lambda route: len(route[0]), reverse=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        chosen = self.choose(scope)
        if chosen is self.app and scope["type"] == "http":
            scope["path"] = scope["path"].rstrip("/") or "/"
        await chosen(scope, receive, send)

    def choose(self, scope: Scope) -> ASGIApp:
        if scope["type"] != "http":
            return self.app
        path = "/" + scope["path"].lstrip("/")
        for prefix, app in self.routes:
            if path == prefix or path.startswith(prefix + "/"):
                return app
        return self.app


class Forwarded:
    """Applies a trusted proxy's X-Forwarded-For, -Proto, -Host and -Prefix headers to the request.

    In a chain of proxies, the last address that does not belong to a trusted proxy counts as the client's. So values
    that a client forges are ignored. Prefixes are joined, because each proxy has removed its own prefix from the path.
    """

    def __init__(self, app: ASGIApp, trusted: str) -> None:
        self.app = app
        self.trusts = trust(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (root := scope.get("root_path", "").rstrip("/")):  # mounted in another app
            scope[PREFIX], scope["root_path"] = root, ""
            if scope["path"].startswith(f"{root}/"):
                scope["path"] = scope["path"].removeprefix(root)
        if scope["type"] == "http" and scope.get("client") and self.trusts(scope["client"][0]):
            self.believe(scope)
        await self.app(scope, receive, send)

    def believe(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        chain = [part.strip() for part in headers.get("x-forwarded-for", "").split(",") if part.strip()]
        strangers = [address for address in chain if not self.trusts(address)]
        if chain:
            scope["client"] = (strangers[-1] if strangers else chain[0], 0)
        if (scheme := _last(headers.get("x-forwarded-proto", "")).lower()) in ("http", "https"):
            scope["scheme"] = scheme
        if host := _last(headers.get("x-forwarded-host", "")):
            rest = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope["headers"] = [*rest, (b"host", host.encode("latin-1"))]
        prefixes = [part.strip().strip("/") for part in headers.get("x-forwarded-prefix", "").split(",")]
        if PATH.fullmatch(prefix := "".join(f"/{part}" for part in prefixes if part)):
            scope[PREFIX] = prefix + scope.get(PREFIX, "")


def trust(trusted: str) -> Callable[[str], bool]:
    """Returns a function that tests whether an address is in this comma-separated list of addresses and networks."""
    networks = [ip_network(part.strip(), strict=False) for part in trusted.split(",") if part.strip()]

    def trusts(address: str) -> bool:
        try:
            ip = ip_address(address.strip().strip("[]"))
        except ValueError:
            return False
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped:  # an IPv4 client on a socket for IPv4 and IPv6
            ip = ip.ipv4_mapped
        return any(ip in network for network in networks)

    return trusts


def _last(value: str) -> str:
    return value.rpartition(",")[2].strip()


class Labelled:
    """Adds x-cogvideox-model to every response (all served models when no job is involved), and answers 500 or 503
    when the app has failed to answer.

    The log gets the place and the type of a failure, but not the message, which may quote the request. `header` returns
    the header's value for these models.
    """

    def __init__(self, app: ASGIApp, header: Callable[[Collection[str]], str]) -> None:
        self.app = app
        self.header = header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def labelled(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers.setdefault(MODEL_HEADER, self.header(models_of(scope)))
                protect(headers)
                if message["status"] == 413:
                    headers["connection"] = "close"  # so that the rest of the body need not be read and discarded
            await send(message)

        try:
            await self.app(scope, receive, labelled)
        except asyncio.CancelledError:  # the grace period of a shutdown is over
            if not begun:
                await JSONResponse({"detail": "The server is stopping"}, 503)(scope, receive, labelled)
        except Exception as e:
            where = [line.strip().split("\n")[0] for line in traceback.format_tb(e.__traceback__)[-6:]]
            log.error("unhandled", error=type(e).__name__, where=where)
            if not begun:
                await JSONResponse({"detail": "Internal Server Error"}, 500)(scope, receive, labelled)
