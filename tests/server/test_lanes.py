"""Turns among keys: counted, not timed."""

from __future__ import annotations

import asyncio

import pytest

from server.errors import QueueFull
from server.media.lanes import Lane


class Work:
    """Pieces of work that go on until they are let go; `begun` in the order in which their turns came."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.begun: list[str] = []
        self.go = asyncio.Semaphore(0)

    def add(self, *owners: str) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._do(owner)) for owner in owners]

    async def _do(self, owner: str) -> None:
        async with self.lane.turn(owner):
            self.begun.append(owner)
            await self.go.acquire()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_another_keys_one_comes_before_a_keys_hundred() -> None:
    async def run() -> None:
        work = Work(Lane(at_once=4, per_owner=2, waiting=100))
        many = work.add(*["mallory"] * 100)
        await settle()
        assert work.begun == ["mallory"] * 2, "two places stay free for others"
        others = work.add("bob", "carol", "dave")
        await settle()
        assert work.begun == ["mallory", "mallory", "bob", "carol"]
        work.go.release()
        await settle()
        assert work.begun[-1] == "dave", "who has had none comes before who has had one"
        for task in [*many, *others]:
            task.cancel()
        await asyncio.gather(*many, *others, return_exceptions=True)
        assert not work.lane._running and not work.lane._waiting

    asyncio.run(run())


def test_keys_take_turns() -> None:
    async def run() -> None:
        work = Work(Lane(at_once=1, per_owner=1, waiting=10))
        tasks = work.add("a", "a", "a", "b", "b", "c")
        for _ in tasks:
            await settle()
            work.go.release()
        await asyncio.gather(*tasks)
        assert work.begun == ["a", "b", "c", "a", "b", "a"] or work.begun == ["a", "a", "b", "c", "a", "b"]

    asyncio.run(run())


def test_a_key_may_have_so_many_waiting() -> None:
    async def run() -> None:
        work = Work(Lane(at_once=1, per_owner=1, waiting=3))
        tasks = work.add(*["mallory"] * 4)
        await settle()
        with pytest.raises(QueueFull, match="3 files of this key are waiting"):
            await work._do("mallory")
        tasks += work.add("bob")
        await settle()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def test_one_that_gives_up_leaves_its_place() -> None:
    async def run() -> None:
        work = Work(Lane(at_once=1, per_owner=1, waiting=10))
        first, second, third = work.add("a", "b", "c")
        await settle()
        second.cancel()
        await settle()
        first.cancel()
        await settle()
        assert work.begun == ["a", "c"]
        third.cancel()
        await asyncio.gather(first, second, third, return_exceptions=True)
        assert not work.lane._running and not work.lane._waiting

    asyncio.run(run())
