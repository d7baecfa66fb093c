"""ModelsLab's addresses.

Knows: paths and methods, and which call each is. Does not know: what the calls do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from server.context import Context
from server.facades.cors import Cors
from server.facades.modelslab import errors
from server.facades.modelslab.calls import I2V, I2V_ULTRA, T2V, T2V_FUSION, T2V_ULTRA, Kind, ModelsLab
from server.facades.modelslab.models import Fetch, FetchById, Upload
from server.facades.wire import Doorman, body_schema, document

PREFIXES = ("/api/v6", "/api/v1/enterprise", "/api/v7", "/modelslab", "/generations")
MOUNTS = ("", "/modelslab")
MAIN = "/api/v6/video"
# fetch and base64_to_url are beside the generations in each of these
ROOMS: dict[str, dict[str, Kind]] = {
    MAIN: {kind.name: kind for kind in (T2V, I2V, T2V_ULTRA, I2V_ULTRA)},
    "/api/v1/enterprise/video": {kind.name: kind for kind in (T2V, I2V, T2V_ULTRA, I2V_ULTRA)},
    "/api/v1/enterprise/ultra_video": {"text2video": T2V_ULTRA},
    "/api/v1/enterprise/image_to_video_ultra": {"img2video": I2V_ULTRA},
    "/api/v7/video-fusion": {"text-to-video": T2V_FUSION, "image-to-video": I2V},
}
ROOT_UPLOADS = ("/api/v6/base64_to_url", "/api/v7/base64_to_url")

Call = Callable[[Request], Awaitable[Response]]


def create(context: Context) -> FastAPI:
    """The façade as an ASGI app of its own. It wants whole paths: see PREFIXES, longest match first."""
    app = FastAPI(title="ModelsLab", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    calls = ModelsLab(context)
    for mount in MOUNTS:
        for room, kinds in ROOMS.items():
            _furnish(app, calls, mount + room, kinds, shown=mount + room == MAIN)
        for path in ROOT_UPLOADS:
            _post(app, mount + path, calls.upload, Upload, shown=mount + path == ROOT_UPLOADS[0])
    for method in ("GET", "HEAD"):
        app.add_api_route(
            "/generations/{name}",
            calls.film,
            methods=[method],
            response_class=FileResponse,
            openapi_extra={"parameters": [_parameter("name", "path", "string")]},
            include_in_schema=method == "GET",
        )
    document(app, [*(kind.input for kind in ROOMS[MAIN].values()), Fetch, FetchById, Upload])
    _answer_errors(app, context)
    app.add_middleware(Doorman, look=_without_last_slash)
    app.add_middleware(Cors)
    return app


def _furnish(app: FastAPI, calls: ModelsLab, room: str, kinds: dict[str, Kind], shown: bool) -> None:
    for name, kind in kinds.items():
        _post(app, f"{room}/{name}", _generation(calls, kind), kind.input, shown=shown)
    in_path, in_query = (_parameter("request_id", place, "integer") for place in ("path", "query"))
    _post(app, f"{room}/fetch/{{request_id}}", calls.fetch, Fetch, in_path, shown=shown)
    _get(app, f"{room}/fetch/{{request_id}}", calls.fetch, in_path, shown=shown)
    _post(app, f"{room}/fetch", calls.fetch, FetchById, shown=shown)
    _get(app, f"{room}/fetch", calls.fetch, in_query, shown=shown)
    _post(app, f"{room}/base64_to_url", calls.upload, Upload, shown=shown)


def _post(
    app: FastAPI, path: str, call: Call, model: type[BaseModel], *parameters: dict[str, Any], shown: bool
) -> None:
    extra = {**body_schema(model), "parameters": list(parameters)}
    app.add_api_route(path, call, methods=["POST"], openapi_extra=extra, include_in_schema=shown)


def _get(app: FastAPI, path: str, call: Call, parameter: dict[str, Any], *, shown: bool) -> None:
    extra = {"parameters": [parameter]}
    app.add_api_route(path, call, methods=["GET"], openapi_extra=extra, include_in_schema=shown)


def _parameter(name: str, place: str, kind: str) -> dict[str, Any]:
    examples = [1, 2] if kind == "integer" else ["d9428888-122b-41e1-b85c-61cf3a6b5a4f.mp4"]
    return {"name": name, "in": place, "required": True, "schema": {"type": kind, "examples": examples}}


def _generation(calls: ModelsLab, kind: Kind) -> Call:
    async def generate(request: Request) -> Response:
        return await calls.generate(request, kind)

    return generate


def _answer_errors(app: FastAPI, context: Context) -> None:
    def on_error(request: Request, error: Exception) -> Response:
        return errors.respond(errors.of_exception(error), context.settings.modelslab_status, request.scope["path"])

    for kind in errors.KINDS:
        app.add_exception_handler(kind, on_error)


async def _without_last_slash(request: Request) -> None:
    request.scope["path"] = request.scope["path"].rstrip("/") or "/"
