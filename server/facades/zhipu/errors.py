"""Zhipu's errors: `{"error": {"code", "message"}}`, where the code is text; 302.AI's errors have two more fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from server.context import Context
from server.errors import MediaError, QueueFull, QuotaExceeded, RateLimited
from server.facades.kit import complaints
from server.facades.kit.body import Json
from server.facades.kit.errors import Answers, Failure, named, reason, retry_after
from server.jobs.job import Job, Status

FIELDS = {  # GenerationRequest's names -> Zhipu's
    "num_frames": "duration",
    "interpolate_fps": "fps",
    "num_inference_steps": "quality",
    "width": "size",
    "height": "size",
    "image": "image_url",
}
RELAYED = ("/302", "/zhipu")  # the path prefixes of 302.AI's clients
NO_RETRY = {"x-should-retry": "false"}  # otherwise the SDKs zhipuai and zai-sdk retry three times after 429 or 5xx
BAD_BODY, NO_SUCH_MODEL, MISSING, INVALID, TOO_LARGE, NO_SUCH_ADDRESS = "1210", "1211", "1213", "1214", "1220", "1222"
REPEATED, PROMPT_TOO_LONG = "1231", "1261"
CONCURRENCY, FREQUENCY, DAILY, OVERLOAD = "1302", "1303", "1304", "1305"
INTERNAL = "500"
GATEWAY_CODES = {"1001": -10001, NO_SUCH_MODEL: -10008}
KEYS = {
    "missing": ("1001", "no API key came with the request: send it as Authorization: Bearer"),
    "unknown": ("1002", "the API key or token is not valid"),
    "expired": ("1003", "the token has expired"),
}
KINDS_OF_FIELD = {
    "missing": MISSING,
    "nothing_asked": MISSING,
    "no_such_model": NO_SUCH_MODEL,
    "prompt_too_long": PROMPT_TOO_LONG,
}


def respond(failure: Failure, path: str) -> Json:
    error: dict[str, Any] = {"code": failure.code, "message": failure.text}
    if path.startswith(tuple(f"{prefix}/" for prefix in RELAYED)):
        error = unified(error, failure.status)
    return Json({"error": error}, status_code=failure.status, headers=failure.headers)


def unified(error: dict[str, Any], status: int) -> dict[str, Any]:
    """Zhipu's error with the additional fields of 302.AI's gateway."""
    otherwise = -10002 if status == 401 else -10003 if status >= 500 else -99
    own = GATEWAY_CODES.get(str(error["code"]), otherwise)
    return {**error, "err_code": own, "type": "unauthorized" if status == 401 else "api_error"}


def refuse(context: Context, request: Request, error: Exception) -> Json:
    path = request.scope["path"]
    failure = ANSWERS.to(error)
    match error:
        case HTTPException(status_code=404):
            failure = Failure(404, f"no such address: {request.method} {path[:200]}", NO_SUCH_ADDRESS, failure.headers)
        case HTTPException(status_code=405):
            text = f"{request.method} is not possible here: {path[:200]}"
            failure = Failure(405, text, NO_SUCH_ADDRESS, failure.headers)
    return respond(failure, path)


def of_job(job: Job) -> dict[str, Any]:
    """Why a job has no video."""
    if job.status is Status.CANCELLED:
        return {"code": INTERNAL, "message": "the task was cancelled"}
    error = reason(job)
    code = INVALID if error.code in ("invalid_request", "media_error") else INTERNAL
    return {"code": code, "message": named(error, FIELDS)}


def _of_fields(error: ValidationError) -> Failure:
    code = KINDS_OF_FIELD.get(error.errors()[0]["type"], INVALID)
    return Failure(400, complaints.complaints(error, _of_field), code)


def _of_field(error: Mapping[str, Any]) -> str:
    if not error["loc"]:
        return str(error["msg"])
    return complaints.complaint(error, str(error["loc"][0]), WORDS, RANGES)


WORDS = {
    **complaints.WORDS,
    "integer": "{name} must be{range}, got {given!r}",
    "literal_error": "{name} must be speed or quality, got {given!r}",
    "too_long": "{name} must have at most {max_length} entries",
    "too_short": "{name} must have an entry",
    "string_unicode": "{name} must be a string",
    complaints.OTHER: "{name} {msg}",
}
RANGES = {"fps": " 30 or 60", "duration": " 5 or 10"}


def _of_media(error: MediaError) -> Failure:
    status, code = (435, TOO_LARGE) if error.code == "file_too_large" else (400, INVALID)
    return Failure(status, named(error), code)


def _of_queue(error: QueueFull) -> Failure:
    code = OVERLOAD
    if isinstance(error, QuotaExceeded):
        code = DAILY if error.daily else CONCURRENCY
    elif isinstance(error, RateLimited):
        code = FREQUENCY
    return Failure(429, error.message, code, NO_RETRY | retry_after(error))


def _of_http(error: HTTPException) -> Failure:
    code = OVERLOAD if error.status_code == 503 else BAD_BODY
    return Failure(error.status_code, str(error.detail), code, dict(error.headers or {}))


ANSWERS = Answers(
    no_key=lambda e: Failure(401, KEYS[e.reason][1], KEYS[e.reason][0]),
    invalid=_of_fields,
    bad_json=lambda e: Failure(400, f"the body is not valid JSON: {e.message} at character {e.position}", BAD_BODY),
    not_an_object=lambda e: Failure(400, "the body must be a JSON object", BAD_BODY),
    too_large=lambda e: Failure(435, e.message, TOO_LARGE),
    bad_media=_of_media,
    bad_request=lambda e: Failure(400, named(e, FIELDS), INVALID),
    no_model=lambda e: Failure(400, e.message, NO_SUCH_MODEL),
    bad_upload=lambda e: Failure(400, e.message, INVALID),
    queue_full=_of_queue,
    disk_full=lambda e: Failure(507, e.message, INTERNAL, NO_RETRY),
    hung_up=lambda e: Failure(499, "the caller hung up", INTERNAL),
    http=_of_http,
    crashed=lambda e: Failure(500, "internal server error", INTERNAL),
)
