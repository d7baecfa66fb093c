"""Turns among API keys: a bounded number of pieces of work at a time, and no key's many before another's one.

Knows: owners, how many of each run and wait. Does not know: the work.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.errors import QueueFull


class Lane:
    """`at_once` at most, `per_owner` of them for one owner, of whom `waiting` more may wait.

    Belongs to one event loop.
    """

    def __init__(self, at_once: int, per_owner: int, waiting: int) -> None:
        self._at_once = at_once
        self._per_owner = per_owner
        self._most_waiting = waiting
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the owner whose turn is next comes first

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Waits for a turn and holds it. Raises QueueFull when too many of this owner wait."""
        line = self._waiting.setdefault(owner, deque())
        if len(line) >= self._most_waiting:
            message = f"{self._most_waiting} files of this key are waiting to be checked; send the request again later"
            raise QueueFull(self._most_waiting, message)
        ready = asyncio.get_running_loop().create_future()
        line.append(ready)
        self._admit()
        try:
            await ready
        except asyncio.CancelledError:
            if not ready.cancelled():  # its turn had come
                self._leave(owner)
            raise
        try:
            yield
        finally:
            self._leave(owner)

    def _leave(self, owner: str) -> None:
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]
        self._admit()

    def _admit(self) -> None:
        while self._running.total() < self._at_once:
            free = (owner for owner, line in self._waiting.items() if line and self._running[owner] < self._per_owner)
            owner = next(free, None)
            if owner is None:
                break
            line = self._waiting.pop(owner)
            ready = line.popleft()
            if line:
                self._waiting[owner] = line  # behind the others
            if not ready.cancelled():
                self._running[owner] += 1
                ready.set_result(None)
        self._waiting = {owner: line for owner, line in self._waiting.items() if line}
