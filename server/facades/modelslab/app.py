"""ModelsLab's routes."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.responses import FileResponse

from server.context import Context
from server.facades.kit.app import add, bind, create_app, without_last_slash
from server.facades.kit.openapi import body_schema, parameter
from server.facades.modelslab import errors
from server.facades.modelslab.calls import I2V, I2V_ULTRA, T2V, T2V_FUSION, T2V_ULTRA, Kind, ModelsLab
from server.facades.modelslab.models import Fetch, FetchById, Upload

MOUNTS = ("", "/modelslab")
MAIN = "/api/v6/video"
# each of these prefixes also has the calls fetch and base64_to_url
ROOMS: dict[str, dict[str, Kind]] = {
    MAIN: {kind.name: kind for kind in (T2V, I2V, T2V_ULTRA, I2V_ULTRA)},
    "/api/v1/enterprise/video": {kind.name: kind for kind in (T2V, I2V, T2V_ULTRA, I2V_ULTRA)},
    "/api/v1/enterprise/ultra_video": {"text2video": T2V_ULTRA},
    "/api/v1/enterprise/image_to_video_ultra": {"img2video": I2V_ULTRA},
    "/api/v7/video-fusion": {"text-to-video": T2V_FUSION, "image-to-video": I2V},
}
ROOT_UPLOADS = ("/api/v6/base64_to_url", "/api/v7/base64_to_url")

UPLOAD = {**body_schema(Upload), "parameters": []}
VIDEO = {"parameters": [parameter("path", "name", "d9428888-122b-41e1-b85c-61cf3a6b5a4f.mp4", required=True)]}


def create(context: Context) -> FastAPI:
    schemas = (*(kind.input for kind in ROOMS[MAIN].values()), Fetch, FetchById, Upload)
    app = create_app(context, errors.refuse, *schemas, admit=without_last_slash)
    calls = ModelsLab(context)
    for mount in MOUNTS:
        for room, kinds in ROOMS.items():
            _furnish(app, calls, mount + room, kinds, shown=mount + room == MAIN)
        for path in ROOT_UPLOADS:
            add(app, "POST", mount + path, calls.upload, "upload", UPLOAD, shown=mount + path == ROOT_UPLOADS[0])
    for method in ("GET", "HEAD"):
        shown = method == "GET"
        add(app, method, "/generations/{name}", calls.video, "video", VIDEO, shown=shown, response_class=FileResponse)
    return app


def _furnish(app: FastAPI, calls: ModelsLab, room: str, kinds: dict[str, Kind], shown: bool) -> None:
    in_path, in_query = (
        {"parameters": [parameter(place, "request_id", 1, 2, type="integer", required=True)]}
        for place in ("path", "query")
    )
    for name, kind in kinds.items():
        generate, body = bind(calls.generate, kind), {**body_schema(kind.input), "parameters": []}
        add(app, "POST", f"{room}/{name}", generate, "generate", body, shown=shown)
    by_path, by_body = {**body_schema(Fetch), **in_path}, {**body_schema(FetchById), "parameters": []}
    add(app, "POST", f"{room}/fetch/{{request_id}}", calls.fetch, "fetch", by_path, shown=shown)
    add(app, "GET", f"{room}/fetch/{{request_id}}", calls.fetch, "fetch", in_path, shown=shown)
    add(app, "POST", f"{room}/fetch", calls.fetch, "fetch", by_body, shown=shown)
    add(app, "GET", f"{room}/fetch", calls.fetch, "fetch", in_query, shown=shown)
    add(app, "POST", f"{room}/base64_to_url", calls.upload, "upload", UPLOAD, shown=shown)
