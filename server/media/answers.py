"""Limits the CPU time for parsing the responses of unknown hosts, because aiohttp parses them in the event loop.

Knows: the bytes received on a connection and the CPU time spent on them. Does not know: HTTP, URLs, what is done with
the bytes.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

PIECE = 16 * 2**10  # bytes to parse between two checks of the CPU time
CPU_SECONDS = 0.02  # for parsing a response, plus CPU_PER_MIB per MiB; usually a tenth of this is enough
CPU_PER_MIB = 0.01
MESSAGES = 10  # responses per connection: the final response, and the 1xx responses before it
SPARE = 2**20  # bytes of heads and chunk sizes, in addition to twice the size of the body


class TooMuchWork(aiohttp.ClientError):
    """The response has endless headers, one byte per chunk, or the like."""


class Answer(ResponseHandler):
    """A connection that is cut when the parsing of its response takes too much CPU time."""

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
        for begin in range(0, len(data) or 1, PIECE):  # without data, aiohttp continues with what it has buffered
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
        error = TooMuchWork("parsing the response takes too much work")
        self.set_exception(error)
        if self._payload is not None:  # makes the reader of the body fail too
            self._payload.set_exception(error)
        if self.transport is not None:
            self.transport.abort()
