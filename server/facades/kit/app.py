"""A vendor's app in three layers: CORS outside, then a guard, then FastAPI with the vendor's errors.

Knows: the order of these layers. Does not know: paths, bodies, shapes of errors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.request import RequestError
from server.auth import Unauthorized
from server.context import Context
from server.errors import IDEMPOTENCY_KEY
from server.facades.kit.cors import Cors
from server.facades.kit.errors import RAISED, Refused
from server.facades.kit.openapi import document
from server.limits.calls import in_turn
from server.limits.shares import holder

LONGEST_NAME = 255  # characters of an Idempotency-Key

Refuse = Callable[[Context, Request, Exception], Response]
Admit = Callable[[Context, Request], None]


def by_key(context: Context, request: Request) -> None:
    """Authenticates a request by the key in its headers. Raises Unauthorized."""
    without_last_slash(context, request)
    request.state.owner = context.keys.identify(request.headers)


def without_last_slash(context: Context, request: Request) -> None:
    request.scope["path"] = request.scope["path"].rstrip("/") or "/"


def create_app(
    context: Context,
    refuse: Refuse,
    *schemas: type[BaseModel],
    admit: Admit = by_key,
) -> FastAPI:
    """Creates the app without routes; the caller adds the routes, with complete paths. `refuse` turns an exception into
    a response. `schemas` are the models of the bodies that routes read without FastAPI. `admit` may rewrite a request's
    path. It sets `state.owner` or raises, except for requests whose key the route itself looks for."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    for kind in RAISED:
        app.add_exception_handler(kind, partial(refuse, context))
    document(app, schemas)
    app.add_middleware(Guard, admit=partial(admit, context), refuse=partial(refuse, context))
    app.add_middleware(Cors)
    return app


def add(
    app: FastAPI,
    method: str,
    path: str,
    call: Callable[..., Any],
    name: str,
    extra: dict[str, Any] | None = None,
    *,
    shown: bool = True,
    **more: Any,
) -> None:
    """Adds a route. `extra`: additions to its documentation. `shown`: whether the route is documented at all."""
    app.add_api_route(path, call, methods=[method], name=name, openapi_extra=extra, include_in_schema=shown, **more)


def bind(call: Callable[..., Awaitable[Response]], *values: Any) -> Callable[[Request], Awaitable[Response]]:
    """Returns a route function that calls `call(request, *values)`. This function has one parameter, because FastAPI
    would treat further parameters as query parameters."""

    async def bound(request: Request) -> Response:
        return await call(request, *values)

    return bound


class Guard:
    """ASGI middleware: calls `admit` for each HTTP request. If `admit` raises, the middleware answers instead of the
    app.

    Requests of different keys (`state.owner`) take turns, and so do refused requests of different IP addresses.
    """

    def __init__(
        self, app: ASGIApp, admit: Callable[[Request], None], refuse: Callable[[Request, Exception], Response]
    ) -> None:
        self.app = app
        self.admit = admit
        self.refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, answer = Request(scope), None
        try:
            self.admit(request)
        except (Unauthorized, Refused) as error:
            answer = self.refuse(request, error)
        owner = "" if answer is not None else getattr(request.state, "owner", None)
        if owner is None:  # the key is in the body, which the app reads
            await self.app(scope, receive, send)
            return
        async with in_turn(scope, holder(owner, request), send) as sending:
            await (answer or self.app)(scope, receive, sending)


def idempotency(request: Request) -> str | None:
    """The Idempotency-Key of the call, or None. With this key, a client that repeats the call does not start a second
    job. Raises RequestError."""
    name = request.headers.get(IDEMPOTENCY_KEY, "").strip()
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise RequestError(IDEMPOTENCY_KEY, f"must have at most {LONGEST_NAME} printable characters")
    return name or None


def root(context: Context, request: Request, mount: str) -> str:
    """Our URL up to the vendor's own paths, including `mount` if the request's path begins with `mount`."""
    below = request.scope["path"].startswith(f"{mount}/")
    return f"{context.artifacts.base_url(request)}{mount if below else ''}"
