"""fal's routes, with the documentation of their headers and query parameters."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from server.context import Context
from server.facades.fal import errors
from server.facades.fal.calls import Fal
from server.facades.fal.guard import admit
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
from server.facades.kit.app import add, bind, create_app
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
        _serve_requests(app, fal, f"/queue/{base}/requests/{{request_id}}", shown=base == APP)
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
    run, submit, name = bind(fal.run, endpoint), bind(fal.submit, endpoint), endpoint.task.value
    running = {**body_schema(endpoint.input), "parameters": [START, RESULT]}
    queued = {**running, "parameters": [*SUBMIT, START, RESULT]}
    add(app, "POST", f"/run/{endpoint.id}", run, f"run {name}", running, responses={200: {"model": Output}})
    add(app, "GET", f"/run/{endpoint.id}", run, "run", shown=False)
    add(app, "POST", f"/queue/{endpoint.id}", submit, f"submit {name}", queued)


def _serve_requests(app: FastAPI, fal: Fal, base: str, *, shown: bool) -> None:
    logs = {"parameters": [LOGS]}
    add(app, "GET", f"{base}/status", fal.status, "status", logs, shown=shown)
    add(app, "GET", f"{base}/status/stream", fal.stream, "status stream", logs, shown=shown)
    add(app, "GET", base, fal.result, "result", shown=shown)
    add(app, "GET", f"{base}/response", fal.result, "result alias", shown=False)
    add(app, "PUT", f"{base}/cancel", fal.cancel, "cancel", shown=shown)


def _serve_storage(app: FastAPI, context: Context) -> None:
    storage = Storage(context)

    def keys(request: Request) -> Response:
        return Json(context.signing.jwks())

    new_file = {**body_schema(NewFile), "parameters": [STORAGE_TYPE, LIFECYCLE]}
    brought, ticket = {"parameters": [FILE_NAME, LIFECYCLE]}, f"{FILE}/multipart/{{ticket}}"
    add(app, "POST", "/storage/auth/token", storage.token, "upload token", {"parameters": [STORAGE_TYPE]})
    add(app, "POST", "/files/upload", storage.upload, "upload", {**BYTES, **brought})
    add(app, "POST", "/files/upload/multipart", storage.begin, "upload in parts", brought)
    add(app, "POST", "/storage/upload/initiate", storage.initiate, "start an upload", new_file)
    add(app, "POST", "/storage/upload/initiate-multipart", storage.initiate, "start an upload in parts", new_file)
    add(app, "PUT", ticket, storage.put, "send a file", BYTES)
    add(app, "PUT", f"{ticket}/{{number}}", storage.put_part, "send a part", BYTES)
    add(app, "POST", f"{ticket}/complete", storage.complete, "end an upload in parts", body_schema(UploadedParts))
    add(app, "POST", "/tokens", storage.app_token, "app token", body_schema(AppToken))
    add(app, "GET", "/.well-known/jwks.json", keys, "webhook keys")
    add(app, "GET", FILE, storage.file, "uploaded file", response_class=FileResponse)
    add(app, "HEAD", FILE, storage.file, "file", shown=False)
