"""The façades' interface to jobs.

Knows: the store, the model of each task, that a request is checked and gets a seed before it is accepted.
Does not know: vendors, workers. Methods are thread-safe and take milliseconds; use `wait`, `follow` and the Shares from
the event loop only.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import suppress
from dataclasses import replace

import structlog

from pipelines.models import ModelInfo
from pipelines.plan import Plan
from pipelines.request import GenerationRequest, RequestError, draw_seed
from pipelines.resolve import resolve
from server.jobs.follow import LOOK_EVERY, Follower, Seen, Stopped
from server.jobs.job import Job, JobError, LogLine, Status
from server.jobs.loglines import KeyName, about
from server.jobs.order import Order
from server.jobs.store import NO_QUOTA, REFUSED, JobStore, Quota
from server.limits.shares import Shares
from server.media.artifact import Artifact
from server.served import Served

__all__ = ["Jobs", "Stopped"]

log = structlog.get_logger()

STREAMS, STREAMS_PER_KEY = 1000, 50  # event streams: in total, and per key (on an open server, per address)
PAGES, PAGES_PER_KEY = 4, 2  # lists of jobs or files at a time; lists take more CPU time than other responses
PAGE_WAIT = 60.0  # seconds that a request for a list waits for other such requests of the same key
WAITS, WAITS_PER_KEY = 2000, 200  # requests that wait for a job at a time
BROKEN_EVERY = 1.0  # seconds between two checks whether a worker can start


class NoWorker(Exception):
    """No worker can start, so a job may never end. `message` may be shown to a client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Jobs:
    """wake: notifies the dispatcher of new work.
    check_room: raises DiskFull or another error when no further job can be accepted.
    extend: whether to extend videos too long for their model if possible, for requests without `extend`.
    remove: deletes a file of a deleted job.
    owners: returns all owners that share the queue.
    broken: returns why no worker can start, None when one can.
    key_name: returns the name of an owner's key for the log.
    """

    def __init__(
        self,
        store: JobStore,
        served: Served,
        *,
        max_queue: int,
        check_room: Callable[[], None],
        wake: Callable[[], None],
        extend: bool = False,
        remove: Callable[[Artifact], None] = lambda _: None,
        quota: Callable[[str], Quota] = lambda _: NO_QUOTA,
        owners: Callable[[], Collection[str]] = tuple,
        broken: Callable[[], str | None] = lambda: None,
        key_name: KeyName = lambda owner: owner,
    ) -> None:
        self._store = store
        self._served = served
        self._max_queue = max_queue
        self._check_room = check_room
        self._wake = wake
        self._extend = extend
        self._remove = remove
        self._quota = quota
        self._owners = owners
        self._broken = broken
        self._key_name = key_name
        self._follower = Follower(store)
        self.streams = Shares("event streams", STREAMS, STREAMS_PER_KEY)
        self.pages = Shares("lists", PAGES, PAGES_PER_KEY)
        self.waits = Shares("calls that wait for a job", WAITS, WAITS_PER_KEY)

    def submit(self, request: GenerationRequest, order: Order) -> Job:
        """Stores the job and returns it; or, without storing anything, returns the job of an earlier order with the
        same owner and idempotency name.

        The job's `plan` is preliminary for a request with an image or a clip, because only the worker reads these
        files.

        Raises RequestError, NoModel, QueueFull, QuotaExceeded, IdempotencyConflict, DiskFull.
        """
        if request.seed is None:
            request = replace(request, seed=draw_seed())
        model = self._served.model_for(request.task)
        request, plan = self._planned(request, model)
        self._check_room()
        job = Job(
            id=str(uuid.uuid4()),
            request=request,
            model=model.name,
            created_at=time.time(),
            plan=plan.to_dict(),
            **vars(order),
        )
        made, job = job, self._store.submit(job, self._max_queue, self._quota(order.owner), self._owners())
        if job.id == made.id:
            log.info("job accepted", **about(job, self._key_name))
        self._wake()
        return job

    def _planned(self, request: GenerationRequest, model: ModelInfo) -> tuple[GenerationRequest, Plan]:
        others = tuple(self._served.by_task.values())
        if self._extend and request.extend is None:
            longer = replace(request, extend=True)
            with suppress(RequestError):  # an error that does not depend on `extend` is raised below
                plan = resolve(longer, model, others=others)
                if plan.sampling.extension:
                    return longer, plan
        return request, resolve(request, model, others=others)

    def refuse(self, order: Order, error: JobError) -> Job:
        """Stores a job that failed before it began, for clients that read the reason at the result's URL. The job is
        kept for at most a day. Raises QuotaExceeded, DiskFull.
        """
        self._check_room()
        now = time.time()
        job = Job(
            id=str(uuid.uuid4()),
            request=GenerationRequest(prompt="", seed=0),
            model=REFUSED,
            created_at=now,
            finished_at=now,
            status=Status.FAILED,
            error=error,
            **vars(order),
        )
        return self._store.submit(job, quota=self._quota(order.owner))

    def get(self, job_id: str) -> Job | None:
        return self._store.get(job_id)

    def find(self, job_id: str | int, facade: str, owner: str) -> Job | None:
        """The job with this id or number if it belongs to this façade and owner, else None."""
        job = self._store.get(job_id) if isinstance(job_id, str) else self._store.get_number(job_id)
        if job is None or (job.facade, job.owner) != (facade, owner):
            return None
        if job.deadline is not None and job.deadline <= time.time():
            self._store.expire()
            job = self._store.get(job.id) or job
        return job

    def page(
        self, facade: str, owner: str, limit: int, after: Job | None = None, newest_first: bool = True
    ) -> list[Job]:
        """At most `limit` jobs of this façade and owner, sorted by number, beginning after the job `after`."""
        return self._store.page(facade, owner, limit, after.number if after else None, newest_first)

    def delete(self, job: Job) -> None:
        """Deletes a job and its files; the job's worker stops within a second or at the next step."""
        job = self._store.cancel(job.id) or job
        self._store.delete(job.id)
        self._wake()
        for artifact in filter(None, (job.video, job.poster, job.manifest)):
            self._remove(artifact)

    def cancel(self, job_id: str, only_queued: bool = False) -> Job | None:
        """Cancels a queued job at once. A running job stops before its next transformer block, or continues if
        `only_queued` is set. Returns the job in its present state, None for an unknown job."""
        job = self._store.cancel(job_id, only_queued)
        self._wake()
        return job

    def position(self, job: Job) -> int:
        """The number of queued jobs ahead of this job; 0 for the next job, and for a job that is not queued."""
        return self._store.position(job.id)

    def expected(self, job: Job) -> float | None:
        """Estimated seconds until the video is complete: the worker's estimate, otherwise an estimate from the queue
        and the durations of the model's latest videos. None if neither estimate exists."""
        running = job.status is Status.RUNNING
        if running and job.eta is not None:
            return job.eta
        steps = (job.plan or {}).get("num_inference_steps", 0)
        took = [
            seconds + sampling * max(0.0, steps / known - 1) if known else seconds
            for seconds, sampling, known in self._store.took(job.model)
        ]
        if running or not took:
            return max(took, default=None)
        ahead = self.position(job) + self._store.counts()[Status.RUNNING]
        return max(took) * (1 + ahead // len(self._served.devices))

    def logs_of(self, jobs: Collection[Job]) -> dict[str, list[LogLine]]:
        """Job id -> log lines, for jobs that have any."""
        return self._store.logs_of([job.id for job in jobs])

    def logs(self, job_id: str, after: int = 0) -> list[LogLine]:
        """Lines whose `seq` is above `after`."""
        return self._store.logs(job_id, after)

    def counts(self) -> dict[Status, int]:
        return self._store.counts()

    def stop_waiting(self) -> None:
        """Makes `wait` and `follow` raise Stopped for unfinished jobs. May be called from signal handlers and any
        thread."""
        self._follower.stop()

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Returns the job once it has ended, or in its state after `timeout` seconds.

        Raises KeyError for an unknown job, Stopped, and without a timeout NoWorker.
        """
        if timeout is not None:
            return await self._follower.wait(job_id, timeout)
        pause = 0.0
        while not (job := await self._follower.wait(job_id, pause)).status.is_terminal:
            if pause and (reason := self._broken()) is not None:
                raise NoWorker(reason)
            pause = BROKEN_EVERY
            if job.deadline is not None:
                if (left := job.deadline - time.time()) <= 0:
                    await asyncio.to_thread(self._store.expire)
                pause = min(pause, max(LOOK_EVERY, left))
        return job

    def follow(self, job_id: str) -> AsyncGenerator[Seen]:
        """Yields the job now and after each change, until it ends or is deleted. Raises KeyError for an unknown job,
        Stopped when the server stops."""
        return self._follower.follow(job_id)
