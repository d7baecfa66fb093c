"""Tells webhooks what has become of their jobs: at least once, signed, again and again until somebody listens.

Knows: the outbox, when to try again, when to give up. Does not know: vendors (each façade writes its own letters and
signs them), which addresses may be called (the door does).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.jobs.job import Job
from server.jobs.outbox import Notice
from server.jobs.store import JobStore
from server.media.door import Door, DownloadFailed

LOOK_EVERY = 0.2  # seconds
AT_ONCE, PER_KEY = 32, 4  # letters under way: of all, and of one key, whose slow receivers hold up nobody else's
LOOKED_AT = 500  # notices
PASSING = 2  # tries more for what is no longer news when the job has ended
TIMEOUTS = (15.0, 60.0)  # seconds an answer may take, the first time and later
# ten more tries within two hours, as fal's documentation has it
DELAYS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0)

log = structlog.get_logger()


@dataclass(frozen=True)
class Letter:
    """What is sent. `sign` gives the headers, content type among them, from the body, the unix time of sending, and a
    number that stays the same when the letter is sent again."""

    body: bytes
    sign: Callable[[bytes, float, int], Mapping[str, str]]


Writer = Callable[[Job, str], Letter | None]  # None: this vendor says nothing about that


class Courier:
    """One task of an event loop, from `start` to `stop`. `writers`: façade -> what it says of a job's event."""

    def __init__(
        self,
        store: JobStore,
        door: Door,
        writers: Mapping[str, Writer],
        delays: tuple[float, ...] = DELAYS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._door = door
        self._writers = writers
        self._delays = delays
        self._clock = clock
        self._under_way: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._main())

    async def stop(self) -> None:
        """What was not told stays in the outbox for the next start."""
        tasks = [task for task in (self._task, *self._under_way.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _main(self) -> None:
        while not self._store.database.lost:  # else another server tells
            with contextlib.suppress(SQLAlchemyError):  # a table that cannot be read now is read at the next look
                if len(self._under_way) < AT_ONCE:
                    for notice in await asyncio.to_thread(self._store.notices_due, LOOKED_AT):
                        self._send(notice)
            await asyncio.sleep(LOOK_EVERY)

    def _send(self, notice: Notice) -> None:
        there = sum(owner == notice.owner for _, owner in self._under_way)
        if (notice.id, notice.owner) in self._under_way or there >= PER_KEY or len(self._under_way) >= AT_ONCE:
            return
        task = asyncio.create_task(self._deliver(notice))
        self._under_way[notice.id, notice.owner] = task
        task.add_done_callback(lambda _: self._under_way.pop((notice.id, notice.owner), None))

    async def _deliver(self, notice: Notice) -> None:
        try:
            problem, final = await self._attempt(notice)
        except Exception as e:  # one odd job must not hold up the others' letters
            log.exception("webhook letter could not be written", job_id=notice.job_id)
            problem, final = type(e).__name__, True
        with contextlib.suppress(SQLAlchemyError):
            tries = len(self._delays) if notice.event == "completed" else min(PASSING, len(self._delays))
            if problem is None or final or notice.tries >= tries:
                await asyncio.to_thread(self._store.notice_done, notice)
            else:
                await asyncio.to_thread(self._store.notice_put_off, notice, self._delays[notice.tries])
            if problem is not None:
                text = f"webhook not told of {notice.event!r} (try {notice.tries + 1}): {problem}"
                await asyncio.to_thread(self._store.log, notice.job_id, text, "WARN")

    async def _attempt(self, notice: Notice) -> tuple[str | None, bool]:
        """What went wrong, and whether trying again is of no use."""
        job = await asyncio.to_thread(self._store.get, notice.job_id)
        writer = self._writers.get(job.facade) if job is not None else None
        if job is None or job.webhook is None or writer is None:
            return None, True
        letter = await asyncio.to_thread(writer, job, notice.event)
        if letter is None:
            return None, True
        headers = letter.sign(letter.body, self._clock(), notice.id)
        try:
            status = await self._door.post(job.webhook.url, letter.body, headers, TIMEOUTS[min(notice.tries, 1)])
        except DownloadFailed as e:
            return e.message, False
        if 200 <= status < 300:
            return None, True
        return f"it answered {status}", 300 <= status < 400
