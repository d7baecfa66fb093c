"""fal's addresses: which call answers where, and who is let in.

Knows: fal's paths, CORS, the key check. Does not know: what the calls do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from server.auth import Unauthorized
from server.context import Context
from server.facades.fal import errors
from server.facades.fal.calls import Fal
from server.facades.fal.models import APP, ENDPOINTS, Endpoint, ImageSize, LoraWeight, Output
from server.facades.fal.surface import NoTarget, locate, move
from server.facades.wire import Doorman, body_schema, document

PREFIXES = ("/run", "/queue", "/fal", "/api/fal", "/fal-ai")
EXPOSED = ["x-fal-request-id", "x-fal-error-type", "x-fal-request-timeout-type", "x-fal-retryable", "x-fal-needs-retry"]


def create(context: Context) -> FastAPI:
    """The façade as an ASGI app of its own. It wants whole paths: see PREFIXES, longest match first."""
    app = FastAPI(title="fal", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    fal = Fal(context)
    for endpoint in ENDPOINTS.values():
        _serve(app, fal, endpoint)
    for base in ENDPOINTS:
        _serve_requests(app, fal, f"/queue/{base}/requests/{{request_id}}", in_schema=base == APP)
    document(app, [ImageSize, LoraWeight, *(endpoint.input for endpoint in ENDPOINTS.values())])

    def on_error(request: Request, error: Exception) -> Response:
        return errors.respond(errors.of_exception(error))

    def on_http_error(request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        text = _missing_page(request.scope["path"]) if code == 404 else str(getattr(error, "detail", ""))
        return errors.respond(errors.infrastructure(code, text, "runner_disconnected" if code == 503 else None))

    for kind in (*errors.REFUSALS, *errors.TURNED_AWAY):
        app.add_exception_handler(kind, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(ClientDisconnect, on_error)
    app.add_exception_handler(Exception, on_error)

    async def look(request: Request) -> Response | None:
        return _admit(context, request)

    app.add_middleware(Doorman, look=look)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
    )
    return app


def _admit(context: Context, request: Request) -> Response | None:
    """Finds the request's place and checks its key, before anything is said about what exists."""
    try:
        place = locate(request.scope["path"], request.scope["query_string"], request.headers)
    except NoTarget:
        text = "The header x-fal-target-url must name the address this request is for"
        return errors.respond(errors.infrastructure(400, text, "bad_request"))
    move(request.scope, place)
    request.state.fal_prefix = place.prefix
    try:
        request.state.owner = context.keys.identify(request.headers)
        return None
    except Unauthorized as e:
        missing = e.reason == "missing"
    name = "/".join(place.path.strip("/").split("/")[:2])
    text = f'Cannot access application "{name}". Authentication is required to access this application.'
    if not missing:
        text = "invalid key credentials"
    return errors.respond(errors.infrastructure(401, text))


def _missing_page(path: str) -> str:
    """fal's words for an address nobody answers: an unknown app, or an unknown path inside a known one."""
    surface, _, rest = path.lstrip("/").partition("/")
    if surface not in ("run", "queue"):
        return f"Path {path} not found"
    if rest == APP or rest.startswith(f"{APP}/"):
        return f"Path {rest.removeprefix(APP) or '/'} not found"
    return f'Application "{"/".join(rest.split("/")[:2])}" not found'


def _serve(app: FastAPI, fal: Fal, endpoint: Endpoint) -> None:
    async def run(request: Request) -> Response:
        return await fal.run(request, endpoint)

    async def submit(request: Request) -> Response:
        return await fal.submit(request, endpoint)

    name = endpoint.task.value
    extra = body_schema(endpoint.input)
    said: dict[int | str, dict[str, Any]] = {200: {"model": Output}}
    add = app.add_api_route
    add(f"/run/{endpoint.id}", run, methods=["POST"], name=f"run {name}", openapi_extra=extra, responses=said)
    add(f"/run/{endpoint.id}", run, methods=["GET"], include_in_schema=False)
    add(f"/queue/{endpoint.id}", submit, methods=["POST"], name=f"submit {name}", openapi_extra=extra)


def _serve_requests(app: FastAPI, fal: Fal, base: str, *, in_schema: bool) -> None:
    calls: list[tuple[str, str, str, Callable[[Request, str], Response]]] = [
        ("status", "GET", "/status", fal.status),
        ("status stream", "GET", "/status/stream", fal.stream),
        ("result", "GET", "", fal.result),
        ("result alias", "GET", "/response", fal.result),
        ("cancel", "PUT", "/cancel", fal.cancel),
    ]
    for name, method, tail, call in calls:
        app.add_api_route(base + tail, call, methods=[method], name=name, include_in_schema=in_schema)
