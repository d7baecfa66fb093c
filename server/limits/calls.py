"""Fair order of requests: each key may have only a few requests in progress at a time, and keys take turns. So hundreds
of requests from one key do not delay the requests of other keys.

Knows: places and callers. Does not know: what a request does. A request keeps its place until its response begins, but
at most for SECONDS: a request that takes longer is waiting for something and does not use the CPU.
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
    """ASGI middleware: holds the server's places, which `in_turn` hands out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.places = Shares("requests", AT_ONCE, PER_KEY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[SCOPE_KEY] = self.places
        await self.app(scope, receive, send)


@asynccontextmanager
async def in_turn(scope: Scope, caller: str, send: Send) -> AsyncIterator[Send]:
    """Waits for a place for this caller. Yields a `send` function; the block must send its response through this
    function, which gives the place back."""
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
