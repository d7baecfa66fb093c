"""The whole server on a port of its own, as `cogvideox serve` runs it, in a thread."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from server.connections import Connections
from server.serve import Server
from tests import pace


@contextmanager
def live(app: Any) -> Iterator[int]:
    """Its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        started = threading.Event()
        config = uvicorn.Config(app, log_config=None, ws="none", lifespan="on", timeout_graceful_shutdown=1)
        server = Server(config, Connections(100, 100, lambda _: True), None, started.set)

        def run() -> None:
            asyncio.run(server._serve([listener]))

        running = threading.Thread(target=run)
        running.start()
        try:
            assert started.wait(pace.seconds(30))
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            running.join(pace.seconds(20))


def exchange(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of what comes back until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", port), pace.seconds(20)) as line:
        line.sendall(request)
        found = b""
        while data := line.recv(2**16):
            found += data
    head, _, body = found.partition(b"\r\n\r\n")
    return head.lower(), body
