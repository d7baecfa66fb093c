"""Exceptions as a vendor's answers: one table per vendor says what each kind becomes.

    TABLE: Table[Failure] = {
        BadBody: lambda e: Failure(400, not_json(e)),
        QueueFull: lambda e: Failure(429, e.message, headers=retry_after(e)),
        ...
        Exception: lambda e: Failure(500, "Internal server error"),
    }

Knows: the kinds that every vendor must answer. Does not know: codes, texts, shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines.request import RequestError
from server.auth import Unauthorized
from server.errors import DiskFull, MediaError, NoModel, QueueFull, UploadTooLarge
from server.facades.kit.json_bodies import BadBody
from server.jobs.job import Job, JobError
from server.limits.bodies import BodyTooLarge

F = TypeVar("F")
Table = Mapping[type[Exception], Callable[[Any], F]]

HUNG_UP = "The caller hung up"  # which nobody reads


class NotAnObject(Exception):
    """The body is JSON, but not an object; `given` is what it is."""

    def __init__(self, given: Any) -> None:
        super().__init__("The body must be a JSON object")
        self.message = "The body must be a JSON object"
        self.given = given


class BadForm(HTTPException):
    """A form that cannot be read: 400."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


class Unavailable(HTTPException):
    """The server does no work now, for a reason that passes: 503."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message)


@dataclass(frozen=True)
class Failure:
    """The answer to a refused call, for vendors whose errors hold no more than this."""

    status: int
    text: str
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A vendor's own rules refuse the call; `failure` is the answer, of that vendor's type."""

    def __init__(self, failure: Any) -> None:
        super().__init__(str(failure))
        self.failure = failure


# every vendor's table has a row for each of these
RAISED: tuple[type[Exception], ...] = (
    *(Unauthorized, ValidationError, BadBody, NotAnObject, BodyTooLarge, UploadTooLarge, MediaError, RequestError),
    *(NoModel, QueueFull, DiskFull, ClientDisconnect, HTTPException, Exception),
)


def answer(table: Table[F], error: Exception) -> F:
    """What the row of the nearest class of `error` makes of it."""
    return next(table[kind] for kind in type(error).__mro__ if kind in table)(error)


class _Named(Protocol):
    @property
    def field(self) -> str | None: ...
    @property
    def message(self) -> str: ...


def named(error: _Named, fields: Mapping[str, str]) -> str:
    """`field: message`. `fields`: GenerationRequest's names -> the vendor's."""
    name = fields.get(error.field or "", error.field)
    return f"{name}: {error.message}" if name else error.message


def not_json(error: BadBody) -> str:
    return f"The body is not valid JSON: {error.message} at character {error.position}"


def http_text(error: HTTPException) -> str:
    return {404: "Not found", 405: "Method not allowed"}.get(error.status_code, str(error.detail))


def retry_after(error: QueueFull) -> dict[str, str]:
    return {"retry-after": str(math.ceil(error.retry_after))}


def reason(job: Job) -> JobError:
    """Why a failed job has no video."""
    return job.error or JobError("internal", "The generation failed")
