"""Everything that can go wrong, in Zhipu's words: `{"error": {"code", "message"}}`, the code being text. The one place
that makes those.

Knows: which status and code fit what, and what 302.AI adds. Does not know: who raised it and why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines.request import RequestError
from server.auth import Unauthorized
from server.errors import DiskFull, MediaError, NoModel, QueueFull, QuotaExceeded, RateLimited
from server.facades.wire import RAISED, BadBody, BodyTooLarge, Json, shown
from server.jobs.job import Job, JobError, Status

FIELDS = {  # GenerationRequest's names -> Zhipu's
    "num_frames": "duration",
    "interpolate_fps": "fps",
    "num_inference_steps": "quality",
    "width": "size",
    "height": "size",
    "image": "image_url",
}
RELAYED = ("/302", "/zhipu")  # where 302.AI's clients ask
NO_RETRY = {"x-should-retry": "false"}  # both SDKs repeat a 429 or 5xx three times unless told so
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


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Failure:
    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)


def respond(failure: Failure, path: str) -> Json:
    error: dict[str, Any] = {"code": failure.code, "message": failure.message}
    if path.startswith(tuple(f"{prefix}/" for prefix in RELAYED)):
        error = unified(error, failure.status)
    return Json({"error": error}, status_code=failure.status, headers=failure.headers)


def unified(error: dict[str, Any], status: int) -> dict[str, Any]:
    """Zhipu's error with what the errors of 302.AI's own gateway have."""
    otherwise = -10002 if status == 401 else -10003 if status >= 500 else -99
    own = GATEWAY_CODES.get(str(error["code"]), otherwise)
    return {**error, "err_code": own, "type": "unauthorized" if status == 401 else "api_error"}


KINDS = (Refused, *RAISED)


def of_exception(error: Exception, method: str, path: str) -> Failure:
    match error:
        case ValidationError():
            found: list[dict[str, Any]] = [dict(one) for one in error.errors()]
            text = "; ".join(dict.fromkeys(_of_pydantic(one) for one in found))
            return Failure(400, KINDS_OF_FIELD.get(found[0]["type"], INVALID), text)
        case Refused():
            return Failure(error.status, error.code, error.message)
        case Unauthorized():
            return Failure(401, *KEYS[error.reason])
        case BadBody():
            text = f"the body is not valid JSON: {error.message} at character {error.position}"
            return Failure(400, BAD_BODY, text)
        case BodyTooLarge():
            return Failure(435, TOO_LARGE, error.message)
        case MediaError():
            status, code = (435, TOO_LARGE) if error.code == "file_too_large" else (400, INVALID)
            return Failure(status, code, f"{error.field}: {error.message}")
        case RequestError():
            return Failure(400, INVALID, f"{FIELDS.get(error.field, error.field)}: {error.message}")
        case NoModel():
            return Failure(400, NO_SUCH_MODEL, error.message)
        case QueueFull():
            code = OVERLOAD
            if isinstance(error, QuotaExceeded):
                code = DAILY if error.daily else CONCURRENCY
            elif isinstance(error, RateLimited):
                code = FREQUENCY
            wait = {"retry-after": str(math.ceil(error.retry_after))}
            return Failure(429, code, error.message, NO_RETRY | wait)
        case DiskFull():
            return Failure(507, INTERNAL, error.message, NO_RETRY)
        case ClientDisconnect():  # nobody is there to read this
            return Failure(499, INTERNAL, "the caller hung up")
        case HTTPException():
            return _of_http(error, method, path)
        case _:
            return Failure(500, INTERNAL, "internal server error")


def _of_http(error: HTTPException, method: str, path: str) -> Failure:
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            return Failure(404, NO_SUCH_ADDRESS, f"no such address: {method} {path[:200]}", headers)
        case 405:
            return Failure(405, NO_SUCH_ADDRESS, f"{method} is not possible here: {path[:200]}", headers)
        case 503:
            return Failure(503, OVERLOAD, str(error.detail), headers)
        case status:
            return Failure(status, BAD_BODY, str(error.detail), headers)


def of_job(job: Job) -> dict[str, Any]:
    """Why a job has no film."""
    if job.status is Status.CANCELLED:
        return {"code": INTERNAL, "message": "the task was cancelled"}
    error = job.error or JobError("internal", "the generation failed")
    name = FIELDS.get(error.field or "", error.field)
    code = INVALID if error.code in ("invalid_request", "media_error") else INTERNAL
    return {"code": code, "message": f"{name}: {error.message}" if name else error.message}


def _of_pydantic(error: dict[str, Any]) -> str:
    if not error["loc"]:
        return str(error["msg"])
    name = str(error["loc"][0])
    given = shown(error["input"])
    limits = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return f"{name} is required"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return f"{name} must be {RANGES.get(name, 'an integer')}, got {given!r}"
        case "bool_type" | "bool_parsing":
            return f"{name} must be true or false, got {given!r}"
        case "literal_error":
            return f"{name} must be speed or quality, got {given!r}"
        case "string_too_long":
            return f"{name} must be at most {limits['max_length']} characters long"
        case "string_too_short":
            return f"{name} must be at least {limits['min_length']} characters long"
        case "too_long":
            return f"{name} must have at most {limits['max_length']} entries"
        case "too_short":
            return f"{name} must have an entry"
        case "string_type" | "string_unicode" | "bytes_type":
            return f"{name} must be a string"
        case "list_type":
            return f"{name} must be a list"
        case _:
            return f"{name} {error['msg']}"


RANGES = {"fps": "30 or 60", "duration": "5 or 10"}
