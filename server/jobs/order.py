"""Everything about a job that the façade decides, beside the video itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from server.jobs.job import Webhook


@dataclass(frozen=True)
class Order:
    """`memo`: what the façade needs for its answers, as JSON; no API key. Two orders of one owner with the same
    `idempotency` name get the same job. The other fields are those of `Job`."""

    facade: str
    endpoint: str
    owner: str
    memo: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    keep_seconds: float | None = None
    webhook: Webhook | None = None
    idempotency: str | None = None
    start_by: float | None = None
    end_by: float | None = None
