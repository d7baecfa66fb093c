"""Event streams of jobs.

Knows: how long a stream may be silent, the limit of streams per caller, the headers against buffering by proxies. Does
not know: the content of events.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, suppress

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from server.jobs.follow import Seen
from server.jobs.jobs import Jobs

KEEP_ALIVE = 15.0  # seconds of silence after which a stream sends a comment
HEADERS = {"cache-control": "no-cache, no-store", "x-accel-buffering": "no"}  # nginx reads the second header


class EventStream(StreamingResponse):
    """`place`: a context manager. It is entered before anything is sent, and exited when the stream ends."""

    def __init__(
        self, events: AsyncIterator[str], headers: Mapping[str, str], place: AbstractContextManager[None]
    ) -> None:
        super().__init__(events, headers={**HEADERS, **headers}, media_type="text/event-stream")
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            if scope["method"] == "HEAD":
                await Response(None, headers=self.headers)(scope, receive, send)
                return
            await super().__call__(scope, receive, send)


async def followed(jobs: Jobs, job_id: str, event: Callable[[Seen], str]) -> AsyncIterator[str]:
    """Yields the text that `event` returns, once at the start and then after each change of the job. Stops when the job
    has ended or was deleted, or when the server stops. Yields a comment if `event` has returned no text for KEEP_ALIVE
    seconds."""
    last = time.monotonic()
    with suppress(KeyError):  # the job was deleted, or the server stops
        async with aclosing(jobs.follow(job_id)) as changes:
            async for seen in changes:
                text = event(seen)
                if not text and time.monotonic() - last < KEEP_ALIVE:
                    continue
                last = time.monotonic()
                yield text or ": still here\n\n"
