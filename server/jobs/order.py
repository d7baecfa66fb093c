"""What the façade decides about a job, in addition to the request for the video."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from server.jobs.job import Webhook


@dataclass(frozen=True)
class Order:
    """Fields as in `Job`. `memo`: what the façade needs for its responses, as JSON; no API key. `idempotency`: two
    orders of one owner with the same name get the same job."""

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
