"""A job: one requested video, and the states it may pass through.

Knows: the states and their possible sequences. Pure: no I/O, no clock, no torch.
Does not know: vendors (each façade translates these states), tables, processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pipelines.request import GenerationRequest
from server.media.artifact import Artifact


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


# running -> queued: the worker died, or the server stopped
FOLLOWS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.FAILED, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.QUEUED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}


@dataclass(frozen=True)
class JobError:
    """Why a job failed. `code`: as in `pipelines.events.Failed`. `field`: a name of GenerationRequest.

    `detail`: the façade's own error body, when the façade refused the input.
    """

    code: str
    message: str
    field: str | None = None
    detail: Any = None


@dataclass(frozen=True)
class Webhook:
    """The URL that gets a job's `events` (some of EVENTS). `base`: this server's URL as the client used it, for links
    in the bodies."""

    url: str
    base: str
    events: tuple[str, ...] = ("completed",)


EVENTS = ("start", "output", "logs", "completed")


@dataclass(frozen=True)
class LogLine:
    seq: int
    at: float
    level: str
    message: str


@dataclass(frozen=True)
class Job:
    """Times are unix seconds.

    memo: what the façade needs for its responses, mostly the client's fields; no API key.
    deaths: for each worker that died during this job, how it died.
    attempt: the number of starts, however they ended.
    step, steps: sampling steps done, and in total.
    share: the part of the whole video's work that is done, 0 to 1; never decreases.
    eta: estimated seconds until the video is complete.
    owner: the name that stands for the API key, "" without one.
    number: counts jobs from 1; 0 before the job is stored.
    priority: jobs with a higher one run first.
    keep_seconds: how long the result's files are kept; None: no expiry.
    start_by, end_by: the job is cancelled if it has not started or ended by then.
    """

    id: str
    facade: str
    endpoint: str
    request: GenerationRequest
    memo: dict[str, Any]
    model: str
    created_at: float
    status: Status = Status.QUEUED
    attempt: int = 0
    cancel_requested: bool = False
    stage: str | None = None
    step: int = 0
    steps: int = 0
    eta: float | None = None
    share: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    plan: dict[str, Any] | None = None
    error: JobError | None = None
    video: Artifact | None = None
    poster: Artifact | None = None
    manifest: Artifact | None = None
    timings: dict[str, float] = field(default_factory=dict)
    memory: str = ""
    deaths: tuple[str, ...] = ()
    owner: str = ""
    number: int = 0
    priority: int = 0
    keep_seconds: float | None = None
    webhook: Webhook | None = None
    idempotency: str | None = None
    start_by: float | None = None
    end_by: float | None = None

    @property
    def seed(self) -> int:
        assert self.request.seed is not None, "submit draws a seed before a job exists"
        return self.request.seed

    @property
    def deadline(self) -> float | None:
        """Unix seconds at which `JobStore.expire` cancels the job if its state has not changed by then."""
        if self.status.is_terminal or self.cancel_requested:
            return None
        begins = self.start_by if self.status is Status.QUEUED and self.attempt == 0 else None
        return min((at for at in (begins, self.end_by) if at is not None), default=None)

    @property
    def progress(self) -> float:
        """The part of the work that is done, 0 to 1; below 1 until the video is stored."""
        if self.status is Status.SUCCEEDED:
            return 1.0
        done = self.share or (self.step / self.steps if self.steps else 0.0)
        return min(0.99, done)

    @property
    def inference_seconds(self) -> float | None:
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at
