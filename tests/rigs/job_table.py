"""The real job table, with commands by which a test acts as the worker.

The commands write the same values as a worker, without processes and without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from pipelines.request import GenerationRequest
from server.jobs.job import Job, JobError, Status
from server.jobs.store import NO_QUOTA, REFUSED, JobStore, Quota
from server.media.artifact import Artifact
from server.media.artifacts import Artifacts

VIDEO = b"\x00\x00\x00\x18ftypisom not really a film"
POSTER = b"a picture"

End = Callable[["Table", str], object]


def succeed(table: Table, job_id: str) -> None:
    table.start(job_id)
    table.finish(job_id)


def fail(code: str, message: str = "it broke", field: str | None = None) -> End:
    def end(table: Table, job_id: str) -> None:
        table.start(job_id)
        table.fail(job_id, JobError(code, message, field))

    return end


def cancel(table: Table, job_id: str) -> None:
    table.cancel(job_id)


def hold(table: Table, job_id: str) -> None:
    """Leaves the job in the queue."""


class Store(JobStore):
    """A job store that calls `submitted` with the id of every new job. If `raises` is set, the store raises this error
    and does not store a job for a model."""

    raises: Exception | None = None
    submitted: Callable[[str], None] = staticmethod(lambda _: None)

    def submit(self, job: Job, limit: int | None = None, quota: Quota = NO_QUOTA, owners: Collection[str] = ()) -> Job:
        if self.raises is not None and job.model != REFUSED:
            raise self.raises
        stored = super().submit(job, limit, quota, owners)
        if stored.id == job.id:
            self.submitted(job.id)
        return stored


@dataclass
class Table:
    """A job table that calls `end` for every job as soon as the job is queued. `sent` has the ids of all jobs,
    including refused jobs. Each result consists of the bytes in `film`."""

    store: Store
    artifacts: Artifacts
    film: bytes = VIDEO
    end: End = succeed
    sent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store.submitted = self._submitted

    def _submitted(self, job_id: str) -> None:
        self.sent.append(job_id)
        if self[job_id].status is Status.QUEUED:
            self.end(self, job_id)

    @property
    def raises(self) -> Exception | None:
        """The error that is raised instead of storing a new job."""
        return self.store.raises

    @raises.setter
    def raises(self, error: Exception | None) -> None:
        self.store.raises = error

    def __getitem__(self, job_id: str) -> Job:
        job = self.store.get(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    @property
    def jobs(self) -> list[Job]:
        """All submitted jobs that were not deleted, in their current state."""
        return [job for job in map(self.store.get, self.sent) if job is not None]

    @property
    def last(self) -> Job:
        return self.jobs[-1]

    def start(self, job_id: str) -> None:
        """Claims this job; jobs ahead of it return to the queue."""
        others = []
        while (job := self.store.claim()) is not None and job.id != job_id:
            others.append(job)
        for other in others:
            self.store.requeue(other.id, other.attempt)
        assert job is not None, f"{job_id} is not in the queue"
        self.log(job_id, "begun")

    def log(self, job_id: str, message: str, level: str = "INFO") -> None:
        self.store.log(job_id, message, level)

    def progress(self, job_id: str, **values: Any) -> None:
        """Stores `values`: `step`, `steps`, `eta` and the other values that a worker reports."""
        self.store.progress(job_id, self[job_id].attempt, **values)

    def finish(self, job_id: str, film: bytes | None = None, **more: Any) -> None:
        """Stores the result. `more` may contain `timings` and `memory`."""
        video = self.artifacts.put("film.mp4", "video/mp4", film or self.film)
        poster = self.artifacts.put("poster.jpg", "image/jpeg", POSTER)
        manifest = self.artifacts.put("film.mp4.json", "application/json", b"{}")
        files: dict[str, Artifact] = {"video": video, "poster": poster, "manifest": manifest}
        self.store.finish(job_id, self[job_id].attempt, **files, **{"timings": {"denoise": 1.0}, "memory": "", **more})

    def fail(self, job_id: str, error: JobError) -> None:
        self.store.fail(job_id, self[job_id].attempt, error)

    def stop(self, job_id: str) -> None:
        """Cancels the job, as a worker does on `cancel_requested`."""
        self.store.cancelled(job_id, self[job_id].attempt)

    def cancel(self, job_id: str) -> None:
        self.store.cancel(job_id)

    def delete(self, job_id: str) -> None:
        self.store.delete(job_id)

    def add(self, facade: str, error: JobError | None = None) -> Job:
        """Adds a failed job of that façade directly to the table, without an API call."""
        error = error or JobError("internal", "m")
        request = GenerationRequest("", seed=0)
        job = Job(f"job-of-{facade}", facade, "x", request, {}, REFUSED, 1.0, Status.FAILED, error=error)
        return self.store.submit(job)

    def finish_all(self) -> None:
        """Finishes the jobs that `hold` left in the queue; new jobs finish at once again."""
        self.end = succeed
        while (job := self.store.claim()) is not None:
            self.log(job.id, "begun")
            self.finish(job.id)
