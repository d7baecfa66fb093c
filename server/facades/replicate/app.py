"""Replicate's URLs, and which of them need no key."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from server.context import Context
from server.facades.kit.app import create_app, without_last_slash
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
    Model,
    VersionRequest,
)
from server.facades.replicate.watch import Watch

MOUNTS = ("", "/replicate")
SHARED = re.compile(r"/v1/(models|files(/\{\w+\})?)$")  # OpenAI has these too: documented under /replicate
KEYLESS = re.compile(r"(/replicate)?/v1/predictions/\w+/(stream|web)/\w+")
ALIASES = ("christophy/cogvideox",)  # same input as another model


class NewFile(BaseModel):
    content: bytes = Field(description="The file", examples=["circle.png", "clip.mp4"])
    filename: str | None = Field(None, description="Its name, if not the part's", examples=["a.png", "b.mp4"])
    type: str | None = Field(None, description="Its media type, if not the part's", examples=["image/png", "video/mp4"])
    metadata: dict[str, Any] | None = Field(
        None, description="Anything to remember with it; as text or as a part of JSON", examples=[{}, {"by": "me"}]
    )


BLOCKING = [
    parameter("header", "Prefer", "wait", "wait=5", description="`wait` blocks for up to 54 seconds, `wait=N` for N"),
    parameter("header", "Cancel-After", "30s", "5m", description="Cancels the prediction when it lasts longer"),
]
CURSOR = {"parameters": [parameter("query", "cursor", description="From `next` or `previous` of another page")]}


def create(context: Context) -> FastAPI:
    bodies = (VersionRequest, DeploymentRequest, NewFile, *(model.request for model in MODELS.values()))
    inputs = (CogVideoX5bInput, CogVideoXTextInput, CogVideoXImageInput)
    app = create_app(context, errors.refuse, *bodies, *inputs, admit=admit)
    predictions, about, files, watch = Predictions(context), About(context), Files(context), Watch(context)

    def of(model: Model) -> Callable[..., Any]:
        async def predict(request: Request) -> Response:
            return await predictions.of_model(request, model.owner, model.name)

        return predict

    for mount in MOUNTS:

        def get(path: str, call: Callable[..., Any], name: str, mount: str = mount, **more: Any) -> None:
            shown = bool(mount) is bool(SHARED.match(path))
            app.add_api_route(mount + path, call, methods=["GET"], name=name, include_in_schema=shown, **more)

        def post(path: str, call: Callable[..., Any], name: str, mount: str = mount, **more: Any) -> None:
            shown = more.pop("shown", True) and bool(mount) is bool(SHARED.match(path))
            app.add_api_route(mount + path, call, methods=["POST"], name=name, include_in_schema=shown, **more)

        def predict(path: str, call: Callable[..., Any], kind: type[BaseModel], shown: bool = True) -> None:
            extra = {**body_schema(kind), "parameters": BLOCKING}
            post(path, call, "predict", openapi_extra=extra, status_code=201, shown=shown)

        predict("/v1/predictions", predictions.of_version, VersionRequest)
        get("/v1/predictions", predictions.list, "predictions", openapi_extra=CURSOR)
        get("/v1/predictions/{prediction_id}", predictions.get, "prediction")
        post("/v1/predictions/{prediction_id}/cancel", predictions.cancel, "cancel")
        get("/v1/predictions/{prediction_id}/stream/{token}", watch.stream, "events")
        get("/v1/predictions/{prediction_id}/web/{token}", watch.page, "page")
        for slug, model in MODELS.items():
            predict(f"/v1/models/{slug}/predictions", of(model), model.request, slug not in ALIASES)
        post("/v1/models/{owner}/{name}/predictions", predictions.of_model, "predict", shown=False)
        predict("/v1/deployments/{owner}/{name}/predictions", predictions.of_deployment, DeploymentRequest)
        get("/v1/models", about.models, "models")
        app.add_api_route(mount + "/v1/models", about.search, methods=["QUERY"], include_in_schema=False)
        get("/v1/models/{owner}/{name}", about.model, "model")
        get("/v1/models/{owner}/{name}/versions", about.versions, "versions")
        get("/v1/models/{owner}/{name}/versions/{version_id}", about.version, "version")
        get("/v1/deployments", about.deployments, "deployments")
        get("/v1/deployments/{owner}/{name}", about.deployment, "deployment")
        form = body_schema(NewFile, types=("multipart/form-data",))
        post("/v1/files", files.create, "upload", openapi_extra=form, status_code=201)
        get("/v1/files", files.list, "files")
        get("/v1/files/{file_id}", files.get, "file")
        app.add_api_route(
            mount + "/v1/files/{file_id}",
            files.delete,
            methods=["DELETE"],
            name="remove",
            include_in_schema=bool(mount),
        )
        get("/v1/webhooks/default/secret", about.secret, "webhook secret")
        get("/v1/account", about.account, "account")
        get("/v1/hardware", about.hardware, "hardware")
        get("/v1/collections", about.collections, "collections")
        get("/v1/collections/{slug}", about.collection, "collection")
        get("/v1/trainings", about.trainings, "trainings")
    return app


def admit(context: Context, request: Request) -> None:
    without_last_slash(context, request)
    if not KEYLESS.fullmatch(request.scope["path"]):
        request.state.owner = context.keys.identify(request.headers)
