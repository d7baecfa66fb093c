"""Limits how many places of a shared resource one key may hold at a time, so that no key can take all places.

Knows: places and key names. Does not know: what a place is for. Use each object from one event loop only.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from starlette.requests import Request

from server.errors import TooManyAtOnce


class Shares:
    """There are `total` places; one key may hold at most `per_key`, and at most `waiting` requests of a key may wait
    for a place. `what` names the places in errors.

    A key without a place gets a place even when all are taken, so other keys cannot lock it out. Waiting keys take
    turns. On an open server all callers share the key "", which may hold every place.
    """

    def __init__(self, what: str, total: int, per_key: int, waiting: int | None = None) -> None:
        self._what = what
        self._total = total
        self._per_key = per_key
        self._most_waiting = waiting
        self._held = Counter[str]()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @contextmanager
    def held(self, key: str) -> Iterator[None]:
        """Holds a place for the duration of the block. Raises TooManyAtOnce when the key may not have another place."""
        if not self._has_room(key):
            raise TooManyAtOnce(self._limit(key), self._what)
        self._held[key] += 1
        try:
            yield
        finally:
            self.give_back(key)

    @asynccontextmanager
    async def turn(self, key: str, seconds: float | None = None) -> AsyncIterator[None]:
        """Waits up to `seconds` for a place and holds it for the duration of the block. Raises TooManyAtOnce."""
        await self.take(key, seconds)
        try:
            yield
        finally:
            self.give_back(key)

    async def take(self, key: str, seconds: float | None = None) -> None:
        """Takes a place, to be returned with `give_back`. Raises TooManyAtOnce when no place is free within `seconds`;
        raises it without waiting when too many requests of this key are waiting."""
        if key not in self._waiting and self._has_room(key):
            self._held[key] += 1
            return
        if self._most_waiting is not None and len(self._waiting.get(key, ())) >= self._most_waiting:
            raise TooManyAtOnce(self._most_waiting, f"{self._what} that wait")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(place)
        try:
            async with asyncio.timeout(seconds):
                await place
        except BaseException as e:
            if place.done() and not place.cancelled():  # the place was granted at the same moment
                self.give_back(key)
            else:
                self._forget(key, place)
            if isinstance(e, TimeoutError):
                raise TooManyAtOnce(self._limit(key), self._what) from None
            raise

    def give_back(self, key: str) -> None:
        self._held[key] -= 1
        if self._held[key] <= 0:
            del self._held[key]
        self._hand_out()

    def _limit(self, key: str) -> int:
        return self._per_key if key else self._total

    def _has_room(self, key: str) -> bool:
        own = self._held[key]
        return own == 0 or (own < self._limit(key) and self._held.total() < self._total)

    def _hand_out(self) -> None:
        """Gives one place to each waiting key, round after round, until no key may have another."""
        handed = True
        while handed:
            handed = False
            for key in [key for key in self._waiting if self._has_room(key)]:
                if not self._has_room(key):  # an earlier key in this round took the last place
                    continue
                place = self._waiting[key][0]
                self._forget(key, place)
                if key in self._waiting:  # move this key behind the other keys
                    self._waiting[key] = self._waiting.pop(key)
                if not place.done():  # a future that is done belongs to a request that has stopped waiting
                    self._held[key] += 1
                    place.set_result(None)
                handed = True

    def _forget(self, key: str, place: asyncio.Future[Any]) -> None:
        places = self._waiting.get(key)
        if places is not None and place in places:
            places.remove(place)
            if not places:
                del self._waiting[key]


def holder(owner: str, request: Request) -> str:
    """The key for a caller's places: its API key's owner name, or its address on an open server."""
    return owner or f"address {request.client.host if request.client else 'unknown'}"
