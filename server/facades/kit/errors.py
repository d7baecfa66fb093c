"""Converts exceptions to a vendor's responses. `Answers` has a field for each kind of exception; every vendor sets all
fields.

    ANSWERS = Answers(
        bad_json=lambda e: Failure(400, not_json(e)),
        queue_full=lambda e: Failure(429, e.message, headers=retry_after(e)),
        ...
    )

Knows: which exceptions reach a façade. Does not know: codes, texts, shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines.request import RequestError
from server.auth import Unauthorized
from server.errors import DiskFull, MediaError, NoModel, QueueFull, UploadTooLarge
from server.facades.kit.json_bodies import BadBody
from server.jobs.job import Job, JobError
from server.limits.bodies import BodyTooLarge
from server.media.uploads import UploadBroken

F = TypeVar("F")

HUNG_UP = "The caller hung up"  # the client no longer reads this text


class NotAnObject(Exception):
    """The body is JSON, but not an object. `given`: the parsed body."""

    def __init__(self, given: Any) -> None:
        self.message = "The body must be a JSON object"
        self.given = given
        super().__init__(self.message)


class BadForm(HTTPException):
    """A form cannot be read; the status is 400."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


class Unavailable(HTTPException):
    """The server temporarily cannot do the work; the status is 503."""

    def __init__(self, message: str) -> None:
        super().__init__(503, message)


@dataclass(frozen=True)
class Failure:
    """The response to a refused call, for vendors whose errors need only these fields."""

    status: int
    text: str
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A vendor's own rules refuse the call. `failure`: the response, in that vendor's type."""

    def __init__(self, failure: Any) -> None:
        super().__init__(str(failure))
        self.failure = failure


@dataclass(frozen=True)
class Answers(Generic[F]):
    """A vendor's response to each kind of exception. `F`: the vendor's type for failures."""

    no_key: Callable[[Unauthorized], F]
    invalid: Callable[[ValidationError], F]
    bad_json: Callable[[BadBody], F]
    not_an_object: Callable[[NotAnObject], F]
    too_large: Callable[[BodyTooLarge | UploadTooLarge], F]
    bad_media: Callable[[MediaError], F]
    bad_request: Callable[[RequestError], F]
    no_model: Callable[[NoModel], F]
    bad_upload: Callable[[UploadBroken], F]
    queue_full: Callable[[QueueFull], F]
    disk_full: Callable[[DiskFull], F]
    hung_up: Callable[[ClientDisconnect], F]
    http: Callable[[HTTPException], F]
    crashed: Callable[[Exception], F]

    def to(self, error: Exception) -> F:
        if isinstance(error, Refused):
            failure: F = error.failure
            return failure
        kind = next(kind for kind in type(error).__mro__ if kind in KINDS)
        return getattr(self, KINDS[kind])(error)  # type: ignore[no-any-return]


# exceptions caused by a request's content; the other exceptions concern the caller, the size or the server's state
CONTENT: Mapping[type[Exception], str] = {
    ValidationError: "invalid",
    BadBody: "bad_json",
    NotAnObject: "not_an_object",
    MediaError: "bad_media",
    RequestError: "bad_request",
    NoModel: "no_model",
}
KINDS: Mapping[type, str] = {
    **CONTENT,
    Unauthorized: "no_key",
    BodyTooLarge: "too_large",
    UploadTooLarge: "too_large",
    UploadBroken: "bad_upload",
    QueueFull: "queue_full",
    DiskFull: "disk_full",
    ClientDisconnect: "hung_up",
    HTTPException: "http",
    Exception: "crashed",
}
RAISED: tuple[type[Exception], ...] = (Refused, *KINDS)


class _Named(Protocol):
    @property
    def field(self) -> str | None: ...
    @property
    def message(self) -> str: ...


def named(error: _Named, fields: Mapping[str, str] = {}) -> str:
    """Returns `field: message`, or the message alone if the error names no field. `fields`: GenerationRequest's names
    -> the vendor's names."""
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
