"""ModelsLab's calls: generations that wait for a while, fetch, uploads, the video files."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from server.auth import Unauthorized
from server.context import Context
from server.facades.kit.app import idempotency
from server.facades.kit.body import Json, collected
from server.facades.kit.complaints import shown
from server.facades.kit.errors import Refused
from server.facades.kit.fields import kept, members, unknown
from server.facades.kit.json_bodies import parsed
from server.facades.kit.waiting import ended_within, find_job, submit_job
from server.facades.modelslab import answers, errors, keyed
from server.facades.modelslab.intake import generation, limited, picture_of
from server.facades.modelslab.models import (
    Given,
    ImageToVideo,
    ImageToVideoUltra,
    TextToVideo,
    TextToVideoFusion,
    TextToVideoUltra,
    present,
)
from server.facades.modelslab.uploads import decoded
from server.jobs.job import Job, Webhook
from server.jobs.jobs import Jobs
from server.jobs.order import Order
from server.limits.bodies import MAX_BODY, Bodies
from server.limits.steps import in_turn
from server.media.artifact import Artifact
from server.media.uploads import chunks_of

FACADE = "modelslab"
HOLD_SECONDS = 20.0  # how long a call may block; the vendor's async SDK times out after 60 seconds
TEMP_SECONDS = 86_400.0
UPLOAD_FIELDS = ("base64_string", "init_obj")
UNKNOWN = {"status": "failed", "id": "", "output": "", "tip": "Check the id, and that it was made with this key"}
VIDEO = re.compile(r"(?:^|/)generations/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(mp4|gif)$")


@dataclass(frozen=True)
class Kind:
    """A kind of generation. `name`: as in ModelsLab's v6."""

    name: str
    input: type[Given]


T2V = Kind("text2video", TextToVideo)
T2V_FUSION = Kind("text2video", TextToVideoFusion)
I2V = Kind("img2video", ImageToVideo)
T2V_ULTRA = Kind("text2video_ultra", TextToVideoUltra)
I2V_ULTRA = Kind("img2video_ultra", ImageToVideoUltra)


class ModelsLab:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.jobs = context.jobs
        self.strangers = Bodies(keyed.STRANGERS, MAX_BODY)
        self.folder = context.data.uploads

    async def generate(self, request: Request, kind: Kind) -> Response:
        until = time.monotonic() + HOLD_SECONDS
        fields, owner = await self._fields(request)
        try:
            given, notes = limited(kind.input.model_validate(present(fields)))
        except ValidationError as e:
            raise errors.invalid(e, kind.input.MOST) from None
        base = self.context.artifacts.base_url(request)
        source = picture_of(given)
        image = None
        if source is not None:
            image = await self.context.intake.picture(source, "init_image", owner=owner)
        wanted, more = generation(given, image)
        order = Order(
            FACADE,
            kind.name,
            owner,
            {**_told(given), "notes": [*notes, *more, *unknown(present(fields), kind.input.model_fields)]},
            keep_seconds=TEMP_SECONDS if given.temp else None,
            webhook=None if given.webhook is None else Webhook(given.webhook, base),
            idempotency=idempotency(request),
        )
        job = await submit_job(request, self.jobs, wanted, order)
        if not given.instant_response:
            job = await ended_within(request, self.jobs, job, until - time.monotonic())
        room = request.scope["path"].rpartition("/")[0]
        return await self._answer(job, base, f"{base}{room}/fetch/{job.number}")

    async def fetch(self, request: Request) -> Response:
        """The id of the job is in the path, the query or the body."""
        fields, _ = await self._fields(request)
        given = request.path_params.get("request_id") or request.query_params.get("request_id")
        if given is None:
            given = fields.get("request_id")
        if given is None or given == "":
            raise Refused(errors.Failure(400, "request_id is required"))
        number = _number(given)
        job = None if number is None else await run_in_threadpool(find_job, request, self.jobs, number, FACADE)
        if job is None:
            raise Refused(errors.Failure(404, "Request not found", UNKNOWN))
        return await self._answer(job, self.context.artifacts.base_url(request))

    async def _answer(self, job: Job, base: str, fetch_url: str | None = None) -> Response:
        if job.status.is_terminal:
            return Json(answers.of_job(job, base, 0))
        position = await run_in_threadpool(self.jobs.position, job)
        expected = await run_in_threadpool(self.jobs.expected, job)
        return Json(answers.of_job(job, base, position, expected, fetch_url))

    async def upload(self, request: Request) -> Response:
        fields, owner = await self._fields(request)
        given = present(fields)
        name = next((name for name in UPLOAD_FIELDS if name in given), UPLOAD_FIELDS[0])
        if not isinstance(given.get(name), str):
            wrong = "must be a string" if name in given else "is required"
            raise Refused(errors.Failure(400, f"{name} {wrong}"))
        try:
            pieces, media_type = await in_turn(owner, len(given[name]), decoded, given[name])
        except ValueError as e:
            raise Refused(errors.Failure(400, f"{name}: {e}")) from None
        artifact = await self.context.uploads.store(chunks_of(pieces), "upload", media_type, owner=owner)
        url = self.context.artifacts.url(artifact, self.context.artifacts.base_url(request))
        return Json({"status": "success", "message": "File uploaded", "link": url, "output": [url]})

    def video(self, request: Request) -> Response:
        """Returns the video at the URL that was announced for the job. This call needs no key."""
        job = _video_at(self.jobs, request.scope["path"])
        if job is None or job.video is None or self.context.artifacts.find(job.video.key) is None:
            if job is not None and not job.status.is_terminal:
                later = {"tip": "Look again later"}
                raise Refused(errors.Failure(404, "The video is not finished yet", later, plain=True))
            raise Refused(errors.Failure(404, "There is no such video", plain=True))
        return self.context.artifacts.respond(request, job.video.key, job.video.file_name)

    async def _fields(self, request: Request) -> tuple[dict[str, Any], str]:
        """Returns the fields of the JSON body, and the owner of the request's key. The body may have any
        Content-Type."""
        identify = partial(self.context.keys.identify, request.headers)
        owner: str | None = None
        with contextlib.suppress(Unauthorized):
            owner = identify(request.headers.get("key"))
        if owner is None:
            with self.context.uploads.room.growing("", again=True) as grow:
                body, owner = await keyed.read(request, self.strangers, self.folder, identify, grow)
        else:
            body = await collected(request, request.stream(), owner=owner)
        fields = members(await parsed(body, owner or ""))
        key = fields.get("key", request.headers.get("key"))
        if owner is None:
            owner = identify(key if isinstance(key, str) else None)
        request.state.owner = owner  # for the log
        return fields, owner


def file_of(context: Context, path: str) -> Artifact | None:
    """The video at `path`, a URL path of this API."""
    job = _video_at(context.jobs, path)
    return None if job is None or job.video is None else context.artifacts.find(job.video.key)


def _video_at(jobs: Jobs, path: str) -> Job | None:
    found = VIDEO.search(path)
    if found is None:
        return None
    job = jobs.get(found[1])  # NOTE: the id is the permission, so any owner's job is found
    if job is None or job.facade != FACADE or job.request.output_format != found[2]:
        return None
    return job


def _told(given: Given) -> dict[str, Any]:
    """The part of a body to store and to show in `meta`; an embedded image is abbreviated to its beginning."""
    values = given.model_dump(exclude={"key", "webhook"})
    if (source := picture_of(given)) is not None and not source.startswith(("http:", "https:")):
        values["init_image"] = shown(source)
    return kept(values, values)


def _number(value: Any) -> int | None:
    """A job's number as sent by a client; None if the number is invalid."""
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None
