"""The rate limit: how many requests each IP address and each key may send in a period.

Knows: periods, and the address and keys of a request. Does not know: the form of a refusal (each façade has its own),
whether a key is valid. ASGI middleware in front of a façade.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from limits import parse
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.auth import given_keys
from server.errors import RateLimited
from server.limits.connections import place_of

MOST_CALLERS = 50_000  # the maximum number of addresses and keys (valid or not) whose requests are counted


class Limiter:
    """`rate`: for example `60/minute`. The counts are kept in memory, and cover all façades together."""

    def __init__(self, rate: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._item = parse(rate)
        self._seconds = float(self._item.get_expiry())
        self._clock = clock
        # the times of each caller's requests, least recently active caller first. NOTE: the memory storage of the
        # `limits` package is unsuitable: it never forgets a caller and scans all of them after each request
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, request: Request) -> None:
        """Counts the request; raises RateLimited."""
        now = self._clock()
        self._forget(now)
        for who in self._callers(request):
            times = self._seen.setdefault(who, deque())
            while times and times[0] <= now - self._seconds:
                times.popleft()
            if len(times) >= self._item.amount:
                raise RateLimited(self._item.amount, str(self._item), max(1.0, times[0] + self._seconds - now))
            times.append(now)
            self._seen.move_to_end(who)

    def _forget(self, now: float) -> None:
        """Forgets callers without a request in the last period and, above MOST_CALLERS, the least recently active
        callers."""
        while self._seen:
            who, times = next(iter(self._seen.items()))
            if times and times[-1] > now - self._seconds and len(self._seen) <= MOST_CALLERS:
                return
            del self._seen[who]

    def _callers(self, request: Request) -> list[str]:
        address = request.client.host if request.client else "unknown"
        keys = [hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest() for key in given_keys(request.headers)]
        return [f"address {place_of(address)}", *(f"key {key}" for key in keys)]


class Limited:
    """ASGI middleware: passes a request on to `app`, or answers with the response that `refuse` builds."""

    def __init__(self, app: ASGIApp, limiter: Limiter, refuse: Callable[[Request, Exception], Response]) -> None:
        self.app = app
        self.limiter = limiter
        self.refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] != "OPTIONS":
            request = Request(scope)
            try:
                self.limiter.check(request)
            except RateLimited as e:
                await self.refuse(request, e)(scope, receive, send)
                return
        await self.app(scope, receive, send)
