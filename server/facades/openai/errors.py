"""Everything that can go wrong, in OpenAI's words: `{"error": {message, type, param, code}}`. The one place for that.

Knows: OpenAI's codes and types. Does not know: who raised it and why.

NOTE: its clients send a request again after 408, 409, 429 and all from 500 on, unless told not to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from pipelines.request import RequestError
from server.auth import Unauthorized
from server.context import Context
from server.errors import DiskFull, MediaError, NoModel, QueueFull, UploadTooLarge
from server.facades.kit import errors as kit
from server.facades.kit.body import Json
from server.facades.kit.complaints import shown
from server.facades.kit.json_bodies import BadBody
from server.facades.openai.models import Adapter, CreateVideo, ExpiresAfter
from server.jobs.job import Job, JobError, Status
from server.limits.bodies import BodyTooLarge

INVALID = "invalid_request_error"
FINAL = {"x-should-retry": "false"}
FIELDS = {"image": "input_reference", "duration": "seconds", "loras": "lora"}  # GenerationRequest's names -> OpenAI's
NO_KEY = "You didn't provide an API key: send it as 'Authorization: Bearer YOUR_API_KEY'."
BAD_KEY = "Incorrect API key provided."


@dataclass(frozen=True)
class Failure:
    status: int
    message: str
    param: str | None = None
    code: str | None = None
    type: str = INVALID
    headers: dict[str, str] = field(default_factory=dict)


class Refused(kit.Refused):
    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(Failure(status, message, param, code))


def respond(failure: Failure) -> Json:
    error = {"message": failure.message, "type": failure.type, "param": failure.param, "code": failure.code}
    return Json({"error": error}, status_code=failure.status, headers=failure.headers)


def refuse(context: Context, request: Request, error: Exception) -> Json:
    """404 for a wrong method too: editing, extending and characters are calls of OpenAI's that are not served."""
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        what = f"{request.method} {request.scope['path'][:200]}"
        text = f"Invalid URL ({what}): this server makes videos only, with POST /v1/videos"
        return respond(Failure(404, text, code="unknown_url"))
    return respond(of_exception(error))


def of_exception(error: Exception) -> Failure:
    match error:
        case ValidationError():
            return _of_pydantic(dict(error.errors()[0]))
        case Refused():
            failure: Failure = error.failure
            return failure
        case Unauthorized():
            return Failure(401, NO_KEY if error.reason == "missing" else BAD_KEY, code="invalid_api_key")
        case BadBody():
            where = f" at character {error.position}" if error.position else ""
            return Failure(400, f"The body is not valid JSON: {error.message}{where}", code="invalid_json")
        case BodyTooLarge() | UploadTooLarge():
            return Failure(413, error.message, code="request_too_large")
        case MediaError():
            return Failure(400, f"Invalid '{error.field}': {error.message}", error.field, error.code)
        case RequestError():
            return _of_request(error.field, error.message)
        case NoModel():
            return Failure(400, error.message, "model", "model_not_found")
        case QueueFull():
            wait = {"retry-after": str(math.ceil(error.retry_after))}  # its clients give up on more than a minute
            text = f"Rate limit reached: {error.message}"
            return Failure(429, text, None, "rate_limit_exceeded", "rate_limit_error", wait)
        case ClientDisconnect():  # nobody is there to read this
            return Failure(499, "The caller hung up")
        case HTTPException():
            return _of_http(error)
        case DiskFull():
            return Failure(507, error.message, None, "disk_full", "server_error")
        case _:
            return Failure(500, "The server had an error while processing your request.", type="server_error")


def _of_http(error: HTTPException) -> Failure:
    headers = dict(error.headers or {})
    if error.status_code >= 500:
        return Failure(error.status_code, str(error.detail), type="server_error", headers=headers)
    code = "method_not_allowed" if error.status_code == 405 else None
    return Failure(error.status_code, str(error.detail), code=code, headers=headers)


def of_job(job: Job) -> Failure:
    """Why a job has no video, for the caller who waited for it."""
    if job.status is Status.CANCELLED:
        return Failure(500, "The video was cancelled", None, "cancelled", "server_error", FINAL)
    error = job.error or JobError("internal", "The generation failed")
    if error.code in ("invalid_request", "media_error"):
        return _of_request(error.field or "", error.message)
    return Failure(500, error.message, None, error.code, "server_error", FINAL)


def _of_request(name: str, message: str) -> Failure:
    name = FIELDS.get(name, name)
    return Failure(400, f"Invalid '{name}': {message}" if name else message, name or None, "invalid_value")


RANGES = {  # both sides of a range are told, whichever was overstepped
    shown_as.format(name): (spec["minimum"], spec["maximum"])
    for model, shown_as in ((CreateVideo, "{}"), (ExpiresAfter, "expires_after[{}]"), (Adapter, "lora[{}]"))
    for name, whole in model.model_json_schema()["properties"].items()
    for spec in (whole, *whole.get("anyOf", ()))
    if "minimum" in spec and "maximum" in spec
}


def _of_pydantic(error: dict[str, Any]) -> Failure:
    path = [str(part) for part in error["loc"]] or ["body"]
    name = path[0] + "".join(f"[{part}]" for part in path[1:])
    kind, given = error["type"], shown(error["input"])
    match kind:
        case "missing":
            return Failure(400, f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        case "greater_than_equal" | "less_than_equal":
            code = "below_min_value" if kind == "greater_than_equal" else "above_max_value"
            number = "decimal" if isinstance(given, float) else "integer"
            return _invalid(name, f"must be {_between(name)}, got {given}", f"{number}_{code}")
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return _invalid(name, f"must be an integer {_between(name)}, got {given!r}", "invalid_type")
        case "float_type" | "float_parsing" | "finite_number":
            return _invalid(name, f"must be a number {_between(name)}, got {given!r}", "invalid_type")
        case "string_type":
            return _invalid(name, "must be a string", "invalid_type")
        case "string_unicode":
            return _invalid(name, "must be plain text", "invalid_value")
        case "string_too_long":
            longest = error["ctx"]["max_length"]
            return _invalid(name, f"must be at most {longest} characters long", "string_above_max_length")
        case "literal_error":
            return _invalid(name, f"must be {error['ctx']['expected']}, got {given!r}", "invalid_value")
        case "wrong":
            return _invalid(name, error["msg"], "invalid_value")
        case _:
            return _invalid(name, str(error["msg"]), "invalid_value")


def _between(name: str) -> str:
    return "between {} and {}".format(*RANGES[name]) if name in RANGES else ""


def _invalid(name: str, message: str, code: str) -> Failure:
    return Failure(400, f"Invalid '{name}': {message}", name, code)
