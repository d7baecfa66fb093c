"""OpenAI's errors: `{"error": {message, type, param, code}}`.

NOTE: OpenAI's clients retry after 408, 409, 429 and 5xx, unless a header forbids the retry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from server.context import Context
from server.errors import QueueFull
from server.facades.kit import complaints
from server.facades.kit import errors as kit
from server.facades.kit.body import Json
from server.facades.kit.errors import HUNG_UP, Answers, reason, retry_after
from server.facades.kit.json_bodies import BadBody
from server.facades.openai.models import Adapter, CreateVideo, ExpiresAfter
from server.jobs.job import Job, Status

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
    """A request with a wrong method gets 404 too, because it is one of OpenAI's calls that this server does not have
    (editing, extending, characters)."""
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        what = f"{request.method} {request.scope['path'][:200]}"
        text = f"Invalid URL ({what}): this server makes videos only, with POST /v1/videos"
        return respond(Failure(404, text, code="unknown_url"))
    return respond(ANSWERS.to(error))


def _of_http(error: HTTPException) -> Failure:
    headers = dict(error.headers or {})
    if error.status_code >= 500:
        return Failure(error.status_code, str(error.detail), type="server_error", headers=headers)
    code = "method_not_allowed" if error.status_code == 405 else None
    return Failure(error.status_code, str(error.detail), code=code, headers=headers)


def of_job(job: Job) -> Failure:
    """The response to a call that waited for a job, if the job has no video."""
    if job.status is Status.CANCELLED:
        return Failure(500, "The video was cancelled", None, "cancelled", "server_error", FINAL)
    error = reason(job)
    if error.code in ("invalid_request", "media_error"):
        return _of_request(error.field or "", error.message)
    return Failure(500, error.message, None, error.code, "server_error", FINAL)


def _of_request(name: str, message: str) -> Failure:
    name = FIELDS.get(name, name)
    return Failure(400, f"Invalid '{name}': {message}" if name else message, name or None, "invalid_value")


RANGES = {  # a message names the minimum and the maximum
    written.format(name): complaints.between(*ends)
    for model, written in ((CreateVideo, "{}"), (ExpiresAfter, "expires_after[{}]"), (Adapter, "lora[{}]"))
    for name, ends in complaints.ranges(model).items()
}
WORDS = {
    **{kind: words.removeprefix("{name} ") for kind, words in complaints.WORDS.items()},
    "integer": "must be an integer{range}, got {given!r}",
    "number": "must be a number{range}, got {given!r}",
    "not_a_number": "must be a number",
    "literal_error": "must be {expected}, got {given!r}",
    complaints.OTHER: "{msg}",
}
CODES = {
    **dict.fromkeys(("integer", "number", "text"), "invalid_type"),
    "not_a_number": "invalid_value",
    "string_too_long": "string_above_max_length",
    "greater_than_equal": "below_min_value",
    "less_than_equal": "above_max_value",
}


def _of_field(error: Mapping[str, Any]) -> Failure:
    first, *rest = [str(part) for part in error["loc"]] or ["body"]
    name, kind = first + "".join(f"[{part}]" for part in rest), error["type"]
    if kind == "missing":
        return Failure(400, f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    code = CODES.get(kind) or CODES.get(complaints.FAMILIES.get(kind, ""), "invalid_value")
    if complaints.FAMILIES.get(kind) == "range":
        code = f"{'decimal' if isinstance(error['input'], float) else 'integer'}_{code}"
    return Failure(400, f"Invalid '{name}': {complaints.complaint(error, name, WORDS, RANGES)}", name, code)


def _of_json(error: BadBody) -> Failure:
    where = f" at character {error.position}" if error.position else ""
    return Failure(400, f"The body is not valid JSON: {error.message}{where}", code="invalid_json")


def _of_queue(error: QueueFull) -> Failure:
    text = f"Rate limit reached: {error.message}"  # OpenAI's clients do not wait longer than a minute
    return Failure(429, text, None, "rate_limit_exceeded", "rate_limit_error", retry_after(error))


ANSWERS = Answers(
    no_key=lambda e: Failure(401, NO_KEY if e.reason == "missing" else BAD_KEY, code="invalid_api_key"),
    invalid=lambda e: _of_field(dict(e.errors()[0])),
    bad_json=_of_json,
    not_an_object=lambda e: Failure(400, "The body must be a JSON object or a form", code="invalid_type"),
    too_large=lambda e: Failure(413, e.message, code="request_too_large"),
    bad_media=lambda e: Failure(400, f"Invalid '{e.field}': {e.message}", e.field, e.code),
    bad_request=lambda e: _of_request(e.field, e.message),
    no_model=lambda e: Failure(400, e.message, "model", "model_not_found"),
    bad_upload=lambda e: Failure(400, e.message, code="invalid_value"),
    queue_full=_of_queue,
    disk_full=lambda e: Failure(507, e.message, None, "disk_full", "server_error"),
    hung_up=lambda e: Failure(499, HUNG_UP),
    http=_of_http,
    crashed=lambda e: Failure(500, "The server had an error while processing your request.", type="server_error"),
)
