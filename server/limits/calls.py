"""Whose request is worked on next: one key may have a few at a time, and keys take turns, so that hundreds of requests
that one key sends at once do not all go first.

Knows: places, who called. Does not know: what a request is for. A request has its place until its answer begins, or for
SECONDS: what takes longer waits for something, and the processor is free meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.limits.shares import Shares

AT_ONCE, PER_KEY = 16, 8
SECONDS = 0.1
SCOPE_KEY = "cogvideox.calls"


class Fair:
    """ASGI: the places of one server, for `in_turn`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.places = Shares("requests", AT_ONCE, PER_KEY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[SCOPE_KEY] = self.places
        await self.app(scope, receive, send)


@asynccontextmanager
async def in_turn(scope: Scope, caller: str, send: Send) -> AsyncIterator[Send]:
    """Waits for a place of this caller's. The block sends its answer through what it is given."""
    places: Shares | None = scope.get(SCOPE_KEY)
    if places is None:
        yield send
        return
    await places.take(caller)
    held = True

    def give_back() -> None:
        nonlocal held
        if held:
            held = False
            places.give_back(caller)

    async def sending(message: Message) -> None:
        give_back()
        await send(message)

    later = asyncio.get_running_loop().call_later(SECONDS, give_back)
    try:
        yield sending
    finally:
        later.cancel()
        give_back()
