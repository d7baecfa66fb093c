"""What a façade asks for beside the video itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from server.jobs.job import Webhook


@dataclass(frozen=True)
class Order:
    """`memo`: what the façade wants to find in the job when it answers, as JSON and without keys. `owner` stands for
    the API key ("" without one). Jobs of higher `priority` go first. The result is kept for `keep_seconds` (None: until
    space is needed). Two orders of one owner with the same `idempotency` name get the same job. A job that has not
    started by `start_by`, or not ended by `end_by` (unix seconds), is cancelled."""

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
