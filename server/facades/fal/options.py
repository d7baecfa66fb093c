"""Reads the headers and query parameters that determine how a request is handled."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request

from server.facades.fal.errors import Rejected
from server.facades.kit.complaints import is_callable
from server.jobs.job import Webhook

LIFECYCLE = "x-fal-object-lifecycle"
PREFERENCE = "x-fal-object-lifecycle-preference"
PRIORITIES = {"normal": 0, "low": -1}
LONGEST_SECONDS = 1e10  # a longer time limit for the start counts as no limit; a longer expiry is refused


@dataclass(frozen=True)
class Terms:
    """Times are in seconds. None means that the request has no time limit, no expiry or no webhook."""

    start_within: float | None = None
    keep_seconds: float | None = None
    priority: int = 0
    webhook: Webhook | None = None


class Lifecycle(BaseModel):
    """fal's lifecycle preference. Only the expiry has an effect; 0 means that the file never expires. Anyone with the
    URL of a file may read the file."""

    model_config = ConfigDict(allow_inf_nan=False)

    expiration_duration_seconds: float | None = Field(None, ge=0, le=LONGEST_SECONDS)


def of_run(request: Request) -> Terms:
    """Raises Rejected."""
    return Terms(_start_within(request.headers), keep_seconds(request.headers, PREFERENCE))


def of_submit(request: Request, base: str) -> Terms:
    """`base`: this server's URL as the client knows it. Raises Rejected."""
    run, url = of_run(request), request.query_params.get("fal_webhook", "")
    if url and not is_callable(url):
        raise Rejected(400, "fal_webhook must be an http or https address")
    priority = PRIORITIES.get(request.headers.get("x-fal-queue-priority", "").strip().lower(), 0)
    return Terms(run.start_within, run.keep_seconds, priority, Webhook(url, base) if url else None)


def keep_seconds(headers: Headers, *names: str) -> float | None:
    """Returns for how many seconds to keep the file that a request uploads or generates, or None if the headers set no
    expiry. The first of the headers in `names` that the request has decides. Raises Rejected."""
    for name in names:
        if value := headers.get(name):
            try:
                return Lifecycle.model_validate_json(value).expiration_duration_seconds or None
            except ValidationError:
                said = 'JSON such as {"expiration_duration_seconds": 3600}, the seconds from 0 to 1e10'
                raise Rejected(400, f"The header {name} must be {said}") from None
    return None


def _start_within(headers: Headers) -> float | None:
    with suppress(ValueError):
        seconds = float(headers.get("x-fal-request-timeout", ""))
        if 0 < seconds <= LONGEST_SECONDS:
            return seconds
    return None
