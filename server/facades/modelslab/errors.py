"""Everything that can go wrong, in ModelsLab's words: `{"status", "message", "tip"}`. The one place that makes those.

Knows: which code fits what, and that ModelsLab answers 200 to what it refuses, but for its v7. Does not know: who
raised it and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from pipelines.request import MAX_SEED, RequestError
from server.auth import Unauthorized
from server.context import Context
from server.errors import DiskFull, MediaError, NoModel, QueueFull, UploadTooLarge
from server.facades.kit.body import Json
from server.facades.kit.complaints import shown
from server.facades.kit.errors import Refused
from server.facades.kit.json_bodies import BadBody
from server.facades.modelslab.models import RANDOM_SEED
from server.jobs.job import Job, JobError, Status
from server.limits.bodies import BodyTooLarge

FIELDS = {"image": "init_image", "size": "width and height", "output_format": "output_type"}  # engine's -> ModelsLab's
TIPS = {
    400: "Check the parameters of your request",
    401: "Send your API key as `key` in the body, or in the Authorization header",
    404: "Check the address",
    405: "Check the method",
    413: "Send less, or the address of the picture instead of the picture",
    415: "Send the body compressed with gzip or deflate, or as it is",
    429: "Send the request again after the seconds in retry_after",
}
V7 = "/api/v7/"
TIP = "Try again later; the server's log may say more"


@dataclass(frozen=True)
class Failure:
    """`plain`: about the address itself, never told with a 200."""

    code: int
    message: str
    more: dict[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    plain: bool = False

    @property
    def body(self) -> dict[str, Any]:
        return {"status": "error", "message": self.message, "tip": TIPS.get(self.code, TIP), **self.more}


def respond(failure: Failure, setting: Literal["ok", "real"], path: str) -> Json:
    """What is refused is told with a 200 unless `setting` says otherwise, or the version that is called, by its path;
    what the server cannot do never is."""
    real = setting == "real" or path.removeprefix("/modelslab").startswith(V7)
    code = failure.code if real or failure.code >= 500 or failure.plain else 200
    return Json(failure.body, status_code=code, headers=dict(failure.headers))


def refuse(context: Context, request: Request, error: Exception) -> Json:
    return respond(of_exception(error), context.settings.modelslab_status, request.scope["path"])


def of_exception(error: Exception) -> Failure:
    match error:
        case Unauthorized():
            return Failure(401, "API key is required" if error.reason == "missing" else "Invalid API key")
        case Refused():
            failure: Failure = error.failure
            return failure
        case BadBody():
            return Failure(400, f"The body is not valid JSON: {error.message} at character {error.position}")
        case BodyTooLarge() | UploadTooLarge():
            return Failure(413, error.message)
        case MediaError():
            lost = "Unable to fetch image from provided URL: " if error.code == "file_download_error" else ""
            return Failure(400, f"{FIELDS.get(error.field, error.field)}: {lost}{error.message}")
        case RequestError():
            return Failure(400, f"{FIELDS.get(error.field, error.field)}: {error.message}")
        case NoModel():
            return Failure(400, f"Model not found: {error.message}")
        case QueueFull():
            seconds = math.ceil(error.retry_after)
            more = {"retry_after": seconds}
            text = f"Rate limit exceeded with the queue maximum: {error.message}"
            return Failure(429, text, more, {"retry-after": str(seconds)})
        case DiskFull():
            return Failure(503, error.message)
        case ClientDisconnect():  # nobody is there to read this
            return Failure(499, "The caller hung up")
        case HTTPException():
            text = {404: "Not found", 405: "Method not allowed"}.get(error.status_code, str(error.detail))
            return Failure(error.status_code, text, headers=dict(error.headers or {}), plain=True)
        case _:
            return Failure(500, "Internal server error")


def of_job(job: Job) -> str:
    """Why a job has no video."""
    if job.status is Status.CANCELLED:
        return "The request was cancelled"
    error = job.error or JobError("internal", "The generation failed")
    name = FIELDS.get(error.field or "", error.field)
    return f"{name}: {error.message}" if name else error.message


def invalid(error: ValidationError, most: Mapping[str, float]) -> Refused:
    """`most`: the greatest values of the body's fields."""
    texts = dict.fromkeys(_of_pydantic(dict(one), most) for one in error.errors(include_url=False))
    return Refused(Failure(400, "; ".join(texts)))


def _of_pydantic(error: dict[str, Any], most: Mapping[str, float]) -> str:
    name = str(error["loc"][0]) if error["loc"] else "body"
    given = shown(error["input"])
    match error["type"]:
        case "missing" | "blank":
            return f"{name} is required"
        case "unknown_model":
            return str(error["msg"])
        case "greater_than_equal" | "less_than_equal":
            if name == "seed":
                return f"seed must be between 0 and {MAX_SEED}, or {RANDOM_SEED} for a random one, got {given}"
            low = error["ctx"]["ge"]
            if name in most:
                return f"{name} must be between {low:g} and {most[name]:g}, got {given}"
            return f"{name} must be {low:g} or more, got {given}"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return f"{name} must be an integer, got {given!r}"
        case "boolean" | "float_type" | "float_parsing" | "finite_number":
            return f"{name} must be a number, got {given!r}"
        case "bool_type" | "bool_parsing":
            return f"{name} must be true or false, got {given!r}"
        case "literal_error":
            return f"{name} must be mp4 or gif, got {given!r}"
        case "string_too_long":
            return f"{name} must be at most {error['ctx']['max_length']} characters long"
        case "string_type":
            return f"{name} must be a string"
        case "string_unicode":
            return f"{name} must be plain text"
        case _:
            return f"{name} {error['msg']}"
