"""Replicate's errors: problem details (RFC 9457) with the invalid fields, in the phrases of Replicate's validator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from pipelines.request import RequestError
from server.context import Context
from server.errors import IDEMPOTENCY_KEY
from server.facades.kit.body import Json
from server.facades.kit.complaints import plain, ranges
from server.facades.kit.errors import HUNG_UP, Answers, Refused, named, not_json, reason, retry_after
from server.facades.replicate.models import CogVideoX5bInput, CogVideoXTextInput
from server.jobs.job import Job, Status

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
NO_KEY = "You did not pass an authentication token"
BAD_KEY = "You did not pass a valid authentication token"
RETRY = {"retry-after": "5"}  # seconds that Replicate's clients wait before they repeat a GET
TYPES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


@dataclass(frozen=True)
class Invalid:
    """An invalid field, in the form of Replicate's validator. `field`: a path like `input.steps`."""

    kind: str
    field: str
    description: str


@dataclass(frozen=True)
class Problem:
    """`title`: by default the title for `status`."""

    status: int
    detail: str
    title: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: tuple[Invalid, ...] = ()


def invalid(*fields: Invalid) -> Problem:
    """The problem for fields with invalid values."""
    lines = [f"- {one.field}: {one.description}\n" if one.field else f"- {one.description}\n" for one in fields]
    return Problem(422, "".join(lines), INVALID, fields=fields)


class ProblemJson(Json):
    media_type = "application/problem+json"


def respond(problem: Problem) -> Json:
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": problem.title or TITLES.get(problem.status, "Error"),
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.fields:
        wrong = [{"type": one.kind, "field": one.field, "description": one.description} for one in problem.fields]
        body["invalid_fields"] = wrong
    return ProblemJson(body, status_code=problem.status, headers=problem.headers)


def refused(kind: str, field: str, description: str) -> Refused:
    return Refused(invalid(Invalid(kind, field, description)))


def not_found(what: str) -> Refused:
    return Refused(Problem(404, f"The requested resource could not be found: {what[:200]}"))


def refuse(context: Context, request: Request, error: Exception) -> Json:
    return respond(ANSWERS.to(error))


def renamed(error: RequestError, fields: dict[str, str]) -> RequestError:
    """The same error with the client's name of the field."""
    return RequestError(fields.get(error.field, error.field), error.message)


def of_job(job: Job, fields: dict[str, str]) -> str | None:
    """Why a prediction failed. `fields`: GenerationRequest's names -> the model's."""
    if job.status is not Status.FAILED:
        return None
    return named(reason(job), fields)


def _of_field(error: Mapping[str, Any]) -> Invalid:
    path = [str(part) for part in error["loc"]]
    named = [part for part in path if not part.isdecimal()]  # an entry of a list is reported under the list's name
    where, name, context = ".".join(path), named[-1] if named else "", error.get("ctx", {})
    match error["type"]:
        case "missing":
            return Invalid("required", ".".join(path[:-1]), f"{name} is required")
        case "greater_than_equal":
            return Invalid(
                "number_gte", where, f"Must be greater than or equal to {plain(context['ge'])}{_range(name)}"
            )
        case "less_than_equal":
            return Invalid("number_lte", where, f"Must be less than or equal to {plain(context['le'])}{_range(name)}")
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
            return Invalid("invalid_type", where, wrong_type(_expected(kind), error["input"]))


RANGES = ranges(CogVideoX5bInput, CogVideoXTextInput)


def _range(name: str) -> str:
    return f" (the range is {' to '.join(map(str, map(plain, RANGES[name])))})" if name in RANGES else ""


def _expected(kind: str) -> str:
    family = kind.partition("_")[0]
    names = {"int": "integer", "float": "number", "finite": "number", "bool": "boolean", "dict": "object"}
    return {"model": "object", "list": "array"}.get(family, names.get(family, "string"))


def wrong_type(expected: str, given: Any) -> str:
    return f"Invalid type. Expected: {expected}, given: {TYPES.get(type(given), 'null')}"


def _of_http(error: HTTPException) -> Problem:
    text = {404: "The requested resource could not be found"}.get(error.status_code, str(error.detail))
    return Problem(error.status_code, text, headers=dict(error.headers or {}))


def _of_request(error: RequestError) -> Problem:
    where = error.field if error.field == IDEMPOTENCY_KEY else f"input.{error.field}"
    return invalid(Invalid("invalid", where, error.message))


ANSWERS = Answers(
    no_key=lambda e: Problem(401, NO_KEY if e.reason == "missing" else BAD_KEY),
    invalid=lambda e: invalid(*dict.fromkeys(_of_field(dict(one)) for one in e.errors())),
    bad_json=lambda e: Problem(400, not_json(e)),
    not_an_object=lambda e: invalid(Invalid("invalid_type", "", wrong_type("object", e.given))),
    too_large=lambda e: Problem(413, e.message),
    bad_media=lambda e: invalid(Invalid(e.code, f"input.{e.field}", e.message)),
    bad_request=_of_request,
    no_model=lambda e: Problem(404, e.message),
    bad_upload=lambda e: Problem(400, e.message),
    queue_full=lambda e: Problem(429, f"Request was throttled: {e.message}", headers=retry_after(e)),
    disk_full=lambda e: Problem(503, e.message, headers=RETRY),
    hung_up=lambda e: Problem(499, HUNG_UP),
    http=_of_http,
    crashed=lambda e: Problem(500, "The request caused an error in the server; the server's log has the details"),
)
