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
from server.facades.kit.app import create_app, without_last_slash
from server.facades.kit.openapi import body_schema
from server.facades.modelslab import errors
from server.facades.modelslab.calls import I2V, I2V_ULTRA, T2V, T2V_FUSION, T2V_ULTRA, Kind, ModelsLab
from server.facades.modelslab.models import Fetch, FetchById, Upload

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
    schemas = (*(kind.input for kind in ROOMS[MAIN].values()), Fetch, FetchById, Upload)
    app = create_app(context, errors.refuse, *schemas, admit=without_last_slash)
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
