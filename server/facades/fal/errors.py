"""Everything that can go wrong, in fal's words: the one place where errors become fal's answers.

Knows: fal's two error shapes (a list for the model's own errors, a text for the infrastructure's), types and codes.
Does not know: who raised them and why.

NOTE: fal's clients send a request again after 408, 409, 429, 502, 503 and 504, so no lasting refusal may use those.
"""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines.request import RequestError
from server.errors import IDEMPOTENCY_KEY, DiskFull, MediaError, NoModel, QueueFull, UploadTooLarge
from server.facades.wire import BadBody, BodyTooLarge, Json, shown
from server.jobs.job import Job, JobError, Status
from server.media.uploads import UploadBroken

MOST = 50  # entries in one answer
LONGEST = 500  # characters of a message
SMALL = 8192  # characters of an answer that is kept in the job table
FIELDS = {  # GenerationRequest's names -> fal's
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "image": "image_url",
    "video": "video_url",
    "image_url": "image_url",
    "video_url": "video_url",
    "width": "video_size",
    "height": "video_size",
    "size": "video_size",
    "fps": "export_fps",
    "interpolate_fps": "export_fps",
    "num_inference_steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "strength": "strength",
    "seed": "seed",
    "loras": "loras",
}


class Refused(Exception):
    """A value fal's schema allows and this server does not; `where` is the path to it inside the body."""

    def __init__(self, type_: str, message: str, *where: str | int, ctx: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.type = type_
        self.message = message
        self.where = where
        self.ctx = ctx


class Rejected(Exception):
    """What is turned away before any model would see it: a header, a query parameter, an address."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Failure:
    """One answer of fal's that is no success."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def error_type(self) -> str:
        detail = self.body["detail"]
        return str(detail[0]["type"]) if isinstance(detail, list) else str(self.body.get("error_type", "bad_request"))

    @property
    def sentence(self) -> str:
        detail = self.body["detail"]
        if not isinstance(detail, list):
            return str(detail)
        first = detail[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return f"{where}: {first['msg']}" if where else str(first["msg"])


def respond(failure: Failure, request_id: str | None = None) -> Json:
    headers = {"x-fal-request-id": request_id or str(uuid.uuid4()), **failure.headers}
    return Json(failure.body, status_code=failure.status, headers=headers)


def infrastructure(status: int, text: str, error_type: str | None = None, **headers: str) -> Failure:
    """`message` is there for the JS client, which shows that or the bare reason phrase of the code."""
    body = {"detail": text, "message": text}
    if error_type is None:
        return Failure(status, body, headers)
    return Failure(status, {**body, "error_type": error_type}, {"x-fal-error-type": error_type, **headers})


def small(failure: Failure) -> dict[str, Any]:
    """The body as it is kept in the job table: the first entries, as many as fit."""
    detail = failure.body["detail"]
    if isinstance(detail, list):
        while len(detail) > 1 and len(json.dumps(detail)) > SMALL:
            detail = detail[: len(detail) // 2]
    return {**failure.body, "detail": detail}


def listed(*entries: dict[str, Any], status: int = 422) -> Failure:
    again = {"x-fal-retryable": "false", "x-fal-needs-retry": "false", "x-fal-billable-units": "0"}
    return Failure(status, {"detail": list(entries[:MOST])}, again)


def entry(type_: str, message: str, *where: str | int, **more: Any) -> dict[str, Any]:
    text = message if len(message) <= LONGEST else f"{message[:LONGEST]}…"
    found = {"loc": ["body", *where], "msg": text, "type": type_, "url": f"https://docs.fal.ai/errors#{type_}"}
    return {**found, **{name: value for name, value in more.items() if value is not None}}


def of_exception(error: Exception) -> Failure:
    match error:
        case ValidationError():
            return listed(*(_of_pydantic(dict(one)) for one in error.errors(include_url=False)))
        case Refused():
            return listed(entry(error.type, error.message, *error.where, ctx=error.ctx))
        case BadBody():
            return listed(entry("json_invalid", "JSON decode error", error.position, ctx={"error": error.message}))
        case MediaError():
            return listed(entry(error.code, error.message, *_where(error.field), ctx=error.extra or None))
        case RequestError() if is_about_a_header(error):
            return infrastructure(400, f"The header {error}", "bad_request")
        case RequestError():
            return listed(entry("value_error", error.message, *_where(error.field)))
        case NoModel():
            return listed(entry("feature_not_supported", error.message))
        case BodyTooLarge() | UploadTooLarge():
            return infrastructure(413, error.message, "bad_request")
        case Rejected():
            return infrastructure(error.status, error.message, "bad_request")
        case UploadBroken():
            return infrastructure(400, error.message, "bad_request")
        case QueueFull():
            wait = {"retry-after": str(math.ceil(error.retry_after))}
            return infrastructure(429, error.message, "concurrent_requests_limit", **wait)
        case ClientDisconnect():  # nobody is there to read this
            return infrastructure(499, "The caller hung up", "client_disconnected")
        case DiskFull():
            return infrastructure(507, error.message, "internal_error")
        case HTTPException():
            busy = "runner_disconnected" if error.status_code == 503 else None
            return infrastructure(error.status_code, str(error.detail), busy)
        case _:
            return infrastructure(500, "Internal Server Error", "internal_error")


REFUSALS = (ValidationError, Refused, BadBody, MediaError, RequestError, NoModel)  # fal's runner would find these
TURNED_AWAY = (Rejected, BodyTooLarge, QueueFull, DiskFull, UploadTooLarge, UploadBroken)  # and its gateway these


def is_about_a_header(error: Exception) -> bool:
    return isinstance(error, RequestError) and error.field == IDEMPOTENCY_KEY


def _of_pydantic(error: dict[str, Any]) -> dict[str, Any]:
    given = None if error["type"] == "missing" else shown(error["input"])
    kind = "sequence_too_long" if (error["type"], error["loc"]) == ("too_long", ("loras",)) else error["type"]
    return entry(kind, error["msg"], *error["loc"], ctx=error.get("ctx"), input=given)


def _where(name: str | None) -> tuple[str, ...]:
    return (FIELDS[name],) if name in FIELDS else ()


def of_job(job: Job) -> Failure:
    """What the result address answers for a job that failed or was cancelled."""
    if job.status is Status.CANCELLED:
        if missed_start(job):
            text = "The request did not start within the time its caller allowed"
            return infrastructure(504, text, "request_timeout", **{"x-fal-request-timeout-type": "user"})
        return infrastructure(499, "Request was cancelled", "client_cancelled")
    error = job.error or JobError("internal", "The generation failed")
    if error.detail is not None:
        return Failure(422, error.detail, listed().headers)
    match error.code:
        case "invalid_request":
            return listed(entry("value_error", error.message, *_where(error.field)))
        case "media_error":
            clip = error.field in ("video", "video_url")
            kind = "unsupported_video_format" if clip else "image_load_error"
            return listed(entry(kind, error.message, *_where(error.field)))
        case "bad_output":
            return listed(entry("no_media_generated", error.message))
        case "worker_lost":
            return infrastructure(500, error.message, "runner_disconnected")
        case _:
            return listed(entry("internal_server_error", error.message), status=500)


def start_deadline(job: Job) -> float | None:
    """Unix seconds by which the caller wanted the work to have begun."""
    if job.start_by is not None:
        return job.start_by
    seconds = job.memo.get("x-fal-request-timeout")
    return job.created_at + seconds if isinstance(seconds, int | float) else None


def missed_start(job: Job) -> bool:
    deadline, finished = start_deadline(job), job.finished_at
    return deadline is not None and finished is not None and job.attempt == 0 and finished >= deadline
