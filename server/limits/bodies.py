"""Limits how many bytes of request bodies are held in memory, per caller and in total.

Knows: sizes and caller names. Does not know: the content of a body. Use each object from one event loop only.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import TooManyBodies

MAX_BODY = 128 * 2**20  # bytes: a 64 MB clip as base64, with room to spare
SHORT = 64 * 2**10  # bytes; bodies up to this size are not counted
WAIT_SECONDS = 30.0  # how long a request waits until its body fits into the limits
SCOPE_KEY = "cogvideox.bodies"


class BodyTooLarge(Exception):
    def __init__(self, limit: int = MAX_BODY) -> None:
        self.message = f"The request body is larger than {limit // 2**20} MiB"
        super().__init__(self.message)


class Bodies:
    """Allows `most` bytes at a time in total and `most_each` for one caller."""

    def __init__(self, most: int, most_each: int) -> None:
        self.most = most
        self.most_each = most_each
        self._held: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], tuple[str, int]] = {}

    async def take(self, caller: str, size: int) -> None:
        """Waits until `size` more bytes are allowed, and reserves them until `give_back`. Raises TooManyBodies after
        WAIT_SECONDS."""
        if self._fits(caller, size):
            self._held[caller] += size
            return
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[room] = (caller, size)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await room
        except BaseException as e:
            if room.done() and not room.cancelled():  # the room was granted at the same moment
                self.give_back(caller, size)
            if isinstance(e, TimeoutError):
                raise TooManyBodies(self.most_each) from None
            raise
        finally:
            self._waiting.pop(room, None)

    def take_now(self, caller: str, size: int) -> None:
        """Like `take`, but raises TooManyBodies without waiting when the bytes are not allowed now."""
        if not self._fits(caller, size):
            raise TooManyBodies(self.most_each)
        self._held[caller] += size

    def give_back(self, caller: str, size: int) -> None:
        self._held[caller] -= size
        if self._held[caller] <= 0:
            del self._held[caller]
        for room, (other, wanted) in list(self._waiting.items()):
            if not room.done() and self._fits(other, wanted):
                self._held[other] += wanted
                room.set_result(None)

    def _fits(self, caller: str, size: int) -> bool:
        return self._held[caller] + size <= self.most_each and self._held.total() + size <= self.most


class Share:
    """The bytes that one request has reserved in `bodies`."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._taken: Counter[str] = Counter()

    async def take(self, caller: str, size: int) -> None:
        await self._bodies.take(caller, size)
        self._taken[caller] += size

    def take_now(self, caller: str, size: int) -> None:
        self._bodies.take_now(caller, size)
        self._taken[caller] += size

    def give_back(self) -> None:
        for caller, size in self._taken.items():
            self._bodies.give_back(caller, size)
        self._taken.clear()


class Counted:
    """ASGI middleware: gives each request a Share and releases it after the response, because the body may be in use
    until then."""

    def __init__(self, app: ASGIApp, bodies: Bodies) -> None:
        self.app = app
        self.bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        share = scope[SCOPE_KEY] = Share(self.bodies)
        try:
            await self.app(scope, receive, send)
        finally:
            share.give_back()
