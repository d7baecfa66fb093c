"""Resolves host names, so that a dead name server delays only the key whose request needs it.

`getaddrinfo` cannot be interrupted, so it runs in separate threads, a few per key. A thread counts for its key until
the thread has ended, even if its caller has stopped waiting. The threads are daemons, so they do not keep the server
from stopping.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from server.errors import TooManyAtOnce
from server.limits.shares import Shares

AT_ONCE, PER_KEY = 64, 8  # look-ups
SECONDS = 10.0  # seconds for one look-up, including the wait for a thread
FLAGS = socket.AI_ADDRCONFIG & getattr(socket, "AI_MASK", -1)
NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class NameNotResolved(Exception):
    """The name was not resolved in time."""


class Names:
    """Use from one event loop only."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._look_ups = Shares("name look-ups", AT_ONCE, PER_KEY)

    def of(self, owner: str) -> AbstractResolver:
        """The resolver for this key's transfers."""
        return _Resolver(self, owner)

    async def look_up(self, owner: str, host: str, port: int, family: int) -> list[Any]:
        """The result of `getaddrinfo`. Raises NameNotResolved, socket.gaierror."""
        loop = asyncio.get_running_loop()
        failure = NameNotResolved(f"the host name was not resolved within {self._seconds:g} seconds")
        begun = loop.time()
        try:
            await self._look_ups.take(owner, self._seconds)
        except TooManyAtOnce:
            raise failure from None
        found: asyncio.Future[list[Any]] = loop.create_future()

        def done(result: list[Any] | None, error: Exception | None) -> None:
            self._look_ups.give_back(owner)
            if found.done():
                return
            if error is not None:
                found.set_exception(error)
            else:
                found.set_result(result or [])

        def work() -> None:
            result, error = None, None
            try:
                result = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, FLAGS)
            except (OSError, UnicodeError) as e:
                error = e if isinstance(e, OSError) else socket.gaierror(socket.EAI_NONAME, "not a host name")
            if not loop.is_closed():
                loop.call_soon_threadsafe(done, result, error)

        try:
            threading.Thread(target=work, name="name look-up", daemon=True).start()
        except RuntimeError:  # the system allows no further thread
            self._look_ups.give_back(owner)
            raise failure from None
        try:
            async with asyncio.timeout_at(begun + self._seconds):
                return await found
        except TimeoutError:
            raise failure from None


class _Resolver(AbstractResolver):
    def __init__(self, names: Names, owner: str) -> None:
        self._names = names
        self._owner = owner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._names.look_up(self._owner, host, port, family)
        return [
            ResolveResult(
                hostname=host, host=str(where[0]), port=int(where[1]), family=kind, proto=protocol, flags=NUMERIC
            )
            for kind, _, protocol, _, where in found
        ]

    async def close(self) -> None:
        pass
