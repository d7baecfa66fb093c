"""Hugging Face's only call: `POST /hf-inference/models/{owner}/{name}` waits and returns the video's bytes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path
from starlette.requests import Request
from starlette.responses import Response

from server.context import Context
from server.facades.huggingface import errors
from server.facades.huggingface.calls import HuggingFace
from server.facades.huggingface.models import MODELS, OWNERS, Inference
from server.facades.kit.app import add, create_app
from server.facades.kit.openapi import body_schema

CALL = "/hf-inference/models/{owner}/{name}"
ALIASES = ("/models/{owner}/{name}", "/huggingface/models/{owner}/{name}", f"/huggingface{CALL}")
BYTES = {"schema": {"type": "string", "format": "binary"}}


def create(context: Context) -> FastAPI:
    app = create_app(context, errors.refuse, Inference)
    hugging_face = HuggingFace(context)

    async def run(
        request: Request,
        owner: Annotated[str, Path(examples=["zai-org", "THUDM"], json_schema_extra={"enum": list(OWNERS)})],
        name: Annotated[str, Path(examples=["CogVideoX-5b", "CogVideoX-2b"], json_schema_extra={"enum": list(MODELS)})],
    ) -> Response:
        return await hugging_face.run(request, owner, name)

    extra = body_schema(Inference)
    extra["requestBody"]["content"]["application/octet-stream"] = BYTES
    said: dict[int | str, dict[str, Any]] = {200: {"content": {"video/mp4": BYTES}}}
    for path in (CALL, *ALIASES):
        add(app, "POST", path, run, "run", extra, shown=path == CALL, response_class=Response, responses=said)
    return app
