"""How much work the answers of strangers' hosts may be: aiohttp takes them apart in the event loop.

Knows: what came over a connection, and the CPU time it took. Does not know: HTTP, URLs, what is done with the bytes.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp
from aiohttp.client_proto import ResponseHandler

PIECE = 4 * 2**10  # bytes that are taken apart between two looks at the CPU time
CPU_SECONDS = 0.02  # for taking an answer apart, and CPU_PER_MIB more for each MiB of it; an ordinary one takes a tenth
CPU_PER_MIB = 0.02
SPARE = 2**20  # bytes that may come besides a body: heads, chunk sizes


class TooMuchWork(aiohttp.ClientError):
    """Heads without end, a byte in each chunk, or the like."""


class Answer(ResponseHandler):
    """A connection, over which at most twice `most` bytes and SPARE may come."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        super().__init__(loop)
        self._left = 2 * most + SPARE
        self._cpu_left = CPU_SECONDS

    def data_received(self, data: bytes) -> None:
        for begin in range(0, len(data) or 1, PIECE):  # without data: aiohttp goes on with what it has
            piece = data[begin : begin + PIECE]
            begun = time.thread_time()
            super().data_received(piece)
            self._left -= len(piece)
            self._cpu_left += CPU_PER_MIB * len(piece) / 2**20 - (time.thread_time() - begun)
            if self._left < 0 or self._cpu_left < 0:
                self.set_exception(TooMuchWork("the answer takes too much work"))
                if self.transport is not None:
                    self.transport.abort()
                return
