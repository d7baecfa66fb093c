"""What webhooks are still to be told: rows written in the same transaction as the change they tell of.

Knows: which events there are, that none is lost and each is told at least once.
Does not know: HTTP, signatures, bodies.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from server.jobs.tables import jobs, webhooks

LONGEST_DELAY = 7200.0  # seconds; nothing is put off for longer


@dataclass(frozen=True)
class Notice:
    """One event of one job that its webhook has not been told yet; `tries` failed so far."""

    id: int
    job_id: str
    event: str
    tries: int
    owner: str = ""


def announce(db: Connection, job_id: str, now: float, *events: str) -> None:
    """Notes those of `events` that the job's webhook, if it has one, wants to hear of."""
    hook = db.execute(select(jobs.c.webhook).where(jobs.c.id == job_id)).scalar_one_or_none()
    for event in events:
        if hook and event in hook["events"] and not (event == "logs" and _waits(db, job_id, event)):
            db.execute(insert(webhooks).values(job_id=job_id, event=event, tries=0, due_at=now))


def _waits(db: Connection, job_id: str, event: str) -> bool:
    """Whether the same is about to be told anyway: progress comes faster than it need be heard."""
    same = select(webhooks.c.id).where(webhooks.c.job_id == job_id, webhooks.c.event == event)
    return db.execute(same.limit(1)).scalar_one_or_none() is not None


def due(db: Connection, now: float, limit: int) -> list[Notice]:
    """What is to be told by `now`, in the order it happened; of each job only the first that is still untold."""
    w = webhooks.c
    first = select(func.min(w.id)).group_by(w.job_id)
    is_due = or_(w.due_at <= now, w.due_at > now + LONGEST_DELAY)  # or the clock was put back meanwhile
    both = webhooks.join(jobs, jobs.c.id == w.job_id)
    query = (
        select(w.id, w.job_id, w.event, w.tries, jobs.c.owner)
        .select_from(both)
        .where(w.id.in_(first), is_due)
        .order_by(w.id)
        .limit(limit)
    )
    return [Notice(*row) for row in db.execute(query)]


def put_off(db: Connection, notice: Notice, until: float) -> None:
    db.execute(update(webhooks).where(webhooks.c.id == notice.id).values(tries=notice.tries + 1, due_at=until))


def strike_out(db: Connection, notice: Notice) -> None:
    db.execute(delete(webhooks).where(webhooks.c.id == notice.id))
