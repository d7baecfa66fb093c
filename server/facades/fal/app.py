"""fal's URLs, and the parameters beside a body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from server.context import Context
from server.facades.fal import errors
from server.facades.fal.admission import admit
from server.facades.fal.calls import Fal
from server.facades.fal.models import (
    APP,
    ENDPOINTS,
    AppToken,
    Endpoint,
    ImageSize,
    LoraWeight,
    NewFile,
    Output,
    UploadedPart,
    UploadedParts,
)
from server.facades.fal.shelf import serve
from server.facades.fal.storage import Storage
from server.facades.kit.app import create_app
from server.facades.kit.body import Json
from server.facades.kit.openapi import body_schema, parameter

FILE = "/fal/files/{key}/{name}"
BYTES = {"requestBody": {"required": True, "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}}


def create(context: Context) -> FastAPI:
    bodies = (AppToken, NewFile, UploadedPart, UploadedParts, ImageSize, LoraWeight)
    inputs = [endpoint.input for endpoint in ENDPOINTS.values()]
    app = create_app(context, errors.refuse, *inputs, *bodies, admit=admit)
    fal = Fal(context)
    for endpoint in ENDPOINTS.values():
        _serve(app, fal, endpoint)
    for base in ENDPOINTS:
        _serve_requests(app, fal, f"/queue/{base}/requests/{{request_id}}", in_schema=base == APP)
    _serve_storage(app, context)
    serve(app, context)
    return app


START = parameter("header", "x-fal-request-timeout", 30, 600, type="number")
RESULT = parameter(
    "header", "x-fal-object-lifecycle-preference", '{"expiration_duration_seconds": 3600}', '{"initial_acl": {}}'
)
LIFECYCLE = parameter(
    "header", "x-fal-object-lifecycle", '{"expiration_duration_seconds": 3600}', '{"expiration_duration_seconds": 60}'
)
FILE_NAME = parameter("header", "x-fal-file-name", "circle.png", "clip.mp4")
STORAGE_TYPE = parameter("query", "storage_type", "fal-cdn-v3", "gcs")
LOGS = parameter("query", "logs", "true", "0")
SUBMIT = [
    parameter("query", "fal_webhook", "https://example.org/hook", "http://example.org/hook?a=1"),
    parameter("query", "fal_max_queue_length", 10, 100, type="integer"),
    parameter("header", "x-fal-queue-priority", "normal", "low"),
]


def _serve(app: FastAPI, fal: Fal, endpoint: Endpoint) -> None:
    async def run(request: Request) -> Response:
        return await fal.run(request, endpoint)

    async def submit(request: Request) -> Response:
        return await fal.submit(request, endpoint)

    name = endpoint.task.value
    running = {**body_schema(endpoint.input), "parameters": [START, RESULT]}
    queued = {**running, "parameters": [*SUBMIT, START, RESULT]}
    said: dict[int | str, dict[str, Any]] = {200: {"model": Output}}
    add = app.add_api_route
    add(f"/run/{endpoint.id}", run, methods=["POST"], name=f"run {name}", openapi_extra=running, responses=said)
    add(f"/run/{endpoint.id}", run, methods=["GET"], include_in_schema=False)
    add(f"/queue/{endpoint.id}", submit, methods=["POST"], name=f"submit {name}", openapi_extra=queued)


def _serve_requests(app: FastAPI, fal: Fal, base: str, *, in_schema: bool) -> None:
    calls: list[tuple[str, str, str, Callable[[Request, str], Response]]] = [
        ("status", "GET", "/status", fal.status),
        ("status stream", "GET", "/status/stream", fal.stream),
        ("result", "GET", "", fal.result),
        ("result alias", "GET", "/response", fal.result),
        ("cancel", "PUT", "/cancel", fal.cancel),
    ]
    for name, method, tail, call in calls:
        app.add_api_route(
            base + tail,
            call,
            methods=[method],
            name=name,
            include_in_schema=in_schema and tail != "/response",
            openapi_extra={"parameters": [LOGS]} if name.startswith("status") else None,
        )


def _serve_storage(app: FastAPI, context: Context) -> None:
    storage = Storage(context)

    def keys(request: Request) -> Response:
        return Json(context.signing.jwks())

    new_file = {**body_schema(NewFile), "parameters": [STORAGE_TYPE, LIFECYCLE]}
    brought = [FILE_NAME, LIFECYCLE]
    calls: list[tuple[str, str, str, Callable[..., Any], dict[str, Any] | None]] = [
        ("upload token", "POST", "/storage/auth/token", storage.token, {"parameters": [STORAGE_TYPE]}),
        ("upload", "POST", "/files/upload", storage.upload, {**BYTES, "parameters": brought}),
        ("upload in parts", "POST", "/files/upload/multipart", storage.begin, {"parameters": brought}),
        ("start an upload", "POST", "/storage/upload/initiate", storage.initiate, new_file),
        ("start one in parts", "POST", "/storage/upload/initiate-multipart", storage.initiate, new_file),
        ("send a file", "PUT", f"{FILE}/multipart/{{ticket}}", storage.put, BYTES),
        ("send a part", "PUT", f"{FILE}/multipart/{{ticket}}/{{number}}", storage.put_part, BYTES),
        ("end it", "POST", f"{FILE}/multipart/{{ticket}}/complete", storage.complete, body_schema(UploadedParts)),
        ("app token", "POST", "/tokens", storage.app_token, body_schema(AppToken)),
        ("webhook keys", "GET", "/.well-known/jwks.json", keys, None),
    ]
    for name, method, path, call, extra in calls:
        app.add_api_route(path, call, methods=[method], name=name, openapi_extra=extra)
    app.add_api_route(FILE, storage.file, methods=["GET"], name="uploaded file", response_class=FileResponse)
    app.add_api_route(FILE, storage.file, methods=["HEAD"], include_in_schema=False)
