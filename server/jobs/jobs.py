"""What a façade may do with jobs.

Knows: the store, which model answers, that a seed is drawn and the request is possible before anything is promised.
Does not know: vendors, workers. Methods are thread-safe and take milliseconds; `wait` belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from pipelines.models import ModelInfo
from pipelines.plan import Plan, resolve
from pipelines.request import GenerationRequest, RequestError, Task, draw_seed
from server.jobs.job import Artifact, Job, JobError, LogLine, Status, Webhook
from server.jobs.loglines import KeyName, about
from server.jobs.served import Served
from server.jobs.store import NO_QUOTA, REFUSED, JobStore, Quota

WATCH_EVERY = 0.1  # seconds
WATCHED_AT_ONCE = 500  # jobs in one look; SQLite takes some thousand variables in a query

log = structlog.get_logger()


class Stopped(KeyError):
    """The server is stopping: how the job ends is not to be learnt from this process any more."""


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
        rife_available: bool = False,
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
        self.rife_available = rife_available
        self._extend = extend
        self._remove = remove
        self._quota = quota
        self._owners = owners
        self._broken = broken
        self._key_name = key_name
        self._stopping = False
        self._watched: dict[str, set[asyncio.Future[None]]] = {}
        self._patient: set[asyncio.Future[None]] = set()  # those of them that wait without a timeout
        self._watcher: asyncio.Task[None] | None = None

    @property
    def models(self) -> Mapping[Task, ModelInfo]:
        """What answers each task."""
        return self._served.by_task

    def submit(
        self,
        request: GenerationRequest,
        *,
        facade: str,
        endpoint: str,
        payload: dict[str, Any],
        owner: str,
        priority: int = 0,
        keep_seconds: float | None = None,
        webhook: Webhook | None = None,
        idempotency: str | None = None,
        start_by: float | None = None,
        end_by: float | None = None,
    ) -> Job:
        """The job, on disk; or the one an earlier call of the same `idempotency` name from the same key has made.

        `payload` must hold no key. The job's `plan` is what can be told before its picture is read.

        Raises RequestError, NoModel, QueueFull, QuotaExceeded, IdempotencyConflict, DiskFull.
        """
        if request.seed is None:
            request = replace(request, seed=draw_seed())
        model = self._served.model_for(request.task)
        request, plan = self._planned(request, model)
        self._check_room()
        job = Job(
            id=str(uuid.uuid4()),
            facade=facade,
            endpoint=endpoint,
            request=request,
            payload=payload,
            model=model.name,
            created_at=time.time(),
            plan=plan.to_dict(),
            owner=owner,
            priority=priority,
            keep_seconds=keep_seconds,
            webhook=webhook,
            idempotency=idempotency,
            start_by=start_by,
            end_by=end_by,
        )
        made, job = job, self._store.submit(job, self._max_queue, self._quota(owner), self._owners())
        if job.id == made.id:
            log.info("job accepted", **about(job, self._key_name))
        self._served.told(job.model)
        self._wake()
        return job

    def _planned(self, request: GenerationRequest, model: ModelInfo) -> tuple[GenerationRequest, Plan]:
        others = tuple(self._served.by_task.values())
        if self._extend and request.extend is None:
            longer = replace(request, extend=True)
            with suppress(RequestError):  # what is wrong with the request without it is told below
                plan = resolve(longer, model, others=others)
                if plan.extension:
                    return longer, plan
        return request, resolve(request, model, others=others)

    def refuse(
        self,
        *,
        facade: str,
        endpoint: str,
        error: JobError,
        owner: str,
        webhook: Webhook | None = None,
    ) -> Job:
        """A job that failed before it began, for clients that look for the reason at the result's address. Only that
        is kept, for a day at most. Raises QuotaExceeded, DiskFull.
        """
        self._check_room()
        now = time.time()
        job = Job(
            id=str(uuid.uuid4()),
            facade=facade,
            endpoint=endpoint,
            request=GenerationRequest(prompt="", seed=0),
            payload={},
            model=REFUSED,
            created_at=now,
            finished_at=now,
            status=Status.FAILED,
            error=error,
            owner=owner,
            webhook=webhook,
        )
        return self._store.submit(job, quota=self._quota(owner))

    def get(self, job_id: str) -> Job | None:
        return self._store.get(job_id)

    def find(self, job_id: str | int, facade: str, owner: str) -> Job | None:
        """The job of that id or number if it came through that façade and with that key, else None."""
        job = self._store.get(job_id) if isinstance(job_id, str) else self._store.get_number(job_id)
        if job is None or (job.facade, job.owner) != (facade, owner):
            return None
        self._served.told(job.model)
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

    def logs(self, job_id: str, after: int = 0) -> list[LogLine]:
        """Lines whose `seq` is above `after`."""
        return self._store.logs(job_id, after)

    def counts(self) -> dict[Status, int]:
        return self._store.counts()

    def stop_waiting(self) -> None:
        """From now on `wait` raises Stopped for jobs that have not ended. For signal handlers and any thread."""
        self._stopping = True

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job once it is terminal, or as it is after `timeout` seconds.

        Raises KeyError for an unknown one, Stopped, and without a timeout NoWorker.
        """
        job = await asyncio.to_thread(self._store.get, job_id)
        if job is None:
            raise KeyError(job_id)
        if self._unless_stopped(job).status.is_terminal:
            return job
        ended = asyncio.get_running_loop().create_future()
        if timeout is None:
            self._patient.add(ended)
        self._watched.setdefault(job_id, set()).add(ended)
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch())
        try:
            await asyncio.wait({ended}, timeout=timeout)
        finally:
            self._patient.discard(ended)
            waiters = self._watched.get(job_id, set())
            waiters.discard(ended)
            if not waiters:
                self._watched.pop(job_id, None)
        found = await asyncio.to_thread(self._store.get, job_id)
        if found is None:  # deleted meanwhile
            return replace(job, status=Status.CANCELLED, finished_at=time.time())
        if timeout is None and not found.status.is_terminal and (reason := self._broken()) is not None:
            raise NoWorker(reason)
        return self._unless_stopped(found)

    def _unless_stopped(self, job: Job) -> Job:
        if self._stopping and not job.status.is_terminal:
            raise Stopped(job.id)
        return job

    async def _watch(self) -> None:
        """One look at the table for all who wait, as long as anybody does."""
        while self._watched:
            if self._stopping:
                for waiter in [one for waiters in self._watched.values() for one in waiters if not one.done()]:
                    waiter.set_result(None)
                return
            if self._patient and self._broken() is not None:
                for waiter in [one for one in self._patient if not one.done()]:
                    waiter.set_result(None)
            ids = list(self._watched)
            for begin in range(0, len(ids), WATCHED_AT_ONCE):
                some = ids[begin : begin + WATCHED_AT_ONCE]
                try:
                    ended = await asyncio.to_thread(self._store.ended, some)
                except Exception:  # a table that cannot be read now is read at the next look
                    ended = set()
                for job_id in ended:
                    for waiter in self._watched.pop(job_id, set()):
                        if not waiter.done():
                            waiter.set_result(None)
            await asyncio.sleep(WATCH_EVERY)
