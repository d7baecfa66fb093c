"""The outbox of webhooks: a row for each event, written in the same transaction as the change that it reports.

Knows: the pending events, their order. No event is lost: each is sent at least once.
Does not know: HTTP, signatures, bodies.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Connection, case, delete, func, insert, select, update

from server.jobs.tables import jobs, webhooks

LONGEST_DELAY = 7200.0  # seconds
MANY = 500  # letters to delay in one transaction
LANES = 16  # lanes per owner; a host that does not answer delays only the letters in its lane


@dataclass(frozen=True)
class Notice:
    """An event of a job that the job's webhook has not received yet. `tries`: failed tries so far."""

    id: int
    job_id: str
    event: str
    tries: int
    lane: str = ""
    host: str = ""

    @property
    def owner(self) -> str:
        return self.lane.rpartition(" ")[0]


def announce(db: Connection, job_id: str, now: float, *events: str) -> None:
    """Adds a letter for each of `events` that the job's webhook, if any, subscribes to."""
    job = db.execute(select(jobs.c.webhook, jobs.c.owner).where(jobs.c.id == job_id)).one_or_none()
    if job is None or not job.webhook:
        return
    for event in events:
        if event in job.webhook["events"] and not (event == "logs" and _waits(db, job_id, event)):
            first = select(webhooks.c.due_at).where(webhooks.c.job_id == job_id).order_by(webhooks.c.id).limit(1)
            due_at = db.execute(first).scalar_one_or_none()  # a letter waits for the job's earlier letters
            row = {"job_id": job_id, "event": event, "tries": 0, "due_at": now if due_at is None else due_at}
            host = host_of(job.webhook["url"])
            db.execute(insert(webhooks).values(lane=lane_of(job.owner, host), host=host, **row))


def host_of(url: str) -> str:
    """The host and port of a URL, "" for an invalid one."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""


def lane_of(owner: str, host: str) -> str:
    """The lane for this owner's letters to this host. The number of lanes is limited, because `due` runs a query for
    each lane."""
    return f"{owner} {zlib.crc32(host.encode('utf-8', 'replace')) % LANES}"


def _waits(db: Connection, job_id: str, event: str) -> bool:
    """Whether the same event of this job is pending already, so that no second letter is needed."""
    same = select(webhooks.c.id).where(webhooks.c.job_id == job_id, webhooks.c.event == event)
    return db.execute(same.limit(1)).scalar_one_or_none() is not None


def due(db: Connection, now: float, under_way: Collection[int] = ()) -> list[Notice]:
    """For each lane, the letter that has been due longest. Only the first letter of each job is considered. Letters in
    `under_way` are left out.

    The query needs a few index look-ups per lane, however many letters are waiting.
    """
    w = webhooks.c
    lanes = select(func.min(w.lane).label("lane")).cte("lanes", recursive=True)
    following = select(func.min(w.lane)).where(w.lane > lanes.c.lane).scalar_subquery()
    lanes = lanes.union_all(select(following).where(lanes.c.lane.is_not(None)))
    earlier = webhooks.alias()

    def first(when: ColumnElement[bool]) -> Any:
        before = select(earlier.c.id).where(earlier.c.job_id == w.job_id, earlier.c.id < w.id)
        head = select(w.id).where(w.lane == lanes.c.lane, when, ~before.exists(), w.id.not_in(under_way))
        return head.order_by(w.due_at, w.id).limit(1).correlate(lanes).scalar_subquery()

    put_back = w.due_at > now + LONGEST_DELAY  # the clock was set back
    heads = select(func.coalesce(first(w.due_at <= now), first(put_back))).select_from(lanes)
    query = select(w.id, w.job_id, w.event, w.tries, w.lane, w.host).where(w.id.in_(heads)).order_by(w.due_at, w.id)
    return [Notice(*row) for row in db.execute(query)]


def put_off(db: Connection, notice: Notice, until: float) -> None:
    """Delays the letter and all later letters of its job."""
    db.execute(update(webhooks).where(webhooks.c.id == notice.id).values(tries=notice.tries + 1))
    db.execute(update(webhooks).where(webhooks.c.job_id == notice.job_id).values(due_at=until))


def put_off_host(db: Connection, notice: Notice, now: float, delays: Sequence[float]) -> None:
    """Counts a failed try for up to MANY other due letters to the same host, which did not answer. `delays`: seconds,
    by number of tries; the last try of each letter is always made."""
    w = webhooks.c
    same = select(w.id).where(w.lane == notice.lane, w.host == notice.host, w.due_at <= now, w.tries < len(delays))
    ids = db.execute(same.order_by(w.due_at, w.id).limit(MANY)).scalars().all()
    if not ids or not delays:
        return
    earlier = webhooks.alias()
    before = select(earlier.c.id).where(earlier.c.job_id == w.job_id, earlier.c.id < w.id)
    delay = case(*((w.tries == tries, seconds) for tries, seconds in enumerate(delays)))
    db.execute(update(webhooks).where(w.id.in_(ids)).values(due_at=now + delay))
    db.execute(update(webhooks).where(w.id.in_(ids), ~before.exists()).values(tries=w.tries + 1))


def strike_out(db: Connection, notice: Notice) -> None:
    db.execute(delete(webhooks).where(webhooks.c.id == notice.id))
