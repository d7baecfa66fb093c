"""Everything that can go wrong, in Segmind's words: `{"error": text}` and a code. The one place that makes those.

Knows: which code Segmind answers for what. Does not know: who raised it and why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines.request import RequestError
from server.errors import DiskFull, MediaError, NoModel, QueueFull, QuotaExceeded, UploadTooLarge
from server.facades.segmind.models import ImageToVideo
from server.facades.wire import RAISED, BadBody, BodyTooLarge, Json, shown
from server.jobs.job import Job, JobError, Status

FIELDS = {  # GenerationRequest's names -> Segmind's
    "num_frames": "input_frames",
    "num_inference_steps": "steps",
    "fps": "frame_rate",
}
NO_KEY = "Missing Authorization or x-api-key in header"
BAD_KEY = "The API key is invalid or has expired"


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Failure:
    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)


def respond(failure: Failure) -> Json:
    return Json({"error": failure.text}, status_code=failure.status, headers=failure.headers)


KINDS = (Refused, *RAISED)


def of_exception(error: Exception) -> Failure:
    match error:
        case ValidationError():
            return Failure(400, "; ".join(dict.fromkeys(_of_pydantic(dict(one)) for one in error.errors())))
        case Refused():
            return Failure(error.status, error.message)
        case BadBody():
            return Failure(400, f"The body is not valid JSON: {error.message} at character {error.position}")
        case BodyTooLarge():
            return Failure(413, error.message)
        case UploadTooLarge():
            return Failure(413, error.message)
        case MediaError():
            return Failure(400, f"{error.field}: {error.message}")
        case RequestError():
            return Failure(400, f"{FIELDS.get(error.field, error.field)}: {error.message}")
        case NoModel():
            return Failure(404, error.message)
        case QueueFull():
            if isinstance(error, QuotaExceeded) and error.daily:
                return Failure(406, f"Insufficient credits: {error.message}")
            reset = (datetime.now(UTC) + timedelta(seconds=error.retry_after)).isoformat()
            wait = {"x-rate-limit-reset-at-utc": reset, "retry-after": str(math.ceil(error.retry_after))}
            return Failure(429, f"rate_limit_exceeded: {error.message}", wait)
        case ClientDisconnect():  # nobody is there to read this
            return Failure(499, "The caller hung up")
        case HTTPException():
            text = {404: "Not found", 405: "Method not allowed"}.get(error.status_code, str(error.detail))
            return Failure(error.status_code, text, dict(error.headers or {}))
        case DiskFull():
            return Failure(507, error.message)
        case _:
            return Failure(500, "Internal server error")


def of_job(job: Job) -> Failure:
    """Why a job has no video."""
    if job.status is Status.CANCELLED:
        return Failure(500, "The request was cancelled")
    error = job.error or JobError("internal", "The generation failed")
    name = FIELDS.get(error.field or "", error.field)
    code = {"invalid_request": 400, "media_error": 400, "worker_lost": 502}.get(error.code, 500)
    return Failure(code, f"{name}: {error.message}" if name else error.message)


RANGES = {  # one sentence for either side of a range, from the schema itself
    name: (low, high)
    for name, spec in ImageToVideo.model_json_schema()["properties"].items()
    for part in (spec, *spec.get("anyOf", ()))
    if (low := part.get("minimum")) is not None and (high := part.get("maximum")) is not None
}


def _of_pydantic(error: dict[str, Any]) -> str:
    name = "".join(f"[{part}]" if isinstance(part, int) else "" if n else part for n, part in enumerate(error["loc"]))
    given = shown(error["input"])
    match error["type"]:
        case "missing":
            return f"{name} is required"
        case "greater_than_equal" | "less_than_equal":
            low, high = RANGES[name]
            return f"{name} must be between {low:g} and {high:g}, got {given}" if low >= 0 else _seed(high, given)
        case "too_short":
            return f"{name} must hold at least one entry"
        case "too_long":
            return f"{name} must hold at most {error['ctx']['max_length']} entries"
        case "list_type":
            return f"{name} must be a list"
        case "string_too_long":
            return f"{name} must be at most {error['ctx']['max_length']} characters long"
        case "blank" | "unwritable":
            return f"{name} {error['msg']}"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return f"{name} must be an integer{_range(name)}, got {given!r}"
        case "boolean" | "float_type" | "float_parsing" | "finite_number":
            return f"{name} must be a number{_range(name)}, got {given!r}"
        case "bool_type" | "bool_parsing":
            return f"{name} must be true or false, got {given!r}"
        case "string_unicode":
            return f"{name} must be plain text"
        case "string_type" | "bytes_type":
            return f"{name} must be a string"
        case _:
            return f"{name}: {error['msg']}"


def _range(name: str) -> str:
    return f" between {RANGES[name][0]:.16g} and {RANGES[name][1]:.16g}" if name in RANGES else ""


def _seed(high: float, given: Any) -> str:
    return f"seed must be between 0 and {high:.16g}, or -1 for a random one, got {given}"
