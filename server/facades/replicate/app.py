"""Defines Replicate's routes. KEYLESS matches the paths that need no key."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.requests import Request

from server.context import Context
from server.facades.kit.app import add, bind, create_app, without_last_slash
from server.facades.kit.openapi import body_schema, parameter
from server.facades.replicate import errors
from server.facades.replicate.about import About
from server.facades.replicate.calls import Predictions
from server.facades.replicate.files import Files
from server.facades.replicate.models import (
    MODELS,
    CogVideoX5bInput,
    CogVideoXImageInput,
    CogVideoXTextInput,
    DeploymentRequest,
    VersionRequest,
)
from server.facades.replicate.watch import Watch

MOUNTS = ("", "/replicate")
# OpenAI has these paths too, so Replicate's calls at these paths are documented under /replicate
SHARED = re.compile(r"/v1/(models|files(/\{\w+\})?)$")
KEYLESS = re.compile(r"(/replicate)?/v1/predictions/\w+/(stream|web)/\w+")
ALIASES = ("christophy/cogvideox",)  # this model has the same input as another model


class NewFile(BaseModel):
    content: bytes = Field(description="The file", examples=["circle.png", "clip.mp4"])
    filename: str | None = Field(
        None, description="Name of the file, if not that of the part", examples=["a.png", "b.mp4"]
    )
    type: str | None = Field(
        None, description="Media type of the file, if not that of the part", examples=["image/png", "video/mp4"]
    )
    metadata: dict[str, Any] | None = Field(
        None,
        description="An object to store with the file, as JSON text or as a JSON part",
        examples=[{}, {"by": "me"}],
    )


BLOCKING = [
    parameter("header", "Prefer", "wait", "wait=5", description="`wait` blocks for up to 54 seconds, `wait=N` for N"),
    parameter("header", "Cancel-After", "30s", "5m", description="Cancels the prediction if it takes longer"),
]
CURSOR = {"parameters": [parameter("query", "cursor", description="From `next` or `previous` of another page")]}


def create(context: Context) -> FastAPI:
    bodies = (VersionRequest, DeploymentRequest, NewFile, *(model.request for model in MODELS.values()))
    inputs = (CogVideoX5bInput, CogVideoXTextInput, CogVideoXImageInput)
    app = create_app(context, errors.refuse, *bodies, *inputs, admit=admit)
    predictions, about, files, watch = Predictions(context), About(context), Files(context), Watch(context)

    for mount in MOUNTS:

        def route(method: str, path: str, call: Callable[..., Any], name: str, mount: str = mount, **more: Any) -> None:
            shown = more.pop("shown", True) and bool(mount) is bool(SHARED.match(path))
            add(app, method, mount + path, call, name, shown=shown, **more)

        def predict(path: str, call: Callable[..., Any], kind: type[BaseModel], shown: bool = True) -> None:
            extra = {**body_schema(kind), "parameters": BLOCKING}
            route("POST", path, call, "predict", extra=extra, status_code=201, shown=shown)

        predict("/v1/predictions", predictions.of_version, VersionRequest)
        route("GET", "/v1/predictions", predictions.list, "predictions", extra=CURSOR)
        route("GET", "/v1/predictions/{prediction_id}", predictions.get, "prediction")
        route("POST", "/v1/predictions/{prediction_id}/cancel", predictions.cancel, "cancel")
        route("GET", "/v1/predictions/{prediction_id}/stream/{token}", watch.stream, "events")
        route("GET", "/v1/predictions/{prediction_id}/web/{token}", watch.page, "page")
        for slug, model in MODELS.items():
            call = bind(predictions.of_model, model.owner, model.name)
            predict(f"/v1/models/{slug}/predictions", call, model.request, slug not in ALIASES)
        route("POST", "/v1/models/{owner}/{name}/predictions", predictions.of_model, "predict", shown=False)
        predict("/v1/deployments/{owner}/{name}/predictions", predictions.of_deployment, DeploymentRequest)
        route("GET", "/v1/models", about.models, "models")
        route("QUERY", "/v1/models", about.search, "search", shown=False)
        route("GET", "/v1/models/{owner}/{name}", about.model, "model")
        route("GET", "/v1/models/{owner}/{name}/versions", about.versions, "versions")
        route("GET", "/v1/models/{owner}/{name}/versions/{version_id}", about.version, "version")
        route("GET", "/v1/deployments", about.deployments, "deployments")
        route("GET", "/v1/deployments/{owner}/{name}", about.deployment, "deployment")
        form = body_schema(NewFile, types=("multipart/form-data",))
        route("POST", "/v1/files", files.create, "upload", extra=form, status_code=201)
        route("GET", "/v1/files", files.list, "files")
        route("GET", "/v1/files/{file_id}", files.get, "file")
        route("DELETE", "/v1/files/{file_id}", files.delete, "remove")
        route("GET", "/v1/webhooks/default/secret", about.secret, "webhook secret")
        route("GET", "/v1/account", about.account, "account")
        route("GET", "/v1/hardware", about.hardware, "hardware")
        route("GET", "/v1/collections", about.collections, "collections")
        route("GET", "/v1/collections/{slug}", about.collection, "collection")
        route("GET", "/v1/trainings", about.trainings, "trainings")
    return app


def admit(context: Context, request: Request) -> None:
    without_last_slash(context, request)
    if not KEYLESS.fullmatch(request.scope["path"]):
        request.state.owner = context.keys.identify(request.headers)
