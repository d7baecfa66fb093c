"""Work on large texts that clients send: in steps that each take a few milliseconds, one text at a time, keys in turn.

While one of Python's own functions goes through megabytes, nothing else runs in this process, not even the event loop.
Knows: how long a step is, whose turn it is. Does not know: what is done with the texts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from server.limits.shares import Shares

STEP = 256 * 2**10  # characters or bytes
LARGE = 2**20  # from this size on, a text waits for a turn

T = TypeVar("T")
_turns = Shares("large texts", 1, 1)
_threads = ThreadPoolExecutor(2, "large-texts")


def steps(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Where each step from `begin` to `end` begins and ends."""
    for at in range(begin, end, STEP):
        yield at, min(at + STEP, end)


async def in_turn(owner: str, size: int, call: Callable[..., T], *args: Any) -> T:
    """What `call` makes, in a thread, of a text of that size; of a large one when it is the turn of this API key."""
    if size < LARGE:
        return await asyncio.to_thread(call, *args)
    async with _turns.turn(owner):
        return await asyncio.get_running_loop().run_in_executor(_threads, call, *args)
