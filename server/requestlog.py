"""One log line for each request: refused requests at level warning or error, all other requests at level debug.

Knows: the route, key and client of a request. Does not know: vendors' error shapes. The log contains no ids, file keys,
prompts or API keys: instead of a path, it contains the route's pattern, and instead of an error message, the error's
type and field names.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.request import RequestError
from server.auth import Unauthorized, given_keys
from server.errors import DiskFull, MediaError, NoModel, QueueFull, UploadTooLarge
from server.jobs.loglines import UNLOGGED, KeyName
from server.request_state import note_refusal, take_refusal

ALIKE = 5  # lines per kind of refusal in an interval; further refusals are only counted
INTERVAL = 10.0  # seconds
KINDS = 500  # kinds of refusals to count separately in an interval
LONGEST = 200  # characters of a reason

log = structlog.get_logger()

Handler = Callable[[Request, Exception], Any]


class Logged:
    """ASGI middleware. `clouds`: path prefix -> name of the cloud's API. `apps`: the apps of these APIs by name."""

    def __init__(
        self,
        app: ASGIApp,
        clouds: Mapping[str, str],
        apps: Mapping[str, FastAPI],
        key_name: KeyName,
        flood: Flood,
    ) -> None:
        self.app = app
        self.clouds = sorted(clouds.items(), key=lambda one: len(one[0]), reverse=True)
        self.apps = apps
        self.key_name = key_name
        self.flood = flood

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, path = time.monotonic(), 0, scope["path"]
        state = scope.setdefault("state", {})

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            refusal = take_refusal(scope)
            fields: dict[str, Any] = {"method": scope["method"], **self._where(scope, path), "status": status}
            fields["ms"] = round(1000 * (time.monotonic() - begun))
            if owner := state.get("owner"):
                fields["key"] = self.key_name(owner)
            fields["client"] = _plain(scope["client"][0]) if scope.get("client") else "unknown"
            # clients request the health pages every few seconds, and the causes of errors are logged elsewhere
            probe = path.startswith("/health")
            if (status >= 400 or refusal is not None) and not probe:
                self.flood.log(status, {**fields, "reason": reason(refusal, status, scope)})
            else:
                log.debug("request", **fields)
            refusal = None

    def _where(self, scope: Scope, path: str) -> dict[str, str]:
        """The cloud and the route's pattern. `path`: as received; a cloud's middleware may have changed the path in the
        scope."""
        path = "/" + path.lstrip("/")
        below = next((one for one in self.clouds if path == one[0] or path.startswith(one[0] + "/")), None)
        name = next((name for name, app in self.apps.items() if app is scope.get("app")), below and below[1])
        if name is None:
            return {"path": pattern(scope, scope.get("app")) or "*"}
        return {"cloud": name, "path": pattern(scope, self.apps[name]) or (f"{below[0]}/*" if below else "*")}


def pattern(scope: Scope, app: FastAPI | None) -> str | None:
    """The route's path with its parameters' names; None when no route matches."""
    route = scope.get("route")
    if route is None:
        routes = app.routes if app is not None else []
        route = next((one for one in routes if one.matches(scope)[0] is not Match.NONE), None)
    return getattr(route, "path", None)


@dataclass
class Flood:
    """Logs the first few refusals of a kind in an interval, then one line with the number of further refusals."""

    _seen: dict[tuple[Any, ...], int] = field(default_factory=dict)
    _ends: asyncio.TimerHandle | None = None

    def log(self, status: int, fields: dict[str, Any]) -> None:
        kind = (fields.get("cloud"), fields["path"], status)
        if kind not in self._seen and len(self._seen) >= KINDS:
            kind = ("many", "many", 0)
        seen = self._seen[kind] = self._seen.get(kind, 0) + 1
        if self._ends is None:
            self._ends = asyncio.get_running_loop().call_later(INTERVAL, self.end)
        if seen <= ALIKE:
            write = log.error if status >= 500 else log.warning
            write("request refused", **fields)

    def end(self) -> None:
        """Ends the interval and logs the counts; also called when the server stops."""
        if self._ends is not None:
            self._ends.cancel()
        seen, self._seen, self._ends = self._seen, {}, None
        for (cloud, path, status), count in seen.items():
            if count > ALIKE:
                about = {"cloud": cloud} if cloud else {}
                log.warning("more requests refused", **about, path=path, status=status, count=count - ALIKE)


def noting(handler: Handler) -> Handler:
    """Wraps an exception handler: the wrapper also notes the exception for `Logged`."""
    if inspect.iscoroutinefunction(handler):

        async def noted_async(request: Request, error: Exception) -> Response:
            note_refusal(request, error)
            answer: Response = await handler(request, error)
            return answer

        return noted_async

    def noted(request: Request, error: Exception) -> Response:
        note_refusal(request, error)
        answer: Response = handler(request, error)
        return answer

    return noted


def note_refusals(apps: Iterable[FastAPI]) -> None:
    """Makes every exception handler of these apps note its exception for `Logged`."""
    for app in apps:
        for kind, handler in list(app.exception_handlers.items()):
            app.exception_handlers[kind] = noting(handler)


def reason(refusal: Exception | None, status: int, scope: Scope) -> str:
    """Why the request was refused, without quoting it."""
    match refusal:
        case Unauthorized():
            return f"API key {refusal.reason}"
        case ValidationError() | RequestValidationError():
            return _plain("; ".join(_flaw(one) for one in refusal.errors()[:3]))
        case MediaError():
            return _plain(f"{refusal.field}: {refusal.code}")
        case RequestError():
            return _plain(refusal.field if refusal.field in UNLOGGED else str(refusal))
        case QueueFull() | DiskFull() | UploadTooLarge() | NoModel():
            return _plain(refusal.message)
        case HTTPException() if refusal.status_code == 503:  # `Unavailable`: its text is the server's own
            return _plain(str(refusal.detail))
        case None if status == 401:
            sent = given_keys({k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]})
            return "API key not accepted" if sent else "API key missing"
        case None if status == 429:
            return "rate limit"
        case _ if status >= 500 and refusal is not None and not isinstance(refusal, HTTPException):
            return type(refusal).__name__
        case _:
            return _of_a_cloud(refusal, status, scope)


def _of_a_cloud(refusal: Exception | None, status: int, scope: Scope) -> str:
    """The cause or the fields of a cloud's own exception. The exception's message is left out, because it may quote the
    request."""
    inner = refusal and (refusal.__cause__ or refusal.__context__)
    if isinstance(inner, ValidationError | RequestError | MediaError):
        return reason(inner, status, scope)
    failure = getattr(refusal, "failure", refusal)
    parts = [getattr(failure, name, None) for name in ("field", "param")]
    parts += [getattr(one, "field", None) for one in getattr(failure, "fields", ())]
    if isinstance(where := getattr(failure, "where", None), tuple):
        parts.append(".".join(map(str, where)))
    codes = (getattr(failure, name, None) for name in ("status", "code"))
    code = next((one for one in codes if isinstance(one, int)), status)
    return _plain(": ".join([_phrase(code), *(part for part in parts if isinstance(part, str) and part)]))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower()
    except ValueError:
        return "the client hung up"


def _flaw(error: Any) -> str:
    """The field and the kind of error, but never the value."""
    where = ".".join(str(part) for part in error["loc"] if part != "body")
    return f"{where}: {error['type']}" if where else str(error["type"])


def _plain(text: str) -> str:
    return re.sub(r"[^ -~]+", "?", text)[:LONGEST]
