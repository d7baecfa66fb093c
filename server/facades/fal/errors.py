"""fal's two forms of errors: `detail` is a list for errors in the input, and a text for all other errors.

NOTE: fal's clients retry after 408, 409, 429, 502, 503 and 504, so a permanent refusal must not use these codes.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pipelines.request import RequestError
from server.context import Context
from server.errors import IDEMPOTENCY_KEY
from server.facades.fal.models import APP
from server.facades.kit.body import Json
from server.facades.kit.complaints import shown
from server.facades.kit.errors import CONTENT, HUNG_UP, Answers, Refused, reason, retry_after
from server.facades.kit.json_bodies import BadBody
from server.jobs.job import Job, Status

MOST = 50  # entries in one response
LONGEST = 500  # characters of a message
SMALL = 8192  # characters of a response that is stored in the job table
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


class Invalid(Refused):
    """This server refuses a value that fal's schema allows. `where`: the path of the value in the body."""

    def __init__(self, type_: str, message: str, *where: str | int, ctx: dict[str, Any] | None = None) -> None:
        super().__init__(listed(entry(type_, message, *where, ctx=ctx)))
        self.where = where


class Rejected(Refused):
    """An error in a header, a query parameter or the URL. fal refuses such a request before the request reaches the
    runner."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(infrastructure(status, message, "bad_request"))


@dataclass(frozen=True)
class Failure:
    """An error response in fal's form."""

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


def not_found(request_id: str) -> Refused:
    text = f"Request {request_id[:100]} not found"
    return Refused(Failure(404, {"status": "NOT_FOUND", "detail": text, "message": text}))


def infrastructure(status: int, text: str, error_type: str | None = None, **headers: str) -> Failure:
    """An error whose `detail` is a text. `message` repeats the text for the JS client, which otherwise shows only the
    status code's phrase."""
    body = {"detail": text, "message": text}
    if error_type is None:
        return Failure(status, body, headers)
    return Failure(status, {**body, "error_type": error_type}, {"x-fal-error-type": error_type, **headers})


def small(failure: Failure) -> dict[str, Any]:
    """Returns the body to store in the job table. If the entries have more than SMALL characters in total, only the
    first entries are kept."""
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


def refuse(context: Context, request: Request, error: Exception) -> Json:
    if isinstance(error, HTTPException) and error.status_code == 404:
        text = _missing_page(request.scope["path"])
        return respond(infrastructure(404, text, **{"x-fal-billable-units": "0"}))
    return respond(ANSWERS.to(error))


def _missing_page(path: str) -> str:
    """fal's message for an unknown URL: an unknown app, or an unknown path of a known app."""
    surface, _, rest = path.lstrip("/").partition("/")
    if surface not in ("run", "queue"):
        return f"Path {path} not found"
    if rest == APP or rest.startswith(f"{APP}/"):
        return f"Path {rest.removeprefix(APP) or '/'} not found"
    return f'Application "{"/".join(rest.split("/")[:2])}" not found'


# at fal the runner raises these errors, so `submit` accepts the request and the error appears at the result's URL
RUNNERS: tuple[type[Exception], ...] = (Invalid, *CONTENT)


def is_about_a_header(error: Exception) -> bool:
    return isinstance(error, RequestError) and error.field == IDEMPOTENCY_KEY


def _of_field(error: dict[str, Any]) -> dict[str, Any]:
    given = None if error["type"] == "missing" else shown(error["input"])
    kind, message = error["type"], error["msg"]
    if (kind, error["loc"]) == ("too_long", ("loras",)):
        kind = "sequence_too_long"
    if kind == "unwritable":
        kind, message = "string_unicode", f"Input should be a valid string: {error['ctx']['wrong']}"
    return entry(kind, message, *error["loc"], ctx=error.get("ctx"), input=given)


def _where(name: str | None) -> tuple[str, ...]:
    return (FIELDS[name],) if name in FIELDS else ()


def of_job(job: Job) -> Failure:
    """The response at the result's URL for a job that failed or was cancelled."""
    if job.status is Status.CANCELLED:
        if _missed_start(job):
            text = "The request did not start within the time its caller allowed"
            return infrastructure(504, text, "request_timeout", **{"x-fal-request-timeout-type": "user"})
        return infrastructure(499, "Request was cancelled", "client_cancelled")
    error = reason(job)
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


def _of_request(error: RequestError) -> Failure:
    if is_about_a_header(error):
        return infrastructure(400, f"The header {error}", "bad_request")
    return listed(entry("value_error", error.message, *_where(error.field)))


def _of_http(error: HTTPException) -> Failure:
    busy = "runner_disconnected" if error.status_code == 503 else None
    return infrastructure(error.status_code, str(error.detail), busy)


def _of_json(error: BadBody) -> Failure:
    return listed(entry("json_invalid", "JSON decode error", error.position, ctx={"error": error.message}))


def _missed_start(job: Job) -> bool:
    finished = job.finished_at
    return job.start_by is not None and finished is not None and job.attempt == 0 and finished >= job.start_by


ANSWERS = Answers(
    no_key=lambda e: infrastructure(401, "Authentication is required"),
    invalid=lambda e: listed(*(_of_field(dict(one)) for one in e.errors(include_url=False))),
    bad_json=_of_json,
    not_an_object=lambda e: listed(entry("dict_type", "Input should be a valid dictionary")),
    too_large=lambda e: infrastructure(413, e.message, "bad_request"),
    bad_media=lambda e: listed(entry(e.code, e.message, *_where(e.field), ctx=e.extra or None)),
    bad_request=_of_request,
    no_model=lambda e: listed(entry("feature_not_supported", e.message)),
    bad_upload=lambda e: infrastructure(400, e.message, "bad_request"),
    queue_full=lambda e: infrastructure(429, e.message, "concurrent_requests_limit", **retry_after(e)),
    disk_full=lambda e: infrastructure(507, e.message, "internal_error"),
    hung_up=lambda e: infrastructure(499, HUNG_UP, "client_disconnected"),
    http=_of_http,
    crashed=lambda e: infrastructure(500, "Internal Server Error", "internal_error"),
)
