"""Waiting for jobs: one poll of the table serves all requests that wait for a job and all event streams.

Knows: the store, what has changed since the previous poll. Does not know: vendors, HTTP. Use from one event loop only,
except `stop`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from server.jobs.job import Job, LogLine, Status
from server.jobs.store import JobStore

T = TypeVar("T")

LOOK_EVERY = 0.1  # seconds between two polls for the end of jobs
DETAILS_EVERY = 0.5  # seconds between two polls of the progress, position and log of streamed jobs
SHARE = 10.0  # the pause after a poll is at least the poll's duration times this
SILENCE = 15.0  # seconds without a change, after which a stream repeats the job's state
AT_ONCE = 500  # jobs in one query; limited, because SQLite limits the number of variables in a query


class Stopped(KeyError):
    """The server is stopping and the job has not ended."""


@dataclass(frozen=True)
class Seen:
    """A job as a stream sees it. `position`: the number of queued jobs ahead of the job. `lines`: log lines that are
    new for this stream."""

    job: Job
    position: int
    lines: list[LogLine]


@dataclass(eq=False)
class _Followed:
    job: Job
    changed: asyncio.Future[None]
    position: int = 0
    lines: list[LogLine] = field(default_factory=list)
    gone: bool = False
    readers: int = 0
    streams: int = 0

    @property
    def last_line(self) -> int:
        return self.lines[-1].seq if self.lines else 0

    @property
    def over(self) -> bool:
        return self.gone or self.job.status.is_terminal


class Follower:
    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._followed: dict[str, _Followed] = {}
        self._task: asyncio.Task[None] | None = None
        self._fresh = set[_Followed]()  # jobs whose first stream is beginning
        self._looking = asyncio.Lock()
        # separate threads, because other work may occupy the event loop's own
        self._thread = ThreadPoolExecutor(1, "follower")
        self._stopping = False

    def stop(self) -> None:
        """Makes `wait` and `follow` raise Stopped for unfinished jobs. May be called from signal handlers and any
        thread."""
        self._stopping = True

    async def wait(self, job_id: str, timeout: float | None) -> Job:
        """Returns the job once it has ended, or in its state after `timeout` seconds. Raises KeyError for an unknown
        job, Stopped when the server stops."""
        with await self._reader(job_id, stream=False) as one:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    while not one.over:
                        self._raise_if_stopped(one)
                        await _change(one)
            self._raise_if_stopped(one)
            if one.gone:
                return replace(one.job, status=Status.CANCELLED, finished_at=time.time())
            return one.job

    async def follow(self, job_id: str) -> AsyncGenerator[Seen]:
        """Yields the job at once, after each change, after SILENCE seconds without a change, and last when it has
        ended. If the job is deleted, the stream ends without a last state. Raises KeyError for an unknown job, Stopped
        when the server stops."""
        with await self._reader(job_id, stream=True) as one:
            lines = 0
            while not one.gone:
                fresh, lines, over = one.lines[lines:], len(one.lines), one.over
                yield Seen(one.job, one.position, fresh)
                if over:
                    return
                self._raise_if_stopped(one)
                with suppress(TimeoutError):
                    async with asyncio.timeout(SILENCE):
                        await _change(one)

    async def _reader(self, job_id: str, stream: bool) -> AbstractContextManager[_Followed]:
        """Raises KeyError, Stopped."""
        one = self._followed.get(job_id)
        if one is None or one.over:
            job = await self._in_thread(partial(self._store.get, job_id))
            if job is None:
                raise KeyError(job_id)
            one = _Followed(job, asyncio.get_running_loop().create_future())
            if not one.over:  # another request may have begun to follow the job meanwhile
                one = self._followed.setdefault(job_id, one)
        self._raise_if_stopped(one)
        if stream and not one.streams:
            await self._look_closer(one)
        return self._reading(one, stream)

    async def _look_closer(self, one: _Followed) -> None:
        """Reads position and log lines. One query serves all streams that begin at the same time (maybe hundreds)."""
        self._fresh.add(one)
        async with self._looking:
            if one not in self._fresh:
                return
            some, self._fresh = self._fresh, set()
            try:
                news = await self._in_thread(partial(self._closer, some))
            except BaseException:
                self._fresh |= some - {one}
                raise
            for found in news:
                _take_in(found)

    @contextmanager
    def _reading(self, one: _Followed, stream: bool) -> Iterator[_Followed]:
        one.readers += 1
        one.streams += stream
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._main())
        try:
            yield one
        finally:
            one.readers -= 1
            one.streams -= stream
            if not one.readers and self._followed.get(one.job.id) is one:
                del self._followed[one.job.id]

    def _raise_if_stopped(self, one: _Followed) -> None:
        if self._stopping and not one.over:
            raise Stopped(one.job.id)

    async def _main(self) -> None:
        details_at = 0.0
        while self._followed:
            begun = time.monotonic()
            details = begun >= details_at
            which = [one for one in self._followed.values() if details or one.readers > one.streams]
            with suppress(SQLAlchemyError):  # after an error, the next poll reads the table again
                for first in range(0, len(which), AT_ONCE):
                    some = which[first : first + AT_ONCE]
                    for news in await self._in_thread(partial(self._look, some, details)):
                        _take_in(news)
            if self._stopping:
                for one in self._followed.values():
                    _announce(one)
            took = time.monotonic() - begun
            if details:
                details_at = begun + max(DETAILS_EVERY, SHARE * took)
            await asyncio.sleep(max(LOOK_EVERY, SHARE * took))

    async def _in_thread(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)

    def _look(self, which: list[_Followed], details: bool) -> list[_News]:
        states = self._store.states([one.job.id for one in which])
        turned = [one.job.id for one in which if _has_turned(one.job, states.get(one.job.id))]
        whole = {job.id: job for job in self._store.several(turned)} if turned else {}
        found = []
        for one in which:
            state = states.get(one.job.id)
            job = None if state is None else whole.get(one.job.id) or replace(one.job, **state)
            found.append(_News(one, job))
        ended = any(news.job is not None and news.job.status.is_terminal for news in found)
        if details or ended:  # so that a job's end comes with its last log lines
            self._add_details([news for news in found if news.job is not None and news.one.streams])
        return found

    def _closer(self, some: Iterable[_Followed]) -> list[_News]:
        found = [_News(one, one.job) for one in some]
        self._add_details(found)
        return found

    def _add_details(self, found: list[_News]) -> None:
        jobs = [news.job for news in found if news.job is not None]
        queued = [job.number for job in jobs if job.status is Status.QUEUED]
        positions = self._store.positions(queued) if queued else {}
        ends = self._store.log_ends([job.id for job in jobs]) if jobs else {}
        for news in found:
            news.position = positions.get(news.one.job.number, 0)
            last = news.one.last_line
            if ends.get(news.one.job.id, 0) > last:
                news.lines = self._store.logs(news.one.job.id, last)


@dataclass
class _News:
    """The result of a poll. `job`: None when the job was deleted. `position`: None when this poll did not query the
    position; the earlier position then remains valid."""

    one: _Followed
    job: Job | None
    position: int | None = None
    lines: list[LogLine] = field(default_factory=list)


def _has_turned(job: Job, state: dict[str, Any] | None) -> bool:
    """Whether more than the job's progress may have changed."""
    return state is not None and (job.status, job.attempt, job.stage) != tuple(
        state[name] for name in ("status", "attempt", "stage")
    )


def _take_in(news: _News) -> None:
    one = news.one
    lines = [line for line in news.lines if line.seq > one.last_line]
    position = one.position if news.position is None else news.position
    if (one.job, one.position, one.gone) == (news.job, position, False) and not lines:
        return
    one.gone = news.job is None
    one.job = news.job or one.job
    one.position = position
    one.lines += lines
    _announce(one)


def _announce(one: _Followed) -> None:
    changed, one.changed = one.changed, asyncio.get_running_loop().create_future()
    changed.set_result(None)


async def _change(one: _Followed) -> None:
    await asyncio.shield(one.changed)  # other readers await the same future
