"""Everything that can go wrong, in Segmind's words: `{"error": text}` and a code. The one place that makes those.

Knows: which code Segmind answers for what. Does not know: who raised it and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from pipelines.request import RequestError
from server.auth import Unauthorized
from server.context import Context
from server.errors import DiskFull, MediaError, NoModel, QueueFull, QuotaExceeded, UploadTooLarge
from server.facades import routes
from server.facades.kit import complaints
from server.facades.kit.body import Json
from server.facades.kit.errors import (
    HUNG_UP,
    BadForm,
    Failure,
    NotAnObject,
    Refused,
    Table,
    answer,
    http_text,
    named,
    not_json,
    reason,
    retry_after,
)
from server.facades.kit.json_bodies import BadBody
from server.facades.segmind.models import SEED_LIMIT, SLUGS, ImageToVideo
from server.jobs.job import Job, Status
from server.limits.bodies import BodyTooLarge

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
    return respond(answer(TABLE, error))


def of_job(job: Job) -> Failure:
    """Why a job has no video."""
    if job.status is Status.CANCELLED:
        return Failure(500, "The request was cancelled")
    error = reason(job)
    code = {"invalid_request": 400, "media_error": 400, "worker_lost": 502}.get(error.code, 500)
    return Failure(code, named(error, FIELDS))


def _of_queue(error: QueueFull) -> Failure:
    reset = (datetime.now(UTC) + timedelta(seconds=error.retry_after)).isoformat()
    wait = {"x-rate-limit-reset-at-utc": reset, **retry_after(error)}
    return Failure(429, f"rate_limit_exceeded: {error.message}", headers=wait)


def _of_quota(error: QuotaExceeded) -> Failure:
    return Failure(406, f"Insufficient credits: {error.message}") if error.daily else _of_queue(error)


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


TABLE: Table[Failure] = {
    Refused: lambda e: e.failure,
    Unauthorized: lambda e: Failure(401, NO_KEY if e.reason == "missing" else BAD_KEY),
    ValidationError: lambda e: Failure(400, complaints.complaints(e, _of_field)),
    BadBody: lambda e: Failure(400, not_json(e)),
    BadForm: lambda e: Failure(400, f"The multipart body cannot be read: {e.detail}"),
    NotAnObject: lambda e: Failure(400, e.message),
    BodyTooLarge: lambda e: Failure(413, e.message),
    UploadTooLarge: lambda e: Failure(413, e.message),
    MediaError: lambda e: Failure(400, named(e, {})),
    RequestError: lambda e: Failure(400, named(e, FIELDS)),
    NoModel: lambda e: Failure(404, e.message),
    QuotaExceeded: _of_quota,
    QueueFull: _of_queue,
    DiskFull: lambda e: Failure(507, e.message),
    ClientDisconnect: lambda e: Failure(499, HUNG_UP),
    HTTPException: lambda e: Failure(e.status_code, http_text(e), headers=dict(e.headers or {})),
    Exception: lambda e: Failure(500, "Internal server error"),
}
