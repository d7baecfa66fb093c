"""Hugging Face's one call: `POST /hf-inference/models/{owner}/{name}`, which waits and answers with the video's bytes.

Knows: Hugging Face's paths, bodies and codes. Does not know: GPUs, other vendors, what a video is.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pipelines.request import Task
from server.context import Context
from server.facades.huggingface import errors
from server.facades.huggingface.models import MODELS, OWNERS, Inference, Parameters, TextInference, generation, task_of
from server.facades.kit.app import create_app, idempotency
from server.facades.kit.body import read_body
from server.facades.kit.fields import kept
from server.facades.kit.json_bodies import parsed
from server.facades.kit.openapi import body_schema
from server.facades.kit.waiting import finished_or_dropped
from server.jobs.job import Job, Status
from server.jobs.order import Order
from server.limits.shares import holder
from server.request_state import note_model

FACADE = "huggingface"
CALL = "/hf-inference/models/{owner}/{name}"
ALIASES = ("/models/{owner}/{name}", "/huggingface/models/{owner}/{name}", f"/huggingface{CALL}")
JSON_BEGINS = b" \t\r\n\xef\xbb\xbf"  # with white space, or the mark some editors put before a text
BYTES = {"schema": {"type": "string", "format": "binary"}}


class HuggingFace:
    """The call, over one context."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs

    async def run(self, request: Request, owner: str, name: str) -> Response:
        task = task_of(owner, name)
        if task is None:
            known = ", ".join(MODELS)
            raise errors.Refused(404, f"Model {owner[:100]}/{name[:100]} does not exist here; zai-org has {known}")
        with self.jobs.waits.held(holder(request.state.owner, request)):
            job = await self._submit(request, task, f"{owner}/{name}")
            note_model(request, job.model)
            done = await finished_or_dropped(request, self.jobs, job, one_shot=True)
        if done is None:
            raise ClientDisconnect
        headers = {"x-request-id": done.id, "x-compute-time": f"{done.inference_seconds or 0.0:.3f}"}
        if done.status is not Status.SUCCEEDED or done.video is None:
            failure = errors.of_job(done)
            return errors.respond(errors.Failure(failure.status, failure.text, headers))
        video = await run_in_threadpool(self.context.artifacts.read, done.video)
        return Response(video, media_type=done.video.media_type, headers=headers)

    async def _submit(self, request: Request, task: Task, model: str) -> Job:
        body = await read_body(request)
        image = None
        # NOTE: the client sends a bare picture without a type, or with whatever its file's name suggests
        if task is Task.I2V and body and not body.lstrip(JSON_BEGINS).startswith(b"{"):
            inputs, parameters = "", Parameters()
            image = await self.context.intake.picture(body, "inputs", owner=request.state.owner)
            payload: dict[str, Any] = {}
        else:
            payload = await _fields(body, request.state.owner)
            kind = TextInference if task is Task.T2V else Inference
            given = kind.model_validate(payload)
            inputs, parameters = given.inputs, given.parameters or Parameters()
            if task is Task.I2V:
                image = await self.context.intake.picture(inputs, "inputs", owner=request.state.owner)
        return await run_in_threadpool(
            self.jobs.submit,
            generation(task, inputs, parameters, image),
            Order(
                facade=FACADE,
                endpoint=model,
                memo=kept(payload, Inference.model_fields),
                owner=request.state.owner,
                idempotency=idempotency(request),
            ),
        )


async def _fields(body: bytes, owner: str) -> dict[str, Any]:
    fields = await parsed(body, owner)
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise errors.Refused(422, "The body must be a JSON object with `inputs`")
    return fields


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
        app.add_api_route(
            path,
            run,
            methods=["POST"],
            name="run",
            openapi_extra=extra,
            response_class=Response,
            responses=said,
            include_in_schema=path == CALL,
        )
    return app
