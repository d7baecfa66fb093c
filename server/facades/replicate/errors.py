"""Everything that can go wrong, in Replicate's words: problem details (RFC 9457) with the fields that are wrong.

Knows: which status and title Replicate has for what, and the phrases its validator uses.
Does not know: who raised it and why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines.request import RequestError
from server.auth import Unauthorized
from server.errors import IDEMPOTENCY_KEY, DiskFull, MediaError, NoModel, QueueFull, UploadTooLarge
from server.facades.replicate.models import CogVideoX5bInput, CogVideoXTextInput
from server.facades.wire import RAISED, BadBody, BodyTooLarge, Json
from server.jobs.job import Job, JobError, Status

INVALID = "Input validation failed"
NO_VERSION = "The specified version does not exist (or perhaps you don't have permission to use it?)"
TITLES = {
    400: "Bad request",
    401: "Unauthenticated",
    404: "Not found",
    405: "Method not allowed",
    413: "Content too large",
    429: "Too many requests",
    499: "Client closed request",
    500: "Internal server error",
    503: "Service unavailable",
}
RETRY = {"retry-after": "5"}  # seconds; Replicate's clients wait so long before a GET is repeated
TYPES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


@dataclass(frozen=True)
class Invalid:
    """One wrong field, as Replicate's validator puts it; `field` is a path like `input.steps`."""

    kind: str
    field: str
    description: str


class Problem(Exception):
    def __init__(
        self, status: int, detail: str, title: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.title = title or TITLES.get(status, "Error")
        self.headers = headers or {}
        self.fields: tuple[Invalid, ...] = ()


class Refused(Problem):
    """Fields hold what they must not."""

    def __init__(self, *fields: Invalid) -> None:
        lines = [f"- {one.field}: {one.description}\n" if one.field else f"- {one.description}\n" for one in fields]
        super().__init__(422, "".join(lines), INVALID)
        self.fields = fields


class ProblemJson(Json):
    media_type = "application/problem+json"


def respond(problem: Problem) -> Json:
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.fields:
        wrong = [{"type": one.kind, "field": one.field, "description": one.description} for one in problem.fields]
        body["invalid_fields"] = wrong
    return ProblemJson(body, status_code=problem.status, headers=problem.headers)


def not_found(what: str) -> Problem:
    return Problem(404, f"The requested resource could not be found: {what[:200]}")


KINDS = (Problem, *RAISED)


def of_exception(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case Unauthorized():
            valid = "an" if error.reason == "missing" else "a valid"
            return Problem(401, f"You did not pass {valid} authentication token")
        case ValidationError():
            return Refused(*dict.fromkeys(_of_pydantic(dict(one)) for one in error.errors()))
        case BadBody():
            return Problem(400, f"The body is not valid JSON: {error.message} at character {error.position}")
        case BodyTooLarge() | UploadTooLarge():
            return Problem(413, error.message)
        case MediaError():
            return Refused(Invalid(error.code, f"input.{error.field}", error.message))
        case RequestError():
            where = error.field if error.field == IDEMPOTENCY_KEY else f"input.{error.field}"
            return Refused(Invalid("invalid", where, error.message))
        case NoModel():
            return Problem(404, error.message)
        case QueueFull():
            return Problem(
                429,
                f"Request was throttled: {error.message}",
                headers={"retry-after": str(math.ceil(error.retry_after))},
            )
        case DiskFull():
            return Problem(503, error.message, headers=RETRY)
        case ClientDisconnect():  # nobody is there to read this
            return Problem(499, "The caller hung up")
        case HTTPException():
            text = {404: "The requested resource could not be found"}.get(error.status_code, str(error.detail))
            return Problem(error.status_code, text, headers=dict(error.headers or {}))
        case _:
            return Problem(500, "The server failed over this request; its log says where")


def renamed(error: RequestError, fields: dict[str, str]) -> RequestError:
    """The same complaint with the field called as the caller calls it."""
    return RequestError(fields.get(error.field, error.field), error.message)


def of_job(job: Job, fields: dict[str, str]) -> str | None:
    """Why a prediction failed. `fields`: GenerationRequest's names -> the model's."""
    if job.status is not Status.FAILED:
        return None
    error = job.error or JobError("internal", "the generation failed")
    return f"{fields.get(error.field, error.field)}: {error.message}" if error.field else error.message


def _of_pydantic(error: dict[str, Any]) -> Invalid:
    path = [str(part) for part in error["loc"]]
    named = [part for part in path if not part.isdecimal()]  # an entry of a list goes by the list's name
    where, name, context = ".".join(path), named[-1] if named else "", error.get("ctx", {})
    match error["type"]:
        case "missing":
            return Invalid("required", ".".join(path[:-1]), f"{name} is required")
        case "greater_than_equal":
            return Invalid(
                "number_gte", where, f"Must be greater than or equal to {_plain(context['ge'])}{_range(name)}"
            )
        case "less_than_equal":
            return Invalid("number_lte", where, f"Must be less than or equal to {_plain(context['le'])}{_range(name)}")
        case "string_too_short":
            return Invalid("string_gte", where, f"String length must be at least {context['min_length']}")
        case "string_too_long":
            return Invalid("string_lte", where, f"String length must be at most {context['max_length']}")
        case "literal_error":
            known = context["expected"].replace("'", '"').replace(" or ", ", ")
            return Invalid("enum", where, f"{name} must be one of the following: {known}")
        case "unwritable" | "string_unicode":
            return Invalid("format", where, "Must be plain text")
        case "finite_number":
            return Invalid("invalid_type", where, "Must be a finite number")
        case kind:
            return Invalid("invalid_type", where, f"Invalid type. Expected: {_expected(kind)}, given: {_given(error)}")


RANGES = {
    name: (low, high)
    for kind in (CogVideoX5bInput, CogVideoXTextInput)
    for name, spec in kind.model_json_schema()["properties"].items()
    for part in (spec, *spec.get("anyOf", ()))
    if (low := part.get("minimum")) is not None and (high := part.get("maximum")) is not None
}


def _range(name: str) -> str:
    return f" (the range is {' to '.join(map(_plain, RANGES[name]))})" if name in RANGES else ""


def _plain(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _expected(kind: str) -> str:
    family = kind.partition("_")[0]
    names = {"int": "integer", "float": "number", "finite": "number", "bool": "boolean", "dict": "object"}
    return {"model": "object", "list": "array"}.get(family, names.get(family, "string"))


def _given(error: dict[str, Any]) -> str:
    return TYPES.get(type(error["input"]), "null")
