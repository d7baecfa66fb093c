"""How much work the answers of strangers' hosts may be: aiohttp takes them apart in the event loop.

Knows: what came over a connection, and the CPU time it took. Does not know: HTTP, URLs, what is done with the bytes.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

PIECE = 16 * 2**10  # bytes that are taken apart between two looks at the CPU time
CPU_SECONDS = 0.02  # for taking an answer apart, and CPU_PER_MIB more for each MiB of it; an ordinary one takes a tenth
CPU_PER_MIB = 0.01
MESSAGES = 10  # an answer, and those of status 1xx before it
SPARE = 2**20  # bytes that may come besides a body, and once more as many as the body has: heads, chunk sizes


class TooMuchWork(aiohttp.ClientError):
    """Heads without end, a byte in each chunk, or the like."""


class Answer(ResponseHandler):
    """A connection, which is cut when its answer takes too much work."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._came = 0
        self._cpu_left = CPU_SECONDS
        self._messages = 0
        self._is_cut = False

    def feed_data(self, data: Any, size: int = 0) -> None:
        self._messages += 1
        if self._messages <= MESSAGES:
            super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        for begin in range(0, len(data) or 1, PIECE):  # without data: aiohttp goes on with what it has
            if self._is_cut:
                return
            piece = data[begin : begin + PIECE]
            begun = time.thread_time()
            super().data_received(piece)
            self._came += len(piece)
            body = self._payload.total_bytes if self._payload is not None else 0
            self._cpu_left += CPU_PER_MIB * len(piece) / 2**20 - (time.thread_time() - begun)
            if self._came > SPARE + 2 * body or self._cpu_left < 0 or self._messages > MESSAGES:
                self._cut()

    def _cut(self) -> None:
        self._is_cut = True
        error = TooMuchWork("the answer takes too much work")
        self.set_exception(error)
        if self._payload is not None:  # what came of it is not read any more
            self._payload.set_exception(error)
        if self.transport is not None:
            self.transport.abort()
