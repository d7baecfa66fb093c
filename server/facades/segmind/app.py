"""Segmind's calls. `POST /v1/{slug}` waits for the video, `POST /v2/{slug}` queues the job; other calls are for status,
credits and uploads."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from server.context import Context
from server.facades.kit.app import add, bind, create_app, idempotency, root
from server.facades.kit.body import Json
from server.facades.kit.errors import Failure, Refused
from server.facades.kit.fields import kept, media_type, read_fields
from server.facades.kit.forms import MULTIPART
from server.facades.kit.openapi import body_schema, parameter
from server.facades.kit.waiting import ended, find_job, submit_job
from server.facades.segmind import answers, assets, errors
from server.facades.segmind.form import choose
from server.facades.segmind.models import SLUGS, Given, ImageToVideo, Slug, UploadAsset, generation
from server.jobs.job import Job, Status
from server.jobs.order import Order
from server.limits.steps import in_turn

FACADE = "segmind"
MOUNTS = ("", "/segmind")
FORM: dict[str, Any] = {"enum": ["json", "binary"], "required": False}
FORM_PARAMETERS = [
    parameter("query", "response", description="format of the response", **FORM),
    parameter("header", "X-Response-Format", description="the same, as a header", **FORM),
]
VIDEO_OR_JSON: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "video/mp4": {"schema": {"type": "string", "format": "binary"}}}}
}


class Segmind:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs

    async def run(self, request: Request, slug: Slug) -> Response:
        done = await ended(request, self.jobs, lambda: self._submit(request, slug))
        headers = answers.headers(done)
        if done.status is not Status.SUCCEEDED or done.video is None:
            failure = errors.of_job(done)
            return errors.respond(Failure(failure.status, failure.text, headers=headers))
        form = choose(
            request.query_params.get("response"),
            bool(done.memo.get("base64")),
            request.scope["headers"],
            self.context.settings.segmind_response,
        )
        if form == "binary":
            video = await run_in_threadpool(self.context.artifacts.read, done.video)
            return Response(video, media_type=done.video.media_type, headers=headers)
        base = self.context.artifacts.base_url(request)
        body = await run_in_threadpool(answers.result, self.context, done, done.video, base)
        return Json(body, headers=headers)

    async def enqueue(self, request: Request, slug: Slug) -> Response:
        job = await self._submit(request, slug)
        body = {"request_id": job.id, "status": "QUEUED", **answers.links(job, self._root(request))}
        return Json(body, headers={"x-request-id": job.id})

    async def _submit(self, request: Request, slug: Slug) -> Job:
        fields = await _fields(request, "application/json", MULTIPART)
        given: Given = slug.input.model_validate(fields)
        image = None
        if isinstance(given, ImageToVideo):
            image = await self.context.intake.picture(given.image, "image", owner=request.state.owner)
        memo = {**kept(fields, slug.input.model_fields), "base64": given.base64}
        order = Order(FACADE, slug.name, request.state.owner, memo, idempotency=idempotency(request))
        return await submit_job(request, self.jobs, generation(given, image), order)

    def status(self, request: Request, request_id: str) -> Response:
        code, body = answers.state(self._find(request, request_id), self._root(request))
        return Json(body, status_code=code)

    def result(self, request: Request, request_id: str) -> Response:
        job = self._find(request, request_id)
        if job.status is Status.SUCCEEDED and job.video is not None:
            base = self.context.artifacts.base_url(request)
            return Json(answers.result(self.context, job, job.video, base), headers=answers.headers(job))
        code, body = answers.state(job, self._root(request), queued="PROCESSING")
        return Json(body, status_code=code)

    def credits(self) -> Response:
        return Json({"credits": answers.CREDITS, "free-credits": 0})

    async def upload(self, request: Request) -> Response:
        given = UploadAsset.model_validate(await _fields(request, "application/json"))
        uris = enumerate(given.data_urls)
        owner = request.state.owner
        files = [await in_turn(owner, len(uri), assets.opened, uri, f"data_urls[{n}]") for n, uri in uris]
        stored = [await assets.stored(self.context, *file, owner) for file in files]
        base = self.context.artifacts.base_url(request)
        urls = [self.context.artifacts.url(artifact, base) for artifact in stored]
        return Json({"file_urls": urls, "message": "Files uploaded successfully"})

    def _find(self, request: Request, request_id: str) -> Job:
        job = find_job(request, self.jobs, request_id, FACADE)
        if job is None:
            raise Refused(Failure(404, f"Request {request_id[:100]} not found"))
        return job

    def _root(self, request: Request) -> str:
        return root(self.context, request, "/segmind")


async def _fields(request: Request, *types: str) -> dict[str, Any]:
    """The fields of a body whose media type is one of `types`. A body without a media type is parsed as JSON."""
    kind = media_type(request)
    if kind and kind not in types and not kind.endswith("+json"):
        raise Refused(Failure(406, f"Invalid content type {kind[:100]}: send {' or '.join(types)}"))
    return await read_fields(request)


def create(context: Context) -> FastAPI:
    app = create_app(context, errors.refuse, UploadAsset, *(slug.input for slug in SLUGS.values()))
    segmind = Segmind(context)
    for mount in MOUNTS:
        shown = not mount
        for slug in SLUGS.values():
            _serve(app, segmind, slug, mount)
        add(app, "GET", f"{mount}/v1/get-user-credits", segmind.credits, "credits", shown=shown)
        add(app, "GET", f"{mount}/v1/requests/{{request_id}}", segmind.result, "result", shown=shown)
        add(app, "GET", f"{mount}/v2/requests/{{request_id}}/status", segmind.status, "status", shown=shown)
        add(app, "GET", f"{mount}/v2/requests/{{request_id}}", segmind.result, "result", shown=shown)
        add(app, "POST", f"{mount}/upload-asset", segmind.upload, "upload", body_schema(UploadAsset), shown=shown)
    return app


def _serve(app: FastAPI, segmind: Segmind, slug: Slug, mount: str) -> None:
    queue = body_schema(slug.input, types=("application/json", MULTIPART))
    run = {**queue, "parameters": FORM_PARAMETERS}
    paths, task, shown = (f"{mount}/v1/{slug.name}", f"{mount}/v2/{slug.name}"), slug.task.value, not mount
    add(app, "POST", paths[0], bind(segmind.run, slug), f"run {task}", run, shown=shown, responses=VIDEO_OR_JSON)
    add(app, "POST", paths[1], bind(segmind.enqueue, slug), f"queue {task}", queue, shown=shown)
