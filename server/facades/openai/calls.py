"""OpenAI's video calls: create, retrieve, list, download, delete, remix; and the models."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from fastapi.concurrency import contextmanager_in_threadpool
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pipelines.request import GenerationRequest
from server.context import Context
from server.facades.kit.app import idempotency
from server.facades.kit.body import Json
from server.facades.kit.fields import kept, read_fields
from server.facades.kit.waiting import ended, find_job, submit_job
from server.facades.openai import answers, errors, intake
from server.facades.openai.errors import Refused
from server.facades.openai.models import FORMS, CreateVideo, RemixVideo, nested
from server.facades.openai.query import is_newest_first, limit_of, unknown_after
from server.facades.openai.spritesheet import NoSpritesheet, spritesheet
from server.jobs.job import Job, Status
from server.jobs.jobs import PAGE_WAIT
from server.jobs.order import Order
from server.media.artifact import Artifact
from weights.catalog import published

FACADE = "openai"
POLL_AFTER = {"openai-poll-after-ms": "500"}
PAGE, LONGEST_PAGE = 20, 100
VARIANTS = ("video", "thumbnail", "spritesheet")
REMEMBERED = 1000  # how many deleted videos to remember, as positions in the list


class Videos:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs
        # a program that deletes videos while it lists videos requests the page that follows a deleted video
        self.deleted: OrderedDict[str, Job] = OrderedDict()

    async def create(self, request: Request) -> Response:
        return await self._answer(request, await self._submit(request))

    async def sync(self, request: Request) -> Response:
        done = await ended(request, self.jobs, lambda: self._submit(request), one_shot=True)
        if done.status is not Status.SUCCEEDED or done.video is None:
            return errors.respond(errors.of_job(done))
        headers = {
            "x-request-id": answers.id_of(done),
            "x-model": done.model,
            "x-inference-time-s": f"{done.inference_seconds or 0.0:.3f}",
        }
        content = await run_in_threadpool(self.context.artifacts.read, done.video)
        return Response(content, media_type=done.video.media_type, headers=headers)

    async def _submit(self, request: Request) -> Job:
        fields = nested(await read_fields(request, FORMS))
        given = intake.validated(fields)
        generation = await intake.generation(self.context, given, request.state.owner)
        notes = kept({"notes": intake.notes(self.context, fields, given)}, ["notes"])
        return await self._queue(request, generation, {**kept(fields, CreateVideo.model_fields), **notes})

    async def remix(self, request: Request, video_id: str) -> Response:
        given = RemixVideo.model_validate(nested(await read_fields(request, FORMS)))
        old = await run_in_threadpool(self._find, request, video_id)
        if old.status is not Status.SUCCEEDED:
            raise Refused(400, "Only a completed video can be remixed.", "video_id", "video_not_completed")
        if old.request.image is not None:
            await run_in_threadpool(self.context.intake.again, old.request.image, "video_id")
        # keep `extend` only if the client set it; otherwise the server's present setting decides
        asked = "extend" in old.memo or "extend" in str(old.memo.get("extra_params"))
        extend = old.request.extend if asked else None
        fresh = replace(old.request, prompt=given.prompt, asked_prompt=None, prompt_note=None, extend=extend)
        memo = {**old.memo, "prompt": given.prompt, "remixed_from_video_id": answers.id_of(old)}
        return await self._answer(request, await self._queue(request, fresh, memo))

    async def _queue(self, request: Request, generation: GenerationRequest, memo: dict[str, Any]) -> Job:
        order = Order(FACADE, "videos", request.state.owner, memo, idempotency=idempotency(request))
        return await submit_job(request, self.jobs, generation, order)

    def retrieve(self, request: Request, video_id: str) -> Response:
        job = self._find(request, video_id)
        return Json(self._video(request, job), headers={} if job.status.is_terminal else POLL_AFTER)

    async def list(self, request: Request) -> Response:
        async with self.jobs.pages.turn(request.state.owner, PAGE_WAIT):
            return await run_in_threadpool(self._list, request)

    def _list(self, request: Request) -> Response:
        query = request.query_params
        limit, newest_first, after = limit_of(query, PAGE, LONGEST_PAGE), is_newest_first(query), None
        if last := query.get("after"):
            after = self._known(request, last) or self.deleted.get(f"{request.state.owner} {last}")
            if after is None:
                raise unknown_after(last)
        jobs = self.jobs.page(FACADE, request.state.owner, limit + 1, after, newest_first=newest_first)
        videos = [self._video(request, job) for job in jobs[:limit]]
        return Json(answers.page(videos, has_more=len(jobs) > limit))

    async def content(self, request: Request, video_id: str) -> Response:
        variant = request.query_params.get("variant") or VARIANTS[0]
        if variant not in VARIANTS:
            message = f"Invalid 'variant': must be one of {', '.join(VARIANTS)}, got {variant[:100]!r}"
            raise Refused(400, message, "variant", "invalid_value")
        job = await run_in_threadpool(self._find, request, video_id)
        if job.video is None or job.poster is None:
            why = "is not ready yet, use GET /v1/videos/{video_id} to check its status"
            if job.status.is_terminal:
                why = f"was not made: {errors.of_job(job).message}"
            raise Refused(400, f"The video {why}", "video_id", "video_not_completed")
        try:
            if variant == "spritesheet":
                return Response(await self._spritesheet(request, job, job.video), media_type="image/jpeg")
            asset = job.video if variant == "video" else job.poster
            return await run_in_threadpool(self.context.artifacts.sent, request, asset.key, asset.file_name)
        except FileNotFoundError:
            raise Refused(404, "The files of this video no longer exist.", "video_id", "not_found") from None
        except NoSpritesheet as e:
            return errors.respond(
                errors.Failure(500, f"No spritesheet: {e}", type="server_error", headers=errors.FINAL)
            )

    async def _spritesheet(self, request: Request, job: Job, video: Artifact) -> bytes:
        """Raises NoSpritesheet, QueueFull, FileNotFoundError."""
        frames = (job.plan or {}).get("num_frames", job.request.num_frames) or 1
        inspectors = self.context.inspectors
        async with (
            inspectors.slow_turn(request.state.owner),
            contextmanager_in_threadpool(self.context.artifacts.on_disk(video)) as path,
        ):
            return await spritesheet(path, frames, inspectors)

    def delete(self, request: Request, video_id: str) -> Response:
        job = self._find(request, video_id)
        self.jobs.delete(job)
        nothing = GenerationRequest(prompt="", seed=0)
        self.deleted[f"{request.state.owner} {video_id}"] = replace(job, request=nothing, memo={}, plan=None)
        while len(self.deleted) > REMEMBERED:
            self.deleted.popitem(last=False)
        return Json({"id": video_id, "object": "video.deleted", "deleted": True})

    def models(self) -> Response:
        infos = {info.name: info for info in self.context.served.by_task.values()}
        usual = next(iter(infos.values()), None)
        if usual is not None:  # the names in LISTED_SORA mean this model
            infos |= dict.fromkeys(answers.LISTED_SORA, usual)
        return Json({"object": "list", "data": [answers.model(name, info) for name, info in infos.items()]})

    def model(self, name: str) -> Response:
        infos = list(self.context.served.by_task.values())
        info = answers.named(infos, name)
        if info is None and infos and (answers.SORA.fullmatch(name) or published(name) is not None):
            info = infos[0]
        if info is None:
            message = f"The model '{name[:100]}' does not exist or you do not have access to it."
            raise Refused(404, message, "model", "model_not_found")
        return Json(answers.model(name, info))

    def _known(self, request: Request, video_id: str) -> Job | None:
        job_id = answers.job_id_of(video_id)
        return find_job(request, self.jobs, job_id, FACADE) if job_id else None

    def _find(self, request: Request, video_id: str) -> Job:
        job = self._known(request, video_id)
        if job is None:
            raise Refused(404, f"Video with id '{video_id[:100]}' not found.", "video_id", "not_found")
        return job

    def _video(self, request: Request, job: Job) -> dict[str, Any]:
        return answers.video(self.context, job, self.context.artifacts.base_url(request))

    async def _answer(self, request: Request, job: Job) -> Response:
        return Json(self._video(request, job), headers=POLL_AFTER)
