"""The addresses of Zhipu, Z.ai, 302.AI and relays of theirs: which call answers where.

Knows: paths, parameters beside a body, CORS. Does not know: what the calls do.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from server.auth import Unauthorized
from server.context import Context
from server.facades.cors import Cors
from server.facades.wire import Doorman, body_schema, document
from server.facades.zhipu import errors
from server.facades.zhipu.calls import Zhipu
from server.facades.zhipu.models import Tasks, UnifiedVideo, VideoGeneration

PREFIXES = ("/api/paas/v4", "/zhipu", "/paas/v4", "/bigmodel", "/cogvideox/v4", "/302")
NATIVE = "/api/paas/v4"
MOUNTS = (NATIVE, "/zhipu/api/paas/v4", "/paas/v4", "/bigmodel/api/paas/v4", "/cogvideox/v4")
UNIFIED = "/302/v2/video"
UNIFIED_TYPES = ("application/json", "multipart/form-data")


def create(context: Context) -> FastAPI:
    """The façade as an ASGI app of its own. It wants whole paths: see PREFIXES, longest match first."""
    app = FastAPI(
        title="Zhipu / Z.ai / 302.AI", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    zhipu = Zhipu(context)
    video, tasks = body_schema(VideoGeneration), body_schema(Tasks)
    unified = {
        **body_schema(UnifiedVideo, types=UNIFIED_TYPES),
        "parameters": [_query("webhook", "https://example.com/hook", "http://example.org/")],
    }
    asked = {"parameters": [_query("geo", "global", "cn")]}
    add = app.add_api_route
    for mount in MOUNTS:
        seen = mount == NATIVE
        add(f"{mount}/videos/generations", zhipu.create, methods=["POST"], openapi_extra=video, include_in_schema=seen)
        path = f"{mount}/async-result/{{task_id}}"
        add(path, zhipu.result, methods=["GET"], openapi_extra=asked, include_in_schema=seen)
        add(path, zhipu.result, methods=["POST"], include_in_schema=False)
    add("/cogvideox/v4/async-results", zhipu.results, methods=["POST"], openapi_extra=tasks)
    add(f"{UNIFIED}/create", zhipu.create_unified, methods=["POST"], openapi_extra=unified)
    add(f"{UNIFIED}/fetch/{{task_id}}", zhipu.fetch_unified, methods=["GET"])
    document(app, [VideoGeneration, Tasks, UnifiedVideo])

    def on_error(request: Request, error: Exception) -> Response:
        path = request.scope["path"]
        return errors.respond(errors.of_exception(error, request.method, path), path)

    for kind in errors.KINDS:
        app.add_exception_handler(kind, on_error)

    async def look(request: Request) -> Response | None:
        request.scope["path"] = request.scope["path"].rstrip("/") or "/"
        try:
            request.state.owner = context.keys.identify(request.headers)
        except Unauthorized as e:
            return on_error(request, e)
        return None

    app.add_middleware(Doorman, look=look)
    app.add_middleware(Cors)
    return app


def _query(name: str, *examples: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": "string", "examples": list(examples)}}
