"""HTTP/1.1 over one connection: uvicorn's h11 protocol, with limits on what a client may send and how long it may take.

Knows: heads, bodies, their sizes and times, how a response reaches a client that is still sending. Does not know: keys,
routes, the content of a body. The connection ends when a head does not arrive within HEAD_SECONDS, a body stalls, or
the client does not read its response.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.limits.connections import Connections

MAX_HEAD = 64 * 2**10  # bytes of a request line with its headers, and of trailers
MAX_LINE = 32 * 2**10  # bytes of a request line: a webhook URL of 8,192 characters, each escaped, and room to spare
MAX_HEADERS = 200
FREE_CHUNKS = 1000  # chunks of any size in one body; further chunks must hold CHUNK_BYTES on average
CHUNK_BYTES = 64
SLICE = 32 * 2**10  # bytes to parse at a time
HEAD_SECONDS = 10.0  # for a head, from its first byte or, on a new connection, from the connection's beginning
BODY_SECONDS = 20.0  # for a whole body, plus one second for every BODY_RATE bytes received
BODY_RATE = 500.0
STALL_SECONDS = 30.0  # the longest time without receiving a byte of a body
UNREAD_SECONDS = 60.0  # the longest time in which the client reads no byte of its response
LINGER_SECONDS = 30.0  # how long to read and discard what the client still sends after its response
LINGER_PAUSE = 5.0  # seconds without a byte after which the server stops to discard before LINGER_SECONDS are over
LINGER_BYTES = 256 * 2**20
KEPT_BODY = 64 * 2**10  # bytes of an unread body that are read to keep the connection usable

# control characters, an incomplete line end, a header continued on the next line
FLAW = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n|\r\n[ \t]")
LENGTHS = re.compile(rb"^content-length[ \t]*:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,255})(?::[0-9]{0,5})?")


class Connection(h11.Connection):
    """h11's connection, with a check of each head before h11 parses it. NOTE: reads h11's private buffer."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD)
        self.failure: h11.RemoteProtocolError | None = None
        self.body_bytes = 0  # how much of the current request's body has been received
        self._length: int | None = None  # the current request's Content-Length
        self._chunks = 0
        self._searched = 0

    @property
    def buffered(self) -> bool:
        return bool(self._receive_buffer)

    @property
    def rest_is_long(self) -> bool:
        """Whether the rest of the body is too long to be read and discarded."""
        return self.their_state is h11.SEND_BODY and (
            self._length is None or self._length - self.body_bytes > KEPT_BODY
        )

    def next_event(self) -> Any:
        """Raises RemoteProtocolError and stores it in `failure`; its `error_status_hint` is the response status."""
        try:
            if self.their_state is h11.IDLE and not self._head_is_whole():
                return h11.NEED_DATA
            if getattr(self._reader, "_reading_trailer", False):
                self._check_trailers()
            event = super().next_event()
            if isinstance(event, h11.Request):
                event = self._checked(event)
            elif isinstance(event, h11.Data):
                self._count(event)
            elif isinstance(event, h11.EndOfMessage) and len(list(event.headers)) > MAX_HEADERS:
                raise _too_large(f"more than {MAX_HEADERS} trailers")
            return event
        except h11.RemoteProtocolError as e:
            self.failure = e
            raise

    def send(self, event: Any) -> Any:
        """Adds `connection: close` to a response that is sent while a long body is still arriving."""
        if isinstance(event, h11.Response) and self.rest_is_long:
            headers = [(name, value) for name, value in event.headers if name != b"connection"]
            event = h11.Response(
                status_code=event.status_code, headers=[*headers, (b"connection", b"close")], reason=event.reason
            )
        return super().send(event)

    def _head_is_whole(self) -> bool:
        data = self._receive_buffer._data
        if data.startswith(b"\r\n"):  # some clients send an extra line end after a body
            self._receive_buffer.maybe_extract_at_most(2)
            data = self._receive_buffer._data
        if not data:
            return False
        begin = max(0, self._searched - 3)
        end = data.find(b"\r\n\r\n", begin, MAX_HEAD)
        limit = min(len(data), MAX_HEAD) if end < 0 else end + 2
        if data[0] < 0x21 or FLAW.search(data, begin, limit):
            raise h11.RemoteProtocolError("a control character or a bare or continued line")
        first = data.find(b"\r\n", 0, limit)
        if (limit if first < 0 else first) > MAX_LINE:
            raise h11.RemoteProtocolError(f"a request line of more than {MAX_LINE // 2**10} KiB", 414)
        if data.count(b"\n", 0, limit) > MAX_HEADERS + 1:
            raise _too_large(f"more than {MAX_HEADERS} headers")
        if end < 0:
            if len(data) >= MAX_HEAD:
                raise _too_large(f"headers of more than {MAX_HEAD // 2**10} KiB")
            self._searched = len(data)
            return False
        self._searched = 0
        lengths = LENGTHS.findall(data, 0, end)
        if len(lengths) > 1 or any(b"," in length for length in lengths):
            raise h11.RemoteProtocolError("more than one Content-Length")
        return True

    def _check_trailers(self) -> None:
        data = self._receive_buffer._data
        end = 0 if data.startswith(b"\r\n") else data.find(b"\r\n\r\n", 0, MAX_HEAD)
        if data.count(b"\n", 0, len(data) if end < 0 else end) > MAX_HEADERS:
            raise _too_large(f"more than {MAX_HEADERS} trailers")

    def _checked(self, request: h11.Request) -> h11.Request:
        self.body_bytes = self._chunks = 0
        headers = list(request.headers)
        names = [name for name, _ in headers]
        length = next((int(value) for name, value in headers if name == b"content-length"), None)
        chunked = b"transfer-encoding" in names
        self._length = length if chunked or length is not None else 0
        if request.http_version not in (b"1.0", b"1.1"):
            raise h11.RemoteProtocolError("only HTTP/1.0 and 1.1 are supported", 505)
        if request.method in (b"CONNECT", b"TRACE"):
            raise h11.RemoteProtocolError(f"{request.method.decode()} is not allowed", 405)
        if chunked and (length is not None or request.http_version == b"1.0"):
            raise h11.RemoteProtocolError("Transfer-Encoding beside Content-Length, or in HTTP/1.0")
        for name, value in headers:
            if name == b"host" and not HOST.fullmatch(value):
                raise h11.RemoteProtocolError("a malformed Host header")
        if request.target.startswith(b"/") or (request.target == b"*" and request.method == b"OPTIONS"):
            return request
        return _of_absolute(request, headers)

    def _count(self, data: h11.Data) -> None:
        self.body_bytes += len(data.data)
        self._chunks += data.chunk_start
        if self._chunks > FREE_CHUNKS and self.body_bytes < (self._chunks - FREE_CHUNKS) * CHUNK_BYTES:
            raise h11.RemoteProtocolError(f"chunks of fewer than {CHUNK_BYTES} bytes")


