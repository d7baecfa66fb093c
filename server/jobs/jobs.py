"""What a façade may do with jobs.

Knows: the store, which model answers, that a seed is drawn and the request is possible before anything is promised.
Does not know: vendors, workers. Methods are thread-safe and take milliseconds; `wait`, `follow` and
the Shares belong to the event loop.
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

STREAMS, STREAMS_PER_KEY = 1000, 50  # event streams; without keys, of one address
PAGES, PAGES_PER_KEY = 4, 2  # answers with many jobs or files, which take the processor for longer than others
PAGE_WAIT = 60.0  # seconds that such an answer waits for others of its key
WAITS, WAITS_PER_KEY = 2000, 200  # calls that wait for a job, the same
BROKEN_EVERY = 1.0  # seconds between two looks whether a worker can start


class NoWorker(Exception):
    """No worker can start, so that nobody knows when a job will end. `message` may be shown to a client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Jobs:
    """`wake` tells the dispatcher that there is something to do. `check_room` raises when no job can be promised:
    DiskFull, or what its owner raises. `remove` takes the files of a job that is deleted. `extend`: requests that say
    nothing of it are extended where they are too long for their model and it can be done. `owners`: all that share the
    queue. `broken` says why no worker can start, None when one can. `key_name`: the name of an owner's key in the log.
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
        """The job, on disk; or the one an earlier order of the same idempotency name from the same key has made.

        The job's `plan` is what can be said before its image is read.

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
            with suppress(RequestError):  # what is wrong with the request without it is told below
                plan = resolve(longer, model, others=others)
                if plan.sampling.extension:
                    return longer, plan
        return request, resolve(request, model, others=others)

    def refuse(self, order: Order, error: JobError) -> Job:
        """A job that failed before it began, for clients that look for the reason at the result's address. Only that
        is kept, for a day at most. Raises QuotaExceeded, DiskFull.
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
        """The job of that id or number if it came through that façade and with that key, else None."""
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
        """At most `limit` of that owner's jobs from that façade, those behind `after` in the order asked for."""
        return self._store.page(facade, owner, limit, after.number if after else None, newest_first)

    def delete(self, job: Job) -> None:
        """Forgets a job and its files; work on it ends within a second or at the next step."""
        job = self._store.cancel(job.id) or job
        self._store.delete(job.id)
        self._wake()
        for artifact in filter(None, (job.video, job.poster, job.manifest)):
            self._remove(artifact)

    def cancel(self, job_id: str, only_queued: bool = False) -> Job | None:
        """A queued job is cancelled at once, a running one (unless `only_queued`) within a block; the job as it is now,
        None if unknown."""
        job = self._store.cancel(job_id, only_queued)
        self._wake()
        return job

    def position(self, job: Job) -> int:
        """Queued jobs ahead of it; 0 for the next one, and for one that is not queued."""
        return self._store.position(job.id)

    def expected(self, job: Job) -> float | None:
        """Seconds until its video is there: by its own estimate, before there is one by what the model's latest videos
        took and what is ahead. None while nothing is known."""
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
        """The lines of each that has some, by its id."""
        return self._store.logs_of([job.id for job in jobs])

    def logs(self, job_id: str, after: int = 0) -> list[LogLine]:
        """Lines whose `seq` is above `after`."""
        return self._store.logs(job_id, after)

    def counts(self) -> dict[Status, int]:
        return self._store.counts()

    def stop_waiting(self) -> None:
        """From now on `wait` and `follow` raise Stopped for jobs that have not ended. For signal handlers and any
        thread."""
        self._follower.stop()

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job once it is terminal, or as it is after `timeout` seconds.

        Raises KeyError for an unknown one, Stopped, and without a timeout NoWorker.
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
        """The job now and after each change, until it has ended or is deleted. KeyError for an unknown one, Stopped."""
        return self._follower.follow(job_id)
