"""Hosts for URLs in requests: one responds immediately, others keep their clients waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from queue import Queue
from typing import Any

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
DRIP = 0.2  # seconds between two bytes


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never responds."""
    await asyncio.sleep(3600)


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An image of 1 MB, at five bytes per second."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 1000000\r\n\r\n")
    while True:
        writer.write(b"\0")
        await writer.drain()
        await asyncio.sleep(DRIP)


async def drip_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A response whose headers never end."""
    writer.write(b"HTTP/1.1 200 OK\r\nx-pad: ")
    while True:
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(DRIP)


async def text(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Responds immediately with a few bytes that are not an image."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello")
    await writer.drain()


@contextmanager
def host(answer: Answer, address: str = "127.0.0.1") -> Iterator[int]:
    """Runs a host that responds with `answer`; yields its port."""

    async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # NOTE: a callback of Python 3.11 complains about a cancelled task
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await answer(reader, writer)
        writer.close()

    port, stop = Queue[int](), Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()

    async def serve() -> None:
        ended = asyncio.Event()
        stop.put((asyncio.get_running_loop(), ended))
        server = await asyncio.start_server(met, address, 0, backlog=1000)
        port.put(server.sockets[0].getsockname()[1])
        await ended.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    loop, ended = stop.get()
    try:
        yield port.get()
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