def _too_large(what: str) -> h11.RemoteProtocolError:
    return h11.RemoteProtocolError(what, 431)


def _of_absolute(request: h11.Request, headers: list[tuple[bytes, bytes]]) -> h11.Request:
    """Handles `GET http://host/path`, as sent to a proxy: that host replaces the Host header."""
    try:
        parts = urlsplit(request.target)
    except ValueError:
        parts = urlsplit(b"")
    if parts.scheme.lower() not in (b"http", b"https") or not HOST.fullmatch(parts.netloc):
        raise h11.RemoteProtocolError("a target that is no path")
    query = b"?" + parts.query if parts.query else b""
    rest = [(name, value) for name, value in headers if name != b"host"]
    return h11.Request(
        method=request.method,
        target=(parts.path or b"/") + query,
        headers=[*rest, (b"host", parts.netloc)],
        http_version=request.http_version,
    )


class Closing:
    """A transport whose `close` calls `close` of the protocol, so that the protocol can first discard data that is
    still arriving."""

    def __init__(self, transport: asyncio.Transport, protocol: Http) -> None:
        self._transport = transport
        self._protocol = protocol
        self.write = transport.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._protocol.close()

    def is_closing(self) -> bool:
        return self._protocol.lingering or self._transport.is_closing()


class Http(H11Protocol):
    """A connection's protocol. The server calls `check` about once a second."""

    def __init__(self, connections: Connections, on_lost: Callable[[], None], **given: Any) -> None:
        super().__init__(**given)
        self.conn: Connection = Connection()
        self.all = connections
        self._on_lost = on_lost
        self.lingering = False
        self._raw: asyncio.Transport = None  # type: ignore[assignment]
        self._checked_at = self._last_byte = self.loop.time()
        self._since: float | None = None  # when the head or body that is being read began
        self._state: Any = None  # h11's state at the last call of `_follow`
        self._unsent, self._unsent_since = 0, 0.0
        self._linger_until, self._discarded = 0.0, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._raw = transport
        super().connection_made(cast(asyncio.Transport, Closing(transport, self)))
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        self.all.stop_waiting(self)
        self._on_lost()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._last_byte = self.loop.time()
        for begin in range(0, len(data), SLICE):
            if self.lingering:
                self._discard(len(data) - begin)
                return
            super().data_received(data[begin : begin + SLICE])

    def handle_events(self) -> None:
        super().handle_events()
        self._follow()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def _follow(self) -> None:
        """Stores whether a head or a body is being read, and when its reading began."""
        state = self.conn.their_state
        if state is h11.IDLE:
            self.all.wait(self, kept_alive=self.cycle is not None)
        else:
            self.all.stop_waiting(self)
        if state is not h11.SEND_BODY and not (state is h11.IDLE and (self.conn.buffered or self.cycle is None)):
            self._since = None
        elif state is not self._state or self._since is None:
            self._since = self.loop.time()
        self._state = state

    def send_400_response(self, msg: str) -> None:
        failure = self.conn.failure
        status = failure.error_status_hint if failure else 400
        self.refuse(status, str(failure or msg).partition(": bytearray")[0])

    def refuse(self, status: int, why: str) -> None:
        """Answers the current request and reads no more of it. If a response has begun, cuts the connection instead."""
        self.all.note(f"status {status}")
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started:
                self._raw.abort()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        elif self._state is h11.SEND_BODY:  # the request has been answered already
            self._raw.abort()
            return
        self._raw.write(answer(status, why))
        self._linger()

    def close(self) -> None:
        if self._raw.is_closing() or self.lingering:
            return
        if self.conn.their_state is h11.SEND_BODY:
            self._linger()
        else:
            self._raw.close()

    def evict(self) -> None:
        self._raw.abort()

    def shutdown(self) -> None:
        if self.cycle is None or self.cycle.response_complete or self.lingering:
            self._raw.close()
        else:
            self.cycle.keep_alive = False

    def cut(self) -> None:
        """Ends the connection if its response has begun."""
        if self.lingering or (self.cycle is not None and self.cycle.response_started):
            self._raw.abort()

    def _linger(self) -> None:
        """Closes the sending side, and discards what still arrives. Closing the whole socket now would lose the
        response."""
        self.lingering = True
        self.all.stop_waiting(self)
        self._last_byte = self.loop.time()
        self._linger_until = self._last_byte + LINGER_SECONDS
        if self._raw.can_write_eof():
            self._raw.write_eof()
        self.flow.resume_reading()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > LINGER_BYTES:
            self._raw.abort()

    def check(self, now: float) -> None:
        """Ends the connection when one of its time limits has passed."""
        elapsed, self._checked_at = now - self._checked_at, now
        unsent = self._raw.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        if unsent and now - self._unsent_since > UNREAD_SECONDS:
            self.all.note("answer not read")
            self._raw.abort()
        elif self.lingering:
            if now > self._linger_until or now - self._last_byte > LINGER_PAUSE:
                self._raw.abort()
        elif self._since is None or self._raw.is_closing():
            return
        elif self._state is h11.IDLE:
            if now - self._since > HEAD_SECONDS:
                self._end_head()
        elif self.flow.read_paused or (self.cycle and self.cycle.waiting_for_100_continue):
            self._since += elapsed  # the client is waiting for us
            self._last_byte = now
        elif (
            now - self._since > BODY_SECONDS + self.conn.body_bytes / BODY_RATE or now - self._last_byte > STALL_SECONDS
        ):
            self.refuse(408, "the body did not come in time")

    def _end_head(self) -> None:
        if self.conn.buffered:
            self.refuse(408, "the headers did not come in time")
        else:
            self.all.note("silent")
            self._raw.close()


def answer(status: int, why: str) -> bytes:
    """A complete response that ends the connection."""
    body = json.dumps({"detail": f"{HTTPStatus(status).phrase}: {why}"}).encode()
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
    head += "x-content-type-options: nosniff\r\naccess-control-allow-origin: *\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
