"""Everything that can go wrong, in Hugging Face's words: `{"error": text}` and a code. The one place that makes those.

Knows: which code Hugging Face answers for what. Does not know: who raised it and why.
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
from server.errors import DiskFull, MediaError, NoModel, QueueFull
from server.facades.kit import errors as kit
from server.facades.kit.body import Json
from server.facades.kit.complaints import shown
from server.facades.kit.json_bodies import BadBody
from server.jobs.job import Job, JobError, Status
from server.limits.bodies import BodyTooLarge

FIELDS = {  # GenerationRequest's names -> Hugging Face's
    "image": "inputs",
    "width": "parameters.target_size.width",
    "height": "parameters.target_size.height",
    **{
        name: f"parameters.{name}"
        for name in ("negative_prompt", "num_frames", "num_inference_steps", "guidance_scale", "seed")
    },
}
NO_KEY = "Invalid credentials in Authorization header: a key is needed, as in `Authorization: Bearer KEY`"
BAD_KEY = "Invalid credentials in Authorization header"


@dataclass(frozen=True)
class Failure:
    status: int
    text: str
    headers: dict[str, str] = field(default_factory=dict)


class Refused(kit.Refused):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(Failure(status, message))


def respond(failure: Failure) -> Json:
    return Json({"error": failure.text}, status_code=failure.status, headers=failure.headers)


def refuse(context: Context, request: Request, error: Exception) -> Json:
    return respond(of_exception(error))


def of_exception(error: Exception) -> Failure:
    match error:
        case ValidationError():
            return Failure(422, "; ".join(dict.fromkeys(_of_pydantic(dict(one)) for one in error.errors())))
        case Unauthorized():
            return Failure(401, NO_KEY if error.reason == "missing" else BAD_KEY)
        case Refused():
            failure: Failure = error.failure
            return failure
        case BadBody():
            return Failure(422, f"The body is not valid JSON: {error.message} at character {error.position}")
        case BodyTooLarge():
            return Failure(413, error.message)
        case MediaError():
            return Failure(422, f"{error.field}: {error.message}")
        case RequestError():
            return Failure(422, f"{FIELDS.get(error.field, error.field)}: {error.message}")
        case NoModel():
            return Failure(404, error.message)
        case QueueFull():
            wait = {"retry-after": str(math.ceil(error.retry_after))}
            return Failure(503, f"Service unavailable: {error.message}", wait)
        case DiskFull():
            return Failure(503, f"Service unavailable: {error.message}")
        case ClientDisconnect():  # nobody is there to read this
            return Failure(499, "The caller hung up")
        case HTTPException():
            text = {404: "Not found", 405: "Method not allowed"}.get(error.status_code, str(error.detail))
            return Failure(error.status_code, text, dict(error.headers or {}))
        case _:
            return Failure(500, "Internal server error")


def of_job(job: Job) -> Failure:
    """Why a job has no video."""
    if job.status is Status.CANCELLED:
        return Failure(503, "The request was cancelled")
    error = job.error or JobError("internal", "The generation failed")
    name = FIELDS.get(error.field or "", error.field)
    code = {"invalid_request": 422, "media_error": 422, "worker_lost": 503}.get(error.code, 500)
    return Failure(code, f"{name}: {error.message}" if name else error.message)


def _of_pydantic(error: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"]) or "body"
    given, bounds = shown(error["input"]), error.get("ctx", {})
    match error["type"]:
        case "missing":
            return f"{name} is required"
        case "greater_than_equal":
            return f"{name} must be at least {_plain(bounds['ge'])}, got {given}"
        case "less_than_equal":
            return f"{name} must be at most {_plain(bounds['le'])}, got {given}"
        case "string_too_long":
            return f"{name} must be at most {bounds['max_length']} characters long"
        case "blank" | "unwritable" | "boolean":
            return f"{name} {error['msg']}"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return f"{name} must be an integer, got {given!r}"
        case "float_type" | "float_parsing" | "finite_number":
            return f"{name} must be a number, got {given!r}"
        case "string_unicode":
            return f"{name} must be plain text"
        case "string_type":
            return f"{name} must be a string"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{name} must be an object"
        case _:
            return f"{name}: {error['msg']}"


def _plain(bound: float) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)
