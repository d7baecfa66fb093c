"""Hugging Face's call, which waits for the video. The body is JSON with a prompt or an image, or the body is the image
itself."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pipelines.request import Task
from server.context import Context
from server.facades.huggingface import errors
from server.facades.huggingface.intake import generation
from server.facades.huggingface.models import MODELS, Inference, Parameters, TextInference, task_of
from server.facades.kit.app import idempotency
from server.facades.kit.body import read_body
from server.facades.kit.errors import Failure, Refused
from server.facades.kit.fields import kept, members
from server.facades.kit.json_bodies import parsed
from server.facades.kit.waiting import ended, submit_job
from server.jobs.job import Job, Status
from server.jobs.order import Order

FACADE = "huggingface"
JSON_BEGINS = b" \t\r\n\xef\xbb\xbf"  # white space and the byte order mark, which may precede the JSON


class HuggingFace:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs

    async def run(self, request: Request, owner: str, name: str) -> Response:
        task = task_of(owner, name)
        if task is None:
            known = ", ".join(MODELS)
            text = f"Model {owner[:100]}/{name[:100]} does not exist here; zai-org has {known}"
            raise Refused(Failure(404, text))
        done = await ended(request, self.jobs, lambda: self._submit(request, task, f"{owner}/{name}"), one_shot=True)
        headers = {"x-request-id": done.id, "x-compute-time": f"{done.inference_seconds or 0.0:.3f}"}
        if done.status is not Status.SUCCEEDED or done.video is None:
            failure = errors.of_job(done)
            return errors.respond(Failure(failure.status, failure.text, headers=headers))
        video = await run_in_threadpool(self.context.artifacts.read, done.video)
        return Response(video, media_type=done.video.media_type, headers=headers)

    async def _submit(self, request: Request, task: Task, model: str) -> Job:
        body = await read_body(request)
        image = None
        # NOTE: with a bare image, the client sends no media type, or the media type for the file's name
        if task is Task.I2V and body and not body.lstrip(JSON_BEGINS).startswith(b"{"):
            inputs, parameters = "", Parameters()
            image = await self.context.intake.picture(body, "inputs", owner=request.state.owner)
            fields: dict[str, Any] = {}
        else:
            fields = members(await parsed(body, request.state.owner))
            kind = TextInference if task is Task.T2V else Inference
            given = kind.model_validate(fields)
            inputs, parameters = given.inputs, given.parameters or Parameters()
            if task is Task.I2V:
                image = await self.context.intake.picture(inputs, "inputs", owner=request.state.owner)
        memo = kept(fields, Inference.model_fields)
        order = Order(FACADE, model, request.state.owner, memo, idempotency=idempotency(request))
        return await submit_job(request, self.jobs, generation(task, inputs, parameters, image), order)
