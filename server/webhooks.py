"""Sends the webhooks of jobs: signed, at least once for each event, with retries until the receiver answers.

Knows: the outbox, how many letters (webhook calls) to send at a time, when to retry and to give up. Does not know:
vendors (each façade writes and signs its own letters), which addresses may be called (`Outbound` does).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from server.jobs.job import Job
from server.jobs.outbox import Notice
from server.jobs.store import JobStore
from server.media.outbound import DownloadFailed, Outbound, Unreachable

LOOK_EVERY = 0.2  # seconds between two looks at the outbox
LEAST_PAUSE = 0.02  # minimum seconds between two looks at the outbox, also under load
# letters being sent at a time: in total, per key, per lane; slow receivers of one key do not delay other keys
AT_ONCE, PER_KEY, PER_LANE = 64, 8, 4
REST = 4.0  # seconds without calls to a host that did not answer; less than the first delay between tries
RESTING = 10_000  # hosts to remember
PASSING = 2  # retries of an event other than `completed`, because such events become outdated
TIMEOUTS = (15.0, 60.0)  # seconds to wait for a response: at the first try, and later
# ten more tries within two hours, as fal documents it
DELAYS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0)

log = structlog.get_logger()


@dataclass(frozen=True)
class Letter:
    """A webhook call. `sign(body, time, number)` returns the headers, including the content type. `time`: the unix time
    of sending. `number` stays the same in retries."""

    body: bytes
    sign: Callable[[bytes, float, int], Mapping[str, str]]


T = TypeVar("T")
Writer = Callable[[Job, str], Letter | None]  # the result is None when the vendor sends nothing for that event


class Courier:
    """Runs as a task of the event loop from `start` to `stop`. `writers`: façade -> its writer of letters."""

    def __init__(
        self,
        store: JobStore,
        outbound: Outbound,
        writers: Mapping[str, Writer],
        delays: tuple[float, ...] = DELAYS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._outbound = outbound
        self._writers = writers
        self._delays = delays
        self._clock = clock
        self._under_way: dict[int, tuple[Notice, asyncio.Task[None]]] = {}
        self._resting: dict[tuple[str, str], float] = {}  # (lane, host) -> monotonic time when its pause ends
        self._ended = asyncio.Event()
        # separate threads, so that other work in the event loop's threads does not delay letters
        self._threads = ThreadPoolExecutor(4, "courier")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._main())

    async def stop(self) -> None:
        """Stops sending. Unsent letters stay in the outbox until the server's next start."""
        tasks = [task for _, task in self._under_way.values()]
        tasks += [self._task] if self._task is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)

    async def _in_thread(self, act: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, act, *args)

    async def _main(self) -> None:
        while not self._store.database.lost:  # when the database is lost, another server sends the letters
            self._ended.clear()
            with contextlib.suppress(SQLAlchemyError):  # the next round tries again
                while self._send_all(await self._in_thread(self._store.notices_due, tuple(self._under_way))):
                    pass
            await asyncio.sleep(LEAST_PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):  # NOTE: `wait_for` of Python 3.11 can swallow a cancellation
                    await self._ended.wait()

    def _send_all(self, notices: list[Notice]) -> int:
        """Sends the letters that may be sent now, beginning with keys that have few in progress; returns their
        number."""
        owners = Counter(notice.owner for notice, _ in self._under_way.values())
        lanes = Counter(notice.lane for notice, _ in self._under_way.values())
        sent = 0
        for notice in sorted(notices, key=lambda notice: owners[notice.owner]):
            own, most = owners[notice.owner], PER_KEY if notice.owner else AT_ONCE
            full = own >= most or len(self._under_way) >= AT_ONCE
            if (own and full) or lanes[notice.lane] >= PER_LANE:  # each key may always send one letter
                continue
            owners[notice.owner] += 1
            lanes[notice.lane] += 1
            self._send(notice)
            sent += 1
        return sent

    def _send(self, notice: Notice) -> None:
        task = asyncio.create_task(self._deliver(notice))
        self._under_way[notice.id] = (notice, task)

        def ended(_: asyncio.Task[None]) -> None:
            del self._under_way[notice.id]
            self._ended.set()

        task.add_done_callback(ended)

    async def _deliver(self, notice: Notice) -> None:
        try:
            problem, final, silent = await self._attempt(notice)
        except Exception as e:  # a faulty job must not delay other jobs' letters
            log.exception("webhook letter could not be written", job_id=notice.job_id)
            problem, final, silent = type(e).__name__, True, False
        line = problem and f"webhook not called for {notice.event!r} (try {notice.tries + 1}): {problem}"
        with contextlib.suppress(SQLAlchemyError):
            tries = len(self._delays) if notice.event == "completed" else min(PASSING, len(self._delays))
            if line is None or final or notice.tries >= tries:
                await self._in_thread(self._store.notice_done, notice, line)
            else:
                others = self._delays[:tries] if silent else ()
                await self._in_thread(self._store.notice_put_off, notice, self._delays[notice.tries], line, others)

    async def _attempt(self, notice: Notice) -> tuple[str | None, bool, bool]:
        """Returns the problem (None: sent), whether a retry is pointless, and whether the host did not answer."""
        job = await self._in_thread(self._store.get, notice.job_id)
        writer = self._writers.get(job.facade) if job is not None else None
        if job is None or job.webhook is None or writer is None:
            return None, True, False
        host = notice.lane, notice.host
        if self._resting.get(host, 0.0) > time.monotonic():
            return "the host did not answer another call a moment ago", False, True
        letter = await self._in_thread(writer, job, notice.event)
        if letter is None:
            return None, True, False
        headers = letter.sign(letter.body, self._clock(), notice.id)
        timeout = TIMEOUTS[min(notice.tries, 1)]
        try:
            status = await self._outbound.post(job.webhook.url, letter.body, headers, timeout, job.owner)
        except DownloadFailed as e:
            if isinstance(e, Unreachable):
                self._rest(host)
            return e.message, False, isinstance(e, Unreachable)
        self._resting.pop(host, None)
        if 200 <= status < 300:
            return None, True, False
        return f"it answered {status}", 300 <= status < 400, False

    def _rest(self, host: tuple[str, str]) -> None:
        now = time.monotonic()
        if len(self._resting) >= RESTING:
            self._resting = {one: until for one, until in self._resting.items() if until > now}
        if len(self._resting) < RESTING:
            self._resting[host] = now + REST
