"""Keys share places: no key holds all places, and no key waits behind many tasks of another key. The tests measure no
time."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from server.errors import TooManyAtOnce
from server.limits.shares import Shares


class Work:
    """Tasks that last until they are released; `begun` lists the owners in the order of their turns."""

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self.begun: list[str] = []
        self.go = asyncio.Semaphore(0)

    def add(self, *owners: str) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.do(owner)) for owner in owners]

    async def do(self, owner: str) -> None:
        async with self.shares.turn(owner):
            self.begun.append(owner)
            await self.go.acquire()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def give_up(work: Work, *tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not work.shares._held and not work.shares._waiting


def test_another_keys_one_comes_before_a_keys_hundred() -> None:
    async def run() -> None:
        work = Work(Shares("files", 4, 2, 100))
        many = work.add(*["mallory"] * 100)
        await settle()
        assert work.begun == ["mallory"] * 2
        others = work.add("bob", "carol", "dave")
        await settle()
        assert work.begun[2:] == ["bob", "carol", "dave"], "a key without a place gets one"
        work.go.release()
        await settle()
        assert work.begun[5:] == [], "four places are held"
        await give_up(work, *many, *others)

    asyncio.run(run())


def test_a_key_may_have_so_many_waiting() -> None:
    async def run() -> None:
        work = Work(Shares("files", 1, 1, 3))
        tasks = work.add(*["mallory"] * 4)
        await settle()
        with pytest.raises(TooManyAtOnce, match="3 files that wait"):
            await work.do("mallory")
        tasks += work.add("bob")
        await settle()
        assert work.begun == ["mallory", "bob"]
        await give_up(work, *tasks)

    asyncio.run(run())


def test_one_that_gives_up_leaves_its_place() -> None:
    async def run() -> None:
        work = Work(Shares("files", 1, 1, 10))
        first, second, third = work.add("a", "a", "a")
        await settle()
        second.cancel()
        await settle()
        first.cancel()
        await settle()
        assert work.begun == ["a", "a"]
        await give_up(work, first, second, third)

    asyncio.run(run())


def test_without_keys_one_caller_may_have_all() -> None:
    async def run() -> None:
        work = Work(Shares("files", 4, 1, 100))
        tasks = work.add(*[""] * 9)
        await settle()
        assert work.begun == [""] * 4
        await give_up(work, *tasks)

    asyncio.run(run())


def test_a_key_has_so_many_and_another_its_first_in_any_case() -> None:
    shares = Shares("things", 4, 3)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(shares.held("a"))
        with pytest.raises(TooManyAtOnce, match="3 things"), shares.held("a"):
            pass
        held.enter_context(shares.held("b"))
        held.enter_context(shares.held("c"))  # a key always gets its first place, even when all four places are taken
        with pytest.raises(TooManyAtOnce), shares.held("c"):
            pass
    for _ in range(5):
        with shares.held("a"):
            pass


def test_without_keys_all_of_them() -> None:
    shares = Shares("things", 4, 2)
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(shares.held(""))


def test_turns() -> None:
    """Ten tasks of one key do not delay another key's second task. When a task is cancelled, no other task loses its
    turn."""

    async def main() -> list[str]:
        shares, order = Shares("things", 2, 2), list[str]()

        async def work(key: str) -> None:
            async with shares.turn(key):
                order.append(key)
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(work("a")) for _ in range(10)]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(work("b")) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[5].cancel()
        with pytest.raises(TooManyAtOnce):
            await shares.take("a", 0.001)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not shares._held and not shares._waiting
        return order

    order = asyncio.run(main())
    assert order.count("a") == 9 and order[:3] == ["a", "a", "b"] and order.index("b", 3) <= 5
