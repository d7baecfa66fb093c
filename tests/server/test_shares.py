"""Places that keys share: no key holds them all, none waits behind another's many."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from server.errors import TooManyAtOnce
from server.shares import Shares


def test_a_key_has_so_many_and_another_its_first_in_any_case() -> None:
    shares = Shares("things", 4, 3)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(shares.held("a"))
        with pytest.raises(TooManyAtOnce, match="3 things"), shares.held("a"):
            pass
        held.enter_context(shares.held("b"))
        held.enter_context(shares.held("c"))  # though all four are taken
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
    """Ten of one key do not keep another's second one waiting behind them; who gives up loses nobody's place."""

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
