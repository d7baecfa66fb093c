"""Processes large texts from clients in steps of a few milliseconds. One text is processed at a time, and keys take
turns.

While a built-in function of Python processes megabytes, nothing else runs in this process, not even the event loop.
Knows: the size of a step, whose turn it is. Does not know: what is done with the texts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from server.limits.shares import Shares

STEP = 256 * 2**10  # characters or bytes
LARGE = 2**20  # a text of this size or more waits for its turn

T = TypeVar("T")
_turns = Shares("large texts", 1, 1)
_threads = ThreadPoolExecutor(2, "large-texts")


def steps(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The begin and end of each step between `begin` and `end`."""
    for at in range(begin, end, STEP):
        yield at, min(at + STEP, end)


async def in_turn(owner: str, size: int, call: Callable[..., T], *args: Any) -> T:
    """Runs `call(*args)` in a thread and returns its result; before a text of LARGE or more characters, waits for this
    key's turn."""
    if size < LARGE:
        return await asyncio.to_thread(call, *args)
    async with _turns.turn(owner):
        return await asyncio.get_running_loop().run_in_executor(_threads, call, *args)
