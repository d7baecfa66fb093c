"""Zhipu's and 302.AI's calls: create a task, get its state."""

from __future__ import annotations

import uuid
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from server.context import Context
from server.facades.kit.app import idempotency
from server.facades.kit.body import Json
from server.facades.kit.errors import Failure, Refused
from server.facades.kit.fields import kept, read_fields, unknown
from server.facades.kit.waiting import find_job, submit_job
from server.facades.zhipu import answers, errors, intake
from server.facades.zhipu.models import Tasks, UnifiedVideo, VideoGeneration, present
from server.facades.zhipu.request_ids import Repeated, RequestIds
from server.jobs.job import Job
from server.jobs.jobs import PAGE_WAIT
from server.jobs.order import Order

FACADE = "zhipu"


class Zhipu:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs
        self.request_ids = RequestIds()

    async def create(self, request: Request) -> Response:
        fields = await _fields(request)
        job = await self._submit(request, fields, VideoGeneration.model_validate(fields))
        return Json(answers.created(job))

    async def create_unified(self, request: Request) -> Response:
        fields = await _fields(request)
        job = await self._submit(request, fields, UnifiedVideo.model_validate(fields))
        return Json(answers.unified_created(job))

    def result(self, request: Request, task_id: str) -> Response:
        job = self._find(request, task_id)
        return Json(answers.result(self.context, job, self.context.artifacts.base_url(request)))

    def fetch_unified(self, request: Request, task_id: str) -> Response:
        job = self._find(request, task_id)
        return Json(answers.unified_result(self.context, job, self.context.artifacts.base_url(request)))

    async def results(self, request: Request) -> Response:
        wanted = Tasks.model_validate(await _fields(request))
        async with self.jobs.pages.turn(request.state.owner, PAGE_WAIT):
            return Json({"data": await run_in_threadpool(lambda: [self._told(request, one) for one in wanted.ids])})

    def _told(self, request: Request, task_id: str) -> dict[str, Any]:
        try:
            job = self._find(request, task_id)
        except Refused as e:
            error = {"code": e.failure.code, "message": e.failure.text}
            return {"id": task_id[:100], "task_status": "FAIL", "error": error}
        return answers.result(self.context, job, self.context.artifacts.base_url(request))

    async def _submit(self, request: Request, fields: dict[str, Any], given: VideoGeneration) -> Job:
        owner, rife, name = request.state.owner, self.context.served.rife_available, idempotency(request)
        notes = [*intake.notes(given, rife), *unknown(fields, type(given).model_fields)]
        if request.query_params.get("webhook"):
            notes.append("webhook: ignored (no webhook is sent; poll the task)")
        try:
            with self.request_ids.taken(owner, given.request_id if name is None else None):
                media = None
                for value in given.pictures:
                    field = "image" if "image" in fields else "image_url"
                    media = await intake.picture(self.context, value, field, owner)
                fresh = uuid.uuid5(uuid.NAMESPACE_OID, name) if name else uuid.uuid4()
                memo = {
                    **kept(fields, type(given).model_fields),
                    "request_id": given.request_id or str(fresh),
                    "quality": given.quality,
                    "notes": notes,
                }
                order = Order(FACADE, request.scope["path"], owner, memo, idempotency=name)
                return await submit_job(request, self.jobs, intake.generation(given, media, rife), order)
        except Repeated:
            text = f"request_id: {given.request_id} was used before; each request needs one of its own"
            raise Refused(Failure(400, text, errors.REPEATED)) from None

    def _find(self, request: Request, task_id: str) -> Job:
        job = find_job(request, self.jobs, task_id, FACADE)
        if job is None:
            raise Refused(Failure(404, f"id: there is no task {task_id[:100]}", errors.INVALID))
        return job


async def _fields(request: Request) -> dict[str, Any]:
    """The fields of a form or a JSON body, without empty fields. A JSON body may have any Content-Type. Raises Refused
    for an empty file."""
    fields = await read_fields(request)
    for name, value in fields.items():
        if value == b"":
            raise Refused(Failure(400, f"{name[:100]}: the file is empty", errors.INVALID))
    return present(fields)
