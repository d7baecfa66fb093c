"""Segmind's errors: `{"error": text}` and a status."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from server.context import Context
from server.errors import QueueFull, QuotaExceeded
from server.facades import routes
from server.facades.kit import complaints
from server.facades.kit.body import Json
from server.facades.kit.errors import (
    HUNG_UP,
    Answers,
    BadForm,
    Failure,
    http_text,
    named,
    not_json,
    reason,
    retry_after,
)
from server.facades.segmind.models import SEED_LIMIT, SLUGS, ImageToVideo
from server.jobs.job import Job, Status

FIELDS = {  # GenerationRequest's names -> Segmind's
    "num_frames": "input_frames",
    "num_inference_steps": "steps",
    "fps": "frame_rate",
}
NO_KEY = "Missing Authorization or x-api-key in header"
BAD_KEY = "The API key is invalid or has expired"


def respond(failure: Failure) -> Json:
    return Json({"error": failure.text}, status_code=failure.status, headers=failure.headers)


def refuse(context: Context, request: Request, error: Exception) -> Json:
    first, _, name = request.scope["path"].rpartition("/")
    is_model = first.endswith(("/v1", "/v2")) and name not in routes.RESERVED
    if is_model and isinstance(error, HTTPException) and error.status_code == 404:
        return respond(Failure(404, f"Model {name[:100]} not found; this server has {', '.join(SLUGS)}"))
    return respond(ANSWERS.to(error))


def of_job(job: Job) -> Failure:
    """Why a job has no video."""
    if job.status is Status.CANCELLED:
        return Failure(500, "The request was cancelled")
    error = reason(job)
    code = {"invalid_request": 400, "media_error": 400, "worker_lost": 502}.get(error.code, 500)
    return Failure(code, named(error, FIELDS))


def _of_queue(error: QueueFull) -> Failure:
    if isinstance(error, QuotaExceeded) and error.daily:
        return Failure(406, f"Insufficient credits: {error.message}")
    reset = (datetime.now(UTC) + timedelta(seconds=error.retry_after)).isoformat()
    wait = {"x-rate-limit-reset-at-utc": reset, **retry_after(error)}
    return Failure(429, f"rate_limit_exceeded: {error.message}", headers=wait)


def _of_http(error: HTTPException) -> Failure:
    unread = "The multipart body cannot be read: " if isinstance(error, BadForm) else ""
    return Failure(error.status_code, unread + http_text(error), headers=dict(error.headers or {}))


WORDS = {
    **complaints.WORDS,
    "integer": "{name} must be an integer{range}, got {given!r}",
    "number": "{name} must be a number{range}, got {given!r}",
    "too_short": "{name} must hold at least one entry",
    "too_long": "{name} must hold at most {max_length} entries",
}
RANGES = {name: complaints.between(*ends) for name, ends in complaints.ranges(ImageToVideo).items()}
SEED_WORDS = {**WORDS, "range": f"{{name}} must be between 0 and {SEED_LIMIT}, or -1 for a random one, got {{given}}"}


def _of_field(error: Mapping[str, Any]) -> str:
    name = "".join(f"[{part}]" if isinstance(part, int) else "" if n else part for n, part in enumerate(error["loc"]))
    return complaints.complaint(error, name, SEED_WORDS if name == "seed" else WORDS, RANGES)


ANSWERS = Answers(
    no_key=lambda e: Failure(401, NO_KEY if e.reason == "missing" else BAD_KEY),
    invalid=lambda e: Failure(400, complaints.complaints(e, _of_field)),
    bad_json=lambda e: Failure(400, not_json(e)),
    not_an_object=lambda e: Failure(400, e.message),
    too_large=lambda e: Failure(413, e.message),
    bad_media=lambda e: Failure(400, named(e)),
    bad_request=lambda e: Failure(400, named(e, FIELDS)),
    no_model=lambda e: Failure(404, e.message),
    bad_upload=lambda e: Failure(400, e.message),
    queue_full=_of_queue,
    disk_full=lambda e: Failure(507, e.message),
    hung_up=lambda e: Failure(499, HUNG_UP),
    http=_of_http,
    crashed=lambda e: Failure(500, "Internal server error"),
)
