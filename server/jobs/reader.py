"""Reads the job table: jobs, their positions in the queue, their log lines.

Knows: the tables. Does not know: which writes are allowed (`store.py`), clients. Every method may be called from any
thread and sees a consistent state of the table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import ColumnElement, func, select

from server.jobs import outbox, turns
from server.jobs.database import Database
from server.jobs.job import Job, LogLine, Status
from server.jobs.tables import job_events, jobs, to_job

MOVING = ("status", "attempt", "cancel_requested", "stage", "step", "steps", "share", "eta", "started_at")
GOING = [status for status in Status if not status.is_terminal]


class JobReader:
    """`clock` returns unix seconds."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self._engine = database.engine
        self._clock = clock

    def get(self, job_id: str) -> Job | None:
        return self._one(jobs.c.id == job_id)

    def get_number(self, number: int) -> Job | None:
        return self._one(jobs.c.n == number)

    def _one(self, which: ColumnElement[bool]) -> Job | None:
        with self._engine.connect() as db:
            row = db.execute(select(jobs).where(which)).one_or_none()
        return to_job(row) if row is not None else None

    def page(
        self, facade: str, owner: str, limit: int, after: int | None = None, newest_first: bool = True
    ) -> list[Job]:
        """At most `limit` jobs of this façade and owner, sorted by number, from the job after number `after`."""
        query = select(jobs).where(jobs.c.facade == facade, jobs.c.owner == owner)
        if after is not None:
            query = query.where(jobs.c.n < after if newest_first else jobs.c.n > after)
        query = query.order_by(jobs.c.n.desc() if newest_first else jobs.c.n).limit(limit)
        with self._engine.connect() as db:
            return [to_job(row) for row in db.execute(query)]

    def position(self, job_id: str) -> int:
        """The present number of queued jobs ahead of this job; 0 for a job that is not queued."""
        with self._engine.connect() as db:
            return turns.ahead(db, job_id)

    def counts(self) -> dict[Status, int]:
        with self._engine.connect() as db:
            rows = db.execute(select(jobs.c.status, func.count()).group_by(jobs.c.status)).all()
        return dict.fromkeys(Status, 0) | {Status(status): int(count) for status, count in rows}

    def took(self, model: str, latest: int = 5) -> list[tuple[float, float, int]]:
        """For each of the model's latest videos: seconds of work, seconds of sampling, sampling steps."""
        made = (jobs.c.model == model, jobs.c.status == Status.SUCCEEDED.value, jobs.c.started_at.is_not(None))
        spent = select(jobs.c.finished_at - jobs.c.started_at, jobs.c.timings, jobs.c.steps).where(*made)
        with self._engine.connect() as db:
            rows = db.execute(spent.order_by(jobs.c.n.desc()).limit(latest)).all()
        return [(float(seconds), float(timings.get("denoise", 0)), int(steps)) for seconds, timings, steps in rows]

    def unfinished(self) -> dict[Status, int]:
        """The numbers of queued and running jobs. The duration of this query does not depend on the number of ended
        jobs."""
        query = select(jobs.c.status, func.count()).where(jobs.c.status.in_(GOING)).group_by(jobs.c.status)
        with self._engine.connect() as db:
            rows = db.execute(query).all()
        return dict.fromkeys(GOING, 0) | {Status(status): int(count) for status, count in rows}

    def logs(self, job_id: str, after: int = 0) -> list[LogLine]:
        """The lines whose `seq` is above `after`, oldest first."""
        e = job_events.c
        query = select(e.seq, e.at, e.level, e.message).where(e.job_id == job_id, e.seq > after).order_by(e.seq)
        with self._engine.connect() as db:
            return [LogLine(*row) for row in db.execute(query)]

    def states(self, job_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """For each existing job, the columns that change while the job runs, except large columns."""
        query = select(jobs.c.id, *(jobs.c[name] for name in MOVING)).where(jobs.c.id.in_(job_ids))
        with self._engine.connect() as db:
            rows = db.execute(query).all()
        found = {row[0]: dict(zip(MOVING, row[1:], strict=True)) for row in rows}
        return {job_id: {**state, "status": Status(state["status"])} for job_id, state in found.items()}

    def several(self, job_ids: Collection[str]) -> list[Job]:
        """The jobs with these ids; skips ids that do not exist."""
        with self._engine.connect() as db:
            return [to_job(row) for row in db.execute(select(jobs).where(jobs.c.id.in_(job_ids)))]

    def positions(self, numbers: Collection[int]) -> dict[int, int]:
        """Job number -> number of queued jobs ahead of that job; contains only queued jobs."""
        with self._engine.connect() as db:
            return turns.ahead_of(db, numbers)

    def log_ends(self, job_ids: Collection[str]) -> dict[str, int]:
        """The `seq` of each job's last line."""
        e = job_events.c
        query = select(e.job_id, func.max(e.seq)).where(e.job_id.in_(job_ids)).group_by(e.job_id)
        with self._engine.connect() as db:
            return {row[0]: row[1] for row in db.execute(query)}

    def logs_of(self, job_ids: Collection[str]) -> dict[str, list[LogLine]]:
        """Job id -> its lines, oldest first."""
        e, found = job_events.c, dict[str, list[LogLine]]()
        query = select(e.job_id, e.seq, e.at, e.level, e.message).where(e.job_id.in_(job_ids))
        with self._engine.connect() as db:
            for row in db.execute(query.order_by(e.job_id, e.seq)):
                found.setdefault(row[0], []).append(LogLine(*row[1:]))
        return found

    def inputs_in_use(self) -> set[str]:
        """The SHA-256 of each image, clip and LoRA that a queued or running job needs."""
        unfinished = jobs.c.status.in_(GOING)
        with self._engine.connect() as db:
            requests = db.execute(select(jobs.c.request).where(unfinished)).scalars().all()
        needed = (one for asked in requests for one in (asked["image"], asked["video"], *asked["loras"]))
        return {one["sha256"] for one in needed if one and one.get("sha256")}

    def unwanted(self, job_ids: Collection[str]) -> set[str]:
        """The ids, among these, of jobs that should stop: cancelled, deleted, or no longer running."""
        wanted = select(jobs.c.id).where(
            jobs.c.id.in_(job_ids), jobs.c.status == Status.RUNNING, jobs.c.cancel_requested.is_(False)
        )
        with self._engine.connect() as db:
            return set(job_ids) - set(db.execute(wanted).scalars())

    def notices_due(self, under_way: Collection[int] = ()) -> list[outbox.Notice]:
        """The webhook events to send now, at most one per lane, without the events in `under_way`."""
        with self._engine.connect() as db:
            return outbox.due(db, self._clock(), under_way)
