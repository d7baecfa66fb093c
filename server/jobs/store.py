"""The job table: the only source of truth about jobs.

Knows: which state may follow which, and that a write belongs to one attempt. Does not know: the order of the queue
(`turns.py`), clients, workers, files. Every method is one transaction and may be called from any thread.

A write about a running job names its attempt. If another attempt owns the job by then, or the job has ended, the write
changes nothing and raises StaleWrite, and the caller discards its work: for example, the result of a worker that was
thought to be dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import OperationalError

from server.errors import IdempotencyConflict, QuotaExceeded, StaleWrite
from server.jobs import outbox, turns
from server.jobs.database import open_database
from server.jobs.job import FOLLOWS, Job, JobError, Status
from server.jobs.reader import GOING, JobReader
from server.jobs.tables import SCHEMA, job_events, jobs, metadata, to_job, to_row
from server.media.artifact import Artifact

MAX_LOG_LINES = 1000  # per job; later lines are dropped
LONGEST_LINE = 2000  # characters
DAY = 86400.0  # seconds
TURN_SECONDS = 5.0  # seconds, the longest that a write waits for other writes of this process
RETRY_SOON = 10.0  # seconds that a key with too many unfinished jobs should wait before it tries again
REFUSED = ""  # the model's name in a job that was refused before it began
MOST_REFUSED = 500  # refused jobs kept for each key
MOST_ENDED = 1000  # failed and cancelled jobs kept for each key
AT_ONCE = 200  # rows removed in one transaction
FRESH: dict[str, Any] = {"stage": None, "step": 0, "steps": 0, "eta": None, "started_at": None}


@dataclass(frozen=True)
class Quota:
    """Limits of a key: unfinished jobs at a time, and jobs per day (UTC). None: no limit."""

    at_once: int | None = None
    daily: int | None = None


NO_QUOTA = Quota()


class JobStore(JobReader):
    """`where`: a SQLite file, or the URL of a PostgreSQL database. `clock` returns unix seconds."""

    def __init__(self, where: Path | str, clock: Callable[[], float] = time.time) -> None:
        super().__init__(open_database(where, metadata, SCHEMA), clock)
        self._writers = self._engine.execution_options(immediate=True)
        # faster than SQLite's own lock, which is polled with pauses of up to 100 ms
        self._turn = Lock()

    def close(self) -> None:
        self.database.close()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if not self._turn.acquire(timeout=TURN_SECONDS):  # the database is locked, and all writes are waiting
            raise OperationalError("BEGIN", {}, TimeoutError("others have been writing for too long"))
        try:
            with self._writers.begin() as connection:
                yield connection
        finally:
            self._turn.release()

    # -- from clients ---------------------------------------------------------------------------------------------

    def submit(self, job: Job, limit: int | None = None, quota: Quota = NO_QUOTA, owners: Collection[str] = ()) -> Job:
        """Stores `job` and returns it; or returns the job of an earlier call with the same idempotency name.

        Raises IdempotencyConflict, QuotaExceeded; for a queued job also QueueFull, when `limit` other jobs are waiting
        or the owner has used its share of the queue among `owners`. Deletes the owner's oldest failed and cancelled
        jobs above MOST_ENDED.
        """
        with self._writing() as db:
            if job.idempotency is not None and (earlier := self._earlier(db, job)) is not None:
                return earlier
            if job.status is Status.QUEUED:
                if limit is not None:
                    turns.check_share(turns.waiting(db), job.owner, limit, owners)
                self._check_quota(db, job.owner, quota)
            elif job.model == REFUSED:
                self._check_quota(db, job.owner, Quota(None, quota.daily))
            _drop_surplus(db, job.owner)
            number = db.execute(insert(jobs).values(to_row(job))).inserted_primary_key
            if job.status.is_terminal:
                outbox.announce(db, job.id, self._clock(), "completed")
        return replace(job, number=number[0] if number else 0)

    def _earlier(self, db: Connection, job: Job) -> Job | None:
        same = (jobs.c.facade == job.facade, jobs.c.owner == job.owner, jobs.c.idempotency == job.idempotency)
        row = db.execute(select(jobs).where(*same)).one_or_none()
        if row is None:
            return None
        earlier = to_job(row)
        if _asked(earlier) != _asked(job):
            raise IdempotencyConflict
        return earlier

    def _check_quota(self, db: Connection, owner: str, quota: Quota) -> None:
        mine = jobs.c.owner == owner
        if quota.at_once is not None:
            unfinished = jobs.c.status.in_(GOING)
            if _count(db, mine, unfinished) >= quota.at_once:
                raise QuotaExceeded(quota.at_once, False, RETRY_SOON)
        if quota.daily is not None:
            now = self._clock()
            midnight = now - now % DAY
            if _count(db, mine, jobs.c.created_at >= midnight) >= quota.daily:
                raise QuotaExceeded(quota.daily, True, midnight + DAY - now)

    def delete(self, job_id: str) -> None:
        """Deletes the job. Later writes about it, by a worker that has not stopped yet, are refused."""
        with self._writing() as db:
            db.execute(delete(jobs).where(jobs.c.id == job_id))

    def cancel(self, job_id: str, only_queued: bool = False) -> Job | None:
        """Cancels a queued job at once. Marks a running job to stop, unless `only_queued` is set. Does not change an
        ended job. Returns the job, None for an unknown job."""
        with self._writing() as db:
            queued = and_(jobs.c.id == job_id, jobs.c.status == Status.QUEUED)
            ended = {"status": Status.CANCELLED, "cancel_requested": True, "finished_at": self._clock()}
            if db.execute(update(jobs).where(queued).values(ended)).rowcount:
                outbox.announce(db, job_id, self._clock(), "completed")
            elif not only_queued:
                running = and_(jobs.c.id == job_id, jobs.c.status == Status.RUNNING)
                db.execute(update(jobs).where(running).values(cancel_requested=True))
        return self.get(job_id)

    def forget(self, before: float, refused_before: float, there: Callable[[], Collection[str]]) -> int:
        """Deletes the jobs that have no stored video, and ended before `before` or were refused before `refused_before`
        (unix seconds). Returns the number of deleted jobs. `there` returns the keys of all stored files. Each
        transaction deletes AT_ONCE rows."""
        c, last, gone, files = jobs.c, 0, 0, None
        over = or_(c.finished_at < before, and_(c.model == REFUSED, c.finished_at < refused_before))
        ended = c.status.in_([s for s in Status if s.is_terminal])
        while True:
            query = select(c.n, c.video).where(c.n > last, ended, over).order_by(c.n).limit(AT_ONCE)
            with self._engine.connect() as db:
                found = db.execute(query).all()
            if not found:
                return gone
            last = found[-1].n
            if files is None and any(row.video for row in found):
                files = there()
            out = [row.n for row in found if not row.video or row.video["key"] not in (files or ())]
            if out:
                with self._writing() as db:
                    gone += db.execute(delete(jobs).where(c.n.in_(out))).rowcount

    # -- from the dispatcher --------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Cancels jobs past their deadlines `start_by` and `end_by`."""
        now, c = self._clock(), jobs.c
        unbegun = and_(c.status == Status.QUEUED, c.attempt == 0, c.start_by <= now)
        going = and_(c.status.in_(GOING), c.end_by <= now)
        late = select(c.id, going.label("going")).where(or_(unbegun, and_(going, c.cancel_requested.is_(False))))
        with self._engine.connect() as db:
            found = db.execute(late).all()
        for row in found:
            self.cancel(row.id, only_queued=not row.going)

    def claim(self) -> Job | None:
        """Takes the next job in the order of `turns.first`: sets it to running and counts the attempt."""
        with self._engine.connect() as db:  # usually nothing is queued, and reading needs no write lock
            if db.execute(select(jobs.c.n).where(jobs.c.status == Status.QUEUED).limit(1)).first() is None:
                return None
        with self._writing() as db:
            if (chosen := turns.first(db)) is None:
                return None
            number, owner = chosen
            started = {**FRESH, "status": Status.RUNNING, "attempt": jobs.c.attempt + 1, "started_at": self._clock()}
            db.execute(update(jobs).where(jobs.c.n == number).values(started))
            turns.taken(db, owner)
            job = to_job(db.execute(select(jobs).where(jobs.c.n == number)).one())
            if job.attempt == 1:
                outbox.announce(db, job.id, self._clock(), "start")
        return job

    def progress(self, job_id: str, attempt: int, **values: Any) -> None:
        """Sets the given values of the job: any of request, plan, stage, step, steps, share, eta and memory. Keeps the
        stored share if the given share is lower."""
        if "share" in values:
            share = values["share"]
            values["share"] = case((jobs.c.share > share, jobs.c.share), else_=share)
        with self._writing() as db:
            self._change(db, job_id, attempt, None, values)
            outbox.announce(db, job_id, self._clock(), "logs")

    def finish(
        self,
        job_id: str,
        attempt: int,
        *,
        video: Artifact,
        poster: Artifact,
        manifest: Artifact,
        timings: dict[str, float],
        memory: str,
    ) -> None:
        values = {"video": asdict(video), "poster": asdict(poster), "manifest": asdict(manifest)}
        with self._writing() as db:
            extra = {**values, "timings": timings, "memory": memory, "eta": None}
            self._change(db, job_id, attempt, Status.SUCCEEDED, extra)

    def fail(self, job_id: str, attempt: int, error: JobError, deaths: Sequence[str] | None = None) -> None:
        values: dict[str, Any] = {"error": asdict(error), "eta": None}
        with self._writing() as db:
            if deaths is not None:
                values["deaths"] = list(deaths)
            self._change(db, job_id, attempt, Status.FAILED, values)

    def cancelled(self, job_id: str, attempt: int) -> None:
        with self._writing() as db:
            self._change(db, job_id, attempt, Status.CANCELLED, {"eta": None, "cancel_requested": True})

    def requeue(self, job_id: str, attempt: int, deaths: Sequence[str] | None = None) -> Status:
        """Returns the job to its place in the queue, or cancels the job if it is marked to stop. Returns the new
        state."""
        values = {**FRESH} if deaths is None else {**FRESH, "deaths": list(deaths)}
        with self._writing() as db:
            asked = select(jobs.c.cancel_requested).where(jobs.c.id == job_id)
            to = Status.CANCELLED if db.execute(asked).scalar_one_or_none() else Status.QUEUED
            self._change(db, job_id, attempt, to, values)
        return to

    def requeue_running(self) -> list[Job]:
        """Puts every running job back into the queue, or cancels the job if it is marked to stop. Returns the jobs that
        are queued now. The caller must hold the data folder's lock, so that no worker can be running a job."""
        with self._writing() as db:
            found = [to_job(row) for row in db.execute(select(jobs).where(jobs.c.status == Status.RUNNING))]
            for job in found:
                to = Status.CANCELLED if job.cancel_requested else Status.QUEUED
                self._change(db, job.id, job.attempt, to, {} if to.is_terminal else FRESH)
        return [replace(job, status=Status.QUEUED) for job in found if not job.cancel_requested]

    def log(self, job_id: str, message: str, level: str = "INFO") -> None:
        """Appends a line, unless the job has MAX_LOG_LINES already. Lines belong to the job, not to an attempt."""
        with self._writing() as db:
            self._add_line(db, job_id, message, level)

    def _add_line(self, db: Connection, job_id: str, message: str, level: str) -> None:
        text = message[:LONGEST_LINE].encode("utf-8", "replace").decode().replace("\0", "")
        last = select(func.coalesce(func.max(job_events.c.seq), 0)).where(job_events.c.job_id == job_id)
        if db.execute(select(jobs.c.n).where(jobs.c.id == job_id)).scalar_one_or_none() is None:
            return  # the job was deleted while it ran
        seq = int(db.execute(last).scalar_one()) + 1
        if seq <= MAX_LOG_LINES:
            line = {"job_id": job_id, "seq": seq, "at": self._clock(), "level": level, "message": text}
            db.execute(insert(job_events).values(line))

    # -- for the courier of webhooks ------------------------------------------------------------------------------

    def notice_put_off(
        self, notice: outbox.Notice, seconds: float, problem: str, for_host: Sequence[float] = ()
    ) -> None:
        """`for_host`: set if the host did not answer: delays for the other letters to that host, in seconds, by number
        of tries."""
        with self._writing() as db:
            outbox.put_off(db, notice, self._clock() + seconds)
            outbox.put_off_host(db, notice, self._clock(), for_host)
            self._add_line(db, notice.job_id, problem, "WARN")

    def notice_done(self, notice: outbox.Notice, problem: str | None = None) -> None:
        """Removes the letter, because it was sent or, if `problem` is given, because it was given up."""
        with self._writing() as db:
            outbox.strike_out(db, notice)
            if problem is not None:
                self._add_line(db, notice.job_id, problem, "WARN")

    def _change(self, db: Connection, job_id: str, attempt: int, to: Status | None, values: dict[str, Any]) -> None:
        """Every write about a running job goes through here. `to`: the new state, None to keep it."""
        before = [Status.RUNNING] if to is None else [s for s in Status if s is Status.RUNNING and to in FOLLOWS[s]]
        if to is not None:
            values = {**values, "status": to}
            if to.is_terminal:
                values["finished_at"] = self._clock()
        own = and_(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.status.in_(before))
        if db.execute(update(jobs).where(own).values(values)).rowcount:
            if to is not None and to.is_terminal:
                events = ("output", "completed") if to is Status.SUCCEEDED else ("completed",)
                outbox.announce(db, job_id, self._clock(), *events)
            return
        row = db.execute(select(jobs.c.status, jobs.c.attempt).where(jobs.c.id == job_id)).one_or_none()
        is_now = "is gone" if row is None else f"is {row.status} in attempt {row.attempt} by now"
        raise StaleWrite(job_id, attempt, f"cannot become {to or 'further along'}: it {is_now}")


def _asked(job: Job) -> tuple[Any, ...]:
    """The values that must be equal in two requests with the same idempotency name. Files are compared by hash, because
    the memo does not contain their content. Memo names with a leading underscore are left out, because they concern
    only the response."""
    media = job.request.image, job.request.video
    memo = {name: value for name, value in job.memo.items() if not name.startswith("_")}
    return job.endpoint, memo, [one and one.sha256 for one in media]


def _drop_surplus(db: Connection, owner: str) -> None:
    """Deletes a key's oldest failed and cancelled jobs, so that they do not fill the table."""
    c = jobs.c
    without_video = and_(c.owner == owner, c.status.in_([Status.FAILED, Status.CANCELLED]))
    for which, most in ((and_(without_video, c.model == REFUSED), MOST_REFUSED), (without_video, MOST_ENDED)):
        surplus = select(c.n).where(which).order_by(c.n.desc()).offset(most).limit(AT_ONCE)
        if numbers := db.execute(surplus).scalars().all():
            db.execute(delete(jobs).where(c.n.in_(numbers)))


def _count(db: Connection, *which: ColumnElement[bool]) -> int:
    return int(db.execute(select(func.count()).select_from(jobs).where(*which)).scalar_one())
