"""Accepts connections while there is room, with TLS if configured.

Knows: listening sockets, handshakes. Does not know: HTTP. The event loop's own server cannot be used, because it does
not count connections before their handshake is complete.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from server.limits.connections import Connections

BACKLOG = 2048
AT_ONCE = 100  # connections to accept before the event loop gets a turn
HANDSHAKE_SECONDS = 10.0
REFUSED_SECONDS = 1.0  # time for the client to read the refusal: closing the socket at once would lose it
MOST_REFUSED = 32  # refused clients at a time that get an answer; further connections are closed without an answer
RETRY_SECONDS = 0.2  # seconds without accepting connections, after the file descriptors ran out
NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

ProtocolOf = Callable[[Callable[[], None]], asyncio.Protocol]


class Listener:
    """Listens from its construction on.

    `protocol` creates the protocol of a connection. It gets a function, which the protocol must call when the
    connection is lost. `refusal`: makes the plain HTTP response for a refused client from the reason.
    """

    def __init__(
        self,
        sock: socket.socket,
        connections: Connections,
        protocol: ProtocolOf,
        refusal: Callable[[str], bytes],
        encryption: ssl.SSLContext | None = None,
    ) -> None:
        self._sock = sock
        self._connections = connections
        self._protocol = protocol
        self._refusal = refusal
        self._encryption = encryption
        self._loop = asyncio.get_running_loop()
        self._beginning: set[Beginning] = set()
        self._refused: set[socket.socket] = set()
        self._closed = False
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._sock)
        for beginning in list(self._beginning):
            beginning.evict()
        for client in list(self._refused):
            self._end_refused(client)

    async def wait_closed(self) -> None:
        """Does nothing; uvicorn calls it."""

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                client, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as e:
                if e.errno in NO_FILES:
                    self._connections.note("no file descriptor left")
                    self._connections.evict_one()
                    self._loop.remove_reader(self._sock)
                    self._loop.call_later(RETRY_SECONDS, self._resume)
                    return
                continue  # the client has disconnected already
            address = str(peer[0]) if isinstance(peer, tuple) else ""
            why = self._connections.enter(address)
            if why is None:
                client.setblocking(False)
                self._beginning.add(Beginning(self, client, address))
            else:
                self._refuse(client, why)

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock, self._accept)

    def _refuse(self, client: socket.socket, why: str) -> None:
        if self._encryption is not None or len(self._refused) >= MOST_REFUSED:
            client.close()
            return
        client.setblocking(False)
        with suppress(OSError):
            client.send(self._refusal(why))
            client.shutdown(socket.SHUT_WR)
        self._refused.add(client)
        self._loop.call_later(REFUSED_SECONDS, self._end_refused, client)

    def _end_refused(self, client: socket.socket) -> None:
        self._refused.discard(client)
        client.close()


class Beginning:
    """A connection before its protocol takes over: with TLS, before the handshake is complete."""

    def __init__(self, listener: Listener, client: socket.socket, address: str) -> None:
        self._listener = listener
        self._connections = listener._connections
        self._address = address
        self._client = client
        self._left = False
        self._connections.wait(self)
        self._task = listener._loop.create_task(self._run())
        self._task.add_done_callback(self._ended)

    async def _run(self) -> None:
        encryption = self._listener._encryption
        with suppress(OSError):
            self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self._listener._loop.connect_accepted_socket(
            lambda: self._listener._protocol(self._leave),
            self._client,
            ssl=encryption,
            ssl_handshake_timeout=None if encryption is None else HANDSHAKE_SECONDS,
        )

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.stop_waiting(self)
        self._listener._beginning.discard(self)
        if task.cancelled() or task.exception() is not None:
            self._connections.note("no handshake")
            self._leave()
            self._client.close()

    def evict(self) -> None:
        self._task.cancel()

    def _leave(self) -> None:
        """Counts the connection as closed, but only once, because not every event loop notifies a protocol of a failed
        handshake."""
        if not self._left:
            self._left = True
            self._connections.leave(self._address)
