"""ModelsLab's errors, in the form `{"status", "message", "tip"}`. A refused request gets the HTTP status 200, except in
ModelsLab's API v7."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError
from starlette.requests import Request

from pipelines.request import MAX_SEED
from server.context import Context
from server.errors import MediaError, QueueFull
from server.facades.kit import complaints
from server.facades.kit.body import Json
from server.facades.kit.errors import HUNG_UP, Answers, Refused, http_text, named, not_json, reason, retry_after
from server.facades.modelslab.models import RANDOM_SEED
from server.jobs.job import Job, Status

FIELDS = {"image": "init_image", "size": "width and height", "output_format": "output_type"}  # engine's -> ModelsLab's
TIPS = {
    400: "Check the parameters of your request",
    401: "Send your API key as `key` in the body, or in the Authorization header",
    404: "Check the address",
    405: "Check the method",
    413: "Send less, or the URL of the image instead of the image",
    415: "Send the body compressed with gzip or deflate, or as it is",
    429: "Send the request again after the seconds in retry_after",
}
V7 = "/api/v7/"
TIP = "Try again later; the server's log may say more"


@dataclass(frozen=True)
class Failure:
    """`plain`: an error about the URL itself, which never has status 200."""

    code: int
    message: str
    more: dict[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    plain: bool = False

    @property
    def body(self) -> dict[str, Any]:
        return {"status": "error", "message": self.message, "tip": TIPS.get(self.code, TIP), **self.more}


def respond(failure: Failure, setting: Literal["ok", "real"], path: str) -> Json:
    """A refusal has status 200, unless `setting` or the API version in the path demands the real status code. Errors of
    the server always have the real status code."""
    real = setting == "real" or path.removeprefix("/modelslab").startswith(V7)
    code = failure.code if real or failure.code >= 500 or failure.plain else 200
    return Json(failure.body, status_code=code, headers=dict(failure.headers))


def refuse(context: Context, request: Request, error: Exception) -> Json:
    return respond(ANSWERS.to(error), context.settings.modelslab_status, request.scope["path"])


def of_job(job: Job) -> str:
    """Why a job has no video."""
    if job.status is Status.CANCELLED:
        return "The request was cancelled"
    return named(reason(job), FIELDS)


WORDS = {
    **complaints.WORDS,
    "blank": "{name} is required",
    "unknown_model": "{msg}",
    "literal_error": "{name} must be mp4 or gif, got {given!r}",
    complaints.OTHER: "{name} {msg}",
}


def invalid(error: ValidationError, most: Mapping[str, float]) -> Refused:
    """`most`: the maxima of the body's fields."""
    return Refused(Failure(400, complaints.complaints(error, lambda one: _of_field(one, most))))


def _of_field(error: Mapping[str, Any], most: Mapping[str, float]) -> str:
    name, low = str(error["loc"][0]) if error["loc"] else "body", error.get("ctx", {}).get("ge", 0)
    ends = complaints.between(low, most[name]) if name in most else f" {complaints.plain(low)} or more"
    if name == "seed":
        ends = f" between 0 and {MAX_SEED}, or {RANDOM_SEED} for a random one"
    return complaints.complaint(error, name, WORDS, {name: ends})


def _of_media(error: MediaError) -> Failure:
    lost = "Unable to fetch image from provided URL: " if error.code == "file_download_error" else ""
    return Failure(400, f"{FIELDS.get(error.field, error.field)}: {lost}{error.message}")


def _of_queue(error: QueueFull) -> Failure:
    text, wait = f"Rate limit exceeded with the queue maximum: {error.message}", retry_after(error)
    return Failure(429, text, {"retry_after": int(wait["retry-after"])}, wait)


ANSWERS = Answers(
    no_key=lambda e: Failure(401, "API key is required" if e.reason == "missing" else "Invalid API key"),
    invalid=lambda e: Failure(400, complaints.complaints(e, lambda one: _of_field(one, {}))),
    bad_json=lambda e: Failure(400, not_json(e)),
    not_an_object=lambda e: Failure(400, e.message),
    too_large=lambda e: Failure(413, e.message),
    bad_media=_of_media,
    bad_request=lambda e: Failure(400, named(e, FIELDS)),
    no_model=lambda e: Failure(400, f"Model not found: {e.message}"),
    bad_upload=lambda e: Failure(400, e.message),
    queue_full=_of_queue,
    disk_full=lambda e: Failure(503, e.message),
    hung_up=lambda e: Failure(499, HUNG_UP),
    http=lambda e: Failure(e.status_code, http_text(e), headers=dict(e.headers or {}), plain=True),
    crashed=lambda e: Failure(500, "Internal server error"),
)
