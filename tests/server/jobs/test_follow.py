"""Clients wait for jobs and follow them: one reader serves all streams, no event is missed, and every stream ends."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from pipelines.request import GenerationRequest
from server.jobs.follow import Follower, Seen, Stopped
from server.jobs.job import Job, JobError, Status
from server.jobs.store import JobStore
from tests.rigs import pace


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs.db")
    yield store
    store.close()


def job(name: str, owner: str = "") -> Job:
    return Job(name, "test", "e", GenerationRequest("p", seed=1), {}, "m", 1.0, owner=owner)


async def collect(follower: Follower, name: str, into: list[Seen]) -> None:
    async with aclosing(follower.follow(name)) as changes:
        async for seen in changes:
            into.append(seen)


async def soon(condition: object) -> None:
    async with asyncio.timeout(pace.seconds(10)):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


def test_every_change_and_every_line_once(store: JobStore) -> None:
    store.submit(job("before"))
    store.submit(job("a"))
    store.log("a", "zero")

    async def main() -> list[Seen]:
        follower, early, late = Follower(store), list[Seen](), list[Seen]()
        reading = asyncio.create_task(collect(follower, "a", early))
        await soon(lambda: early)
        assert (early[0].position, [line.message for line in early[0].lines]) == (1, ["zero"])
        store.claim()
        store.claim()
        store.progress("a", 1, stage="denoise", step=1, steps=4)
        store.log("a", "one")
        await soon(lambda: early[-1].job.step == 1)
        joining = asyncio.create_task(collect(follower, "a", late))
        await soon(lambda: late)
        store.log("a", "two")
        store.fail("a", 1, JobError("internal", "broke"))
        await asyncio.gather(reading, joining)
        assert [line.message for seen in late for line in seen.lines] == ["zero", "one", "two"]
        return early

    early = asyncio.run(main())
    assert [line.message for seen in early for line in seen.lines] == ["zero", "one", "two"]
    last = early[-1].job
    assert last.status is Status.FAILED and last == store.get("a") and early[-1].position == 0


def test_it_ends_when_the_job_is_deleted(store: JobStore) -> None:
    store.submit(job("a"))

    async def main() -> tuple[list[Seen], Job]:
        follower, seen = Follower(store), list[Seen]()
        reading = asyncio.create_task(collect(follower, "a", seen))
        waiting = asyncio.create_task(follower.wait("a", None))
        await soon(lambda: seen)
        store.delete("a")
        await asyncio.wait_for(reading, pace.seconds(10))
        return seen, await waiting

    seen, waited = asyncio.run(main())
    assert len(seen) == 1 and waited.status is Status.CANCELLED


def test_what_is_not_there_and_a_server_that_stops(store: JobStore) -> None:
    store.submit(job("a"))

    async def main() -> None:
        follower = Follower(store)
        with pytest.raises(KeyError):
            await follower.wait("b", 1.0)
        with pytest.raises(KeyError):
            await collect(follower, "b", [])
        assert (await follower.wait("a", 0.01)).status is Status.QUEUED
        reading = asyncio.create_task(collect(follower, "a", []))
        waiting = asyncio.create_task(follower.wait("a", None))
        await asyncio.sleep(0.05)
        follower.stop()
        for task in (reading, waiting):
            with pytest.raises(Stopped):
                await asyncio.wait_for(task, pace.seconds(10))

    asyncio.run(main())


def test_many_readers_take_no_more_queries(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing changes, 300 streams of 30 jobs cause only a few queries. The number does not depend on the
    machine."""
    for n in range(30):
        store.submit(job(f"j{n}", owner=f"k{n % 3}"))
    asked: list[str] = []
    for name in ("get", "states", "several", "positions", "log_ends", "logs"):
        method = getattr(store, name)
        monkeypatch.setattr(store, name, lambda *a, m=method, n=name: asked.append(n) or m(*a))

    async def main() -> None:
        follower = Follower(store)
        seen: list[list[Seen]] = [[] for _ in range(300)]
        tasks = [asyncio.create_task(collect(follower, f"j{n % 30}", mine)) for n, mine in enumerate(seen)]
        await soon(lambda: all(seen))
        asked.clear()
        await asyncio.sleep(1.2)
        assert asked.count("states") <= 4 and set(asked) <= {"states", "positions", "log_ends"}
        for n in range(30):
            assert seen[n][-1].position == store.position(f"j{n}")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not follower._followed

    asyncio.run(main())


def test_streams_that_begin_at_once_are_looked_at_together(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = list[int]()
    positions = store.positions

    def counted(numbers: Collection[int]) -> dict[int, int]:
        looks.append(len(numbers))
        return positions(numbers)

    monkeypatch.setattr(store, "positions", counted)
    names = [f"job{n}" for n in range(20)]
    for name in names:
        store.submit(job(name))
        store.log(name, name)

    async def main() -> dict[str, list[Seen]]:
        follower, found = Follower(store), dict[str, list[Seen]]()
        reading = [asyncio.create_task(collect(follower, name, found.setdefault(name, []))) for name in names * 5]
        await soon(lambda: all(len(seen) >= 5 for seen in found.values()))
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        assert not follower._fresh and not follower._followed
        return found

    found = asyncio.run(main())
    for n, name in enumerate(names):
        assert [(seen.position, [line.message for line in seen.lines]) for seen in found[name][:5]] == [(n, [name])] * 5
    assert len(looks) <= len(names) and sum(looks) < 3 * len(names), looks


def test_a_look_that_fails_fails_for_one_stream_only(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.submit(job("a"))
    store.submit(job("b"))
    positions, failures = store.positions, [OperationalError("", None, Exception("locked"))]

    def failing(numbers: Collection[int]) -> dict[int, int]:
        if failures:
            raise failures.pop()
        return positions(numbers)

    monkeypatch.setattr(store, "positions", failing)

    async def main() -> list[object]:
        follower = Follower(store)

        async def first(name: str) -> int:
            async with aclosing(follower.follow(name)) as changes:
                return (await anext(changes)).position

        return list(await asyncio.gather(first("a"), first("b"), return_exceptions=True))

    found = asyncio.run(main())
    assert isinstance(found[0], OperationalError) and found[1] == 1
