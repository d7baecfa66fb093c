"""Event streams of jobs, of which one caller may hold only so many, and which no proxy may keep back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

KEEP_ALIVE = 15.0  # seconds of silence after which a stream says a comment
HEADERS = {"cache-control": "no-cache, no-store", "x-accel-buffering": "no"}  # the second one is for nginx


class EventStream(StreamingResponse):
    """`place`: held for as long as the stream lasts. Raises what entering it raises, before anything is sent."""

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
