"""Segmind's calls: `POST /v1/{slug}` that waits, `/v2/...` that queues, the credits.

Knows: Segmind's paths, codes and headers. Does not know: GPUs, other vendors, what a video is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from server.auth import Unauthorized
from server.context import Context
from server.facades.segmind import answers, errors
from server.facades.segmind.form import choose
from server.facades.segmind.models import SLUGS, Given, ImageToVideo, Slug, generation
from server.facades.wire import (
    MAX_BODY,
    Doorman,
    Json,
    body_schema,
    document,
    finished_or_dropped,
    kept,
    parse_json,
    read_body,
    replay,
)
from server.jobs.job import Job, Status

# NOTE: "/v1" is shared: a façade with a longer prefix there (/v1/videos, /v1/predictions) comes before this one
PREFIXES = ("/v1", "/v2", "/segmind")
FACADE = "segmind"
MOUNTS = ("", "/segmind")
EXPOSED = ["x-request-id", "x-generation-time", "x-cost", "x-remaining-credits", "x-seed-value"]


class Segmind:
    """The calls, over one context."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs

    async def run(self, request: Request, slug: Slug) -> Response:
        job = await self._submit(request, slug)
        done = await finished_or_dropped(request, self.jobs, job)
        if done is None:
            raise ClientDisconnect
        headers = answers.headers(done)
        if done.status is not Status.SUCCEEDED or done.video is None:
            failure = errors.of_job(done)
            return errors.respond(errors.Failure(failure.status, failure.text, headers))
        form = choose(
            request.query_params.get("response"),
            bool(done.payload.get("base64")),
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
        fields = await _fields(request)
        given: Given = slug.input.model_validate({k: v for k, v in fields.items() if v is not None})
        image = None
        if isinstance(given, ImageToVideo):
            image = await self.context.intake.picture(given.image, "image")
        return await run_in_threadpool(
            self.jobs.submit,
            generation(given, image),
            facade=FACADE,
            endpoint=slug.name,
            payload={**kept(fields, slug.input.model_fields), "base64": given.base64},
            owner=request.state.owner,
        )

    def status(self, request: Request, request_id: str) -> Response:
        code, body = answers.state(self._find(request, request_id), self._root(request))
        return Json(body, status_code=code)

    def result(self, request: Request, request_id: str) -> Response:
        job = self._find(request, request_id)
        if job.status is Status.SUCCEEDED and job.video is not None:
            base = self.context.artifacts.base_url(request)
            return Json(answers.result(self.context, job, job.video, base), headers=answers.headers(job))
        code, body = answers.state(job, self._root(request))
        return Json(body, status_code=code)

    def credits(self) -> Response:
        return Json({"credits": answers.CREDITS, "free-credits": 0})

    def _find(self, request: Request, request_id: str) -> Job:
        job = self.jobs.find(request_id, FACADE, request.state.owner)
        if job is None:
            raise errors.Refused(404, f"Request {request_id[:100]} not found")
        return job

    def _root(self, request: Request) -> str:
        mount = "/segmind" if request.scope["path"].startswith("/segmind/") else ""
        return f"{self.context.artifacts.base_url(request)}{mount}"


async def _fields(request: Request) -> dict[str, Any]:
    """The fields of a JSON body or a multipart form. A body that names no type is taken for JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request)
    if kind == "multipart/form-data":
        async with replay(request, body).form(max_part_size=MAX_BODY) as form:
            # NOTE: a form sends a box left empty as an empty string
            return {
                name: await value.read() if isinstance(value, UploadFile) else value or None
                for name, value in form.items()
            }
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise errors.Refused(406, f"Invalid content type {kind[:100]}: send application/json or multipart/form-data")
    fields = parse_json(body)
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise errors.Refused(400, "The body must be a JSON object")
    return fields


def create(context: Context) -> FastAPI:
    """The façade as an ASGI app of its own. It wants whole paths: see PREFIXES, longest match first."""
    app = FastAPI(title="Segmind", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    segmind = Segmind(context)
    for mount in MOUNTS:
        for slug in SLUGS.values():
            _serve(app, segmind, slug, mount)
        calls: list[tuple[str, str, Callable[..., Response]]] = [
            ("credits", "/v1/get-user-credits", segmind.credits),
            ("result", "/v1/requests/{request_id}", segmind.result),
            ("status", "/v2/requests/{request_id}/status", segmind.status),
            ("result", "/v2/requests/{request_id}", segmind.result),
        ]
        for name, path, call in calls:
            app.add_api_route(mount + path, call, methods=["GET"], name=name, include_in_schema=not mount)
    document(app, [slug.input for slug in SLUGS.values()])

    def on_error(request: Request, error: Exception) -> Response:
        parts = request.scope["path"].strip("/").split("/")
        if getattr(error, "status_code", None) == 404 and parts[-2:-1] in (["v1"], ["v2"]):
            known = ", ".join(SLUGS)
            return errors.respond(errors.Failure(404, f"Model {parts[-1][:100]} not found; this server has {known}"))
        return errors.respond(errors.of_exception(error))

    for kind in errors.KINDS:
        app.add_exception_handler(kind, on_error)

    async def look(request: Request) -> Response | None:
        request.scope["path"] = request.scope["path"].rstrip("/") or "/"
        try:
            request.state.owner = context.keys.identify(request.headers)
        except Unauthorized as e:
            return errors.respond(errors.Failure(401, errors.NO_KEY if e.reason == "missing" else errors.BAD_KEY))
        return None

    app.add_middleware(Doorman, look=look)
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=EXPOSED
    )
    return app


def _serve(app: FastAPI, segmind: Segmind, slug: Slug, mount: str) -> None:
    async def run(request: Request) -> Response:
        return await segmind.run(request, slug)

    async def enqueue(request: Request) -> Response:
        return await segmind.enqueue(request, slug)

    extra = body_schema(slug.input, types=("application/json", "multipart/form-data"))
    said: dict[int | str, dict[str, Any]] = {
        200: {"content": {"application/json": {}, "video/mp4": {"schema": {"type": "string", "format": "binary"}}}}
    }
    for path, call, name in ((f"/v1/{slug.name}", run, "run"), (f"/v2/{slug.name}", enqueue, "queue")):
        app.add_api_route(
            mount + path,
            call,
            methods=["POST"],
            name=f"{name} {slug.task.value}",
            openapi_extra=extra,
            responses=said if call is run else None,
            include_in_schema=not mount,
        )
