"""The order of the queue: whose job comes next, and how many come before another.

Of the highest priority; of the key that has the fewest running jobs and was served longest ago; its oldest.
Knows: the rows this takes. Does not know: transactions, what becomes of a job that is taken.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, bindparam, case, func, insert, select, update

from server.jobs.job import Status
from server.jobs.tables import jobs, turns

# who waits at a priority of at least `priority`: how many jobs, the first of them, how many came before job `n`
WAITING = (
    select(
        jobs.c.priority,
        jobs.c.owner,
        func.count().label("waiting"),
        func.min(jobs.c.n).label("first"),
        func.sum(case((jobs.c.n < bindparam("n"), 1), else_=0)).label("before"),
    )
    .where(jobs.c.status == Status.QUEUED, jobs.c.priority >= bindparam("priority"))
    .group_by(jobs.c.priority, jobs.c.owner)
)


def first(db: Connection) -> tuple[int, str] | None:
    """Number and owner of the job that comes next."""
    turn = _turns().subquery()
    in_turn = (
        jobs.c.priority.desc(),
        func.coalesce(turn.c.running, 0),
        func.coalesce(turn.c.served, 0),
        jobs.c.n,
    )
    rows = select(jobs.c.n, jobs.c.owner).select_from(jobs.outerjoin(turn, turn.c.owner == jobs.c.owner))
    row = db.execute(rows.where(jobs.c.status == Status.QUEUED).order_by(*in_turn).limit(1)).one_or_none()
    return None if row is None else (row.n, row.owner)


def taken(db: Connection, owner: str) -> None:
    latest = int(db.execute(select(func.coalesce(func.max(turns.c.served), 0))).scalar_one())
    if not db.execute(update(turns).where(turns.c.owner == owner).values(served=latest + 1)).rowcount:
        db.execute(insert(turns).values(owner=owner, served=latest + 1))


def ahead(db: Connection, job_id: str) -> int:
    """How many queued jobs are ahead of it as things stand, 0 for one that is not queued."""
    queued = jobs.c.id == job_id, jobs.c.status == Status.QUEUED
    own = db.execute(select(jobs.c.n, jobs.c.priority, jobs.c.owner).where(*queued)).one_or_none()
    if own is None:
        return 0
    waiting = db.execute(WAITING, {"priority": own.priority, "n": own.n}).all()
    others = [row for row in waiting if row.priority == own.priority and row.owner != own.owner]
    turn = {row.owner: (row.running, row.served) for row in db.execute(_turns())} if others else {}
    rank = sum(row.before for row in waiting if (row.priority, row.owner) == (own.priority, own.owner))
    found = rank + sum(row.waiting for row in waiting if row.priority > own.priority)
    mine = (*turn.get(own.owner, (0, 0)), own.n)
    for row in others:  # keys take turns: each has had as many as this one, or one more
        comes_first = (*turn.get(row.owner, (0, 0)), row.first) < mine
        found += min(row.waiting, rank + comes_first)
    return int(found)


def _turns() -> Select[Any]:
    """Of each key that was ever served: how many of its jobs run, and when its last turn was."""
    running = (
        select(jobs.c.owner, func.count().label("running"))
        .where(jobs.c.status == Status.RUNNING)
        .group_by(jobs.c.owner)
        .subquery()
    )
    both = turns.outerjoin(running, running.c.owner == turns.c.owner)
    return select(turns.c.owner, func.coalesce(running.c.running, 0).label("running"), turns.c.served).select_from(both)
