"""The order of the queue: which job is next, how many jobs are ahead of a job, and how much of the queue a key may
fill.

Jobs with the highest priority come first. Among them, the key with the fewest running jobs is next; among keys with
equally many running jobs, the key served longest ago is next. Within a key, the oldest job comes first. Knows: the rows
that decide the order. Does not know: transactions, what happens to a job afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, case, func, insert, select, update

from server.errors import QueueFull
from server.jobs.job import Status
from server.jobs.tables import jobs, turns

# queued jobs of at least `priority`, per priority and owner: number of jobs, lowest job number, jobs numbered below `n`
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


def waiting(db: Connection) -> Counter[str]:
    """The number of queued jobs of each owner."""
    # grouped by priority too, so that an index covers the query
    rows = select(jobs.c.priority, jobs.c.owner, func.count()).where(jobs.c.status == Status.QUEUED)
    found = Counter[str]()
    for _, owner, number in db.execute(rows.group_by(jobs.c.priority, jobs.c.owner)):
        found[owner] += number
    return found


def check_share(waiting: Mapping[str, int], owner: str, limit: int, owners: Collection[str]) -> None:
    """Raises QueueFull when `owner` may not add a job to a queue of `limit` places.

    An owner with waiting jobs may add another job while it has fewer waiting jobs than the queue has free places that
    are not reserved. One place is reserved for each of the other `owners` that has no waiting job; at most half of the
    queue is reserved. A single owner may use the whole queue.
    """
    own = waiting.get(owner, 0)
    free = limit - sum(waiting.values())
    if free <= 0:
        raise QueueFull(limit)
    others = set(owners) - {owner}
    kept = min(len(others - waiting.keys()), limit // 2)
    if own and others and own >= free - kept:
        has = f"{own} {'job is' if own == 1 else 'jobs are'} waiting"
        raise QueueFull(limit, f"{has} for this key already; the other places in the queue are kept for other keys")


def first(db: Connection) -> tuple[int, str] | None:
    """Number and owner of the next job; None for an empty queue."""
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
    """The present number of queued jobs ahead of this job; 0 for a job that is not queued."""
    queued = jobs.c.id == job_id, jobs.c.status == Status.QUEUED
    own = db.execute(select(jobs.c.n, jobs.c.priority, jobs.c.owner).where(*queued)).one_or_none()
    if own is None:
        return 0
    waiting = db.execute(WAITING, {"priority": own.priority, "n": own.n}).all()
    turn = {row.owner: (row.running, row.served) for row in db.execute(_turns())} if len(waiting) > 1 else {}
    rank = sum(row.before for row in waiting if (row.priority, row.owner) == (own.priority, own.owner))
    return _ahead(own, rank, waiting, turn)


def ahead_of(db: Connection, numbers: Collection[int]) -> dict[int, int]:
    """Job number -> number of jobs ahead of that job; contains only queued jobs."""
    place = func.row_number().over(partition_by=(jobs.c.priority, jobs.c.owner), order_by=jobs.c.n).label("place")
    queued = select(jobs.c.n, jobs.c.priority, jobs.c.owner, place).where(jobs.c.status == Status.QUEUED).subquery()
    found = db.execute(select(queued).where(queued.c.n.in_(numbers))).all()
    if not found:
        return {}
    waiting = db.execute(WAITING, {"priority": min(row.priority for row in found), "n": 0}).all()
    turn = {row.owner: (row.running, row.served) for row in db.execute(_turns())} if len(waiting) > 1 else {}
    return {row.n: _ahead(row, row.place - 1, waiting, turn) for row in found}


def _ahead(own: Any, rank: int, waiting: Sequence[Any], turn: Mapping[str, tuple[int, int]]) -> int:
    """The number of jobs ahead of the job `own`. `rank`: how many of the jobs ahead have the same owner and priority.
    `waiting`: rows of WAITING. `turn`: for each owner the number of running jobs and its last turn."""
    found = rank + sum(row.waiting for row in waiting if row.priority > own.priority)
    mine = (*turn.get(own.owner, (0, 0)), own.n)
    for row in waiting:  # keys take turns: before this job, each other key has `rank` or `rank` + 1 turns
        if row.priority == own.priority and row.owner != own.owner:
            comes_first = (*turn.get(row.owner, (0, 0)), row.first) < mine
            found += min(row.waiting, rank + comes_first)
    return int(found)


def _turns() -> Select[Any]:
    """For each owner that ever had a turn: the number of its running jobs, and its last turn."""
    running = (
        select(jobs.c.owner, func.count().label("running"))
        .where(jobs.c.status == Status.RUNNING)
        .group_by(jobs.c.owner)
        .subquery()
    )
    both = turns.outerjoin(running, running.c.owner == turns.c.owner)
    return select(turns.c.owner, func.coalesce(running.c.running, 0).label("running"), turns.c.served).select_from(both)
