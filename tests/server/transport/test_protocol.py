"""The server accepts, refuses or cuts off HTTP/1.1 requests that the tests send on raw sockets."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvicorn
import uvloop

from server.limits.connections import Connections, most_by_files, place_of
from server.serve import Server
from server.transport import listener as listening
from server.transport import protocol
from tests.rigs import pace

OK = b"HTTP/1.1 200 OK"
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
END = b"Connection: close\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAABkAAQBAAAA\r\n"


@dataclass
class App:
    """Answers with method, path, Host and body size; `/early` does not read the body, and `/big` adds 64 MiB."""

    ends: list[str] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        size, more = 0, scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.ends.append("disconnect")
                return
            size, more = size + len(message["body"]), message["more_body"]
        host = dict(scope["headers"]).get(b"host", b"").decode()
        body = f"{scope['method']} {scope['path']} {host} {size}".encode()
        big = [bytes(2**20)] * 64 if scope["path"] == "/big" else []
        headers = [(b"content-length", str(len(body) + sum(map(len, big))).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in big:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": body})
        self.ends.append("answered")


@dataclass
class Running:
    port: int
    app: App
    connections: Connections
    server: uvicorn.Server

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10, (source, 0))

    def answer(self, *parts: bytes, source: str = "127.0.0.1") -> bytes:
        """Returns everything that the server sends until it closes the connection."""
        with self.connect(source) as line:
            with suppress(OSError):  # the server has stopped reading
                for part in parts:
                    line.sendall(part)
            return read(line)


def read(line: socket.socket, until: bytes | None = None) -> bytes:
    found = b""
    while (until is None or until not in found) and (data := line.recv(2**20)):
        found += data
    return found


@contextmanager
def serving(
    most: int = 100,
    each: int = 100,
    loop: Any = uvloop.new_event_loop,
    encryption: ssl.SSLContext | None = None,
) -> Iterator[Running]:
    app, connections = App(), Connections(most, each, lambda address: address == "127.0.0.9")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            log_config=None,
            ws="none",
            timeout_graceful_shutdown=1,
            loop="none",
        )
        started = threading.Event()
        server = Server(config, connections, encryption, started.set)

        async def run() -> None:
            await server._serve([listener])

        def thread() -> None:
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(run())

        running = threading.Thread(target=thread)
        running.start()
        try:
            assert started.wait(10)
            yield Running(listener.getsockname()[1], app, connections, server)
        finally:
            server.should_exit = True
            running.join(10)
        assert not running.is_alive()


@pytest.fixture(scope="module", params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(loop=request.param) as found:
        yield found


REFUSED = {
    "one header of 70 KiB": (431, HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n"),
    "headers of 70 KiB together": (431, HEAD + (b"X: " + b"a" * 700 + b"\r\n") * 100 + b"\r\n"),
    "201 headers": (431, HEAD + b"a:\r\n" * 200 + b"\r\n"),
    "a million headers": (431, HEAD + b"a:\r\n" * 1_000_000 + b"\r\n"),
    "a header without end": (431, HEAD + b"X: " + b"a" * 60_000_000),
    "a long target": (414, b"GET /" + b"a" * 33_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a request line without end": (414, b"GET /" + b"a" * 1_000_000),
    "a long method": (414, b"A" * 33_000 + b" / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "two hosts": (400, HEAD + b"Host: a\r\n\r\n"),
    "two hosts of HTTP/1.0": (400, b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "an empty host": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "hosts in a list": (400, b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    "a host with a path": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "a host with a user": (400, b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    "a host with markup": (400, b"GET / HTTP/1.1\r\nHost: <b>\r\n\r\n"),
    "a host in UTF-8": (400, "GET / HTTP/1.1\r\nHost: bücher\r\n\r\n".encode()),
    "a host of 300 letters": (400, b"GET / HTTP/1.1\r\nHost: " + b"a" * 300 + b"\r\n\r\n"),
    "a port of letters": (400, b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/2.0": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.7": (505, b"GET / HTTP/1.7\r\nHost: a\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "a folded header": (400, HEAD + b"X: a\r\n b\r\n\r\n"),
    "bare line ends": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "a bare carriage return": (400, HEAD + b"X: a\rb\r\n\r\n"),
    "a space before the colon": (400, HEAD + b"X : a\r\n\r\n"),
    "a NUL in the target": (400, b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a NUL in a header": (400, HEAD + b"X: \0\r\n\r\n"),
    "no method": (400, b" / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "two spaces": (400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a target that is no path": (400, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a target of another scheme": (400, b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a target with a user": (400, b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT": (405, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "TRACE": (405, b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "length and chunks": (400, POST + b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\n"),
    "chunks and length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    "chunks in HTTP/1.0": (400, b"POST / HTTP/1.0\r\nHost: a\r\n" + CHUNKED + b"0\r\n\r\n"),
    "two transfer codings": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "the same length twice": (400, POST + b"Content-Length: 1\r\ncontent-length: 1\r\n\r\na"),
    "a list of lengths": (400, POST + b"Content-Length: 1, 1\r\n\r\na"),
    "a length of 5000 digits": (400, POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\na"),
    "a negative length": (400, POST + b"Content-Length: -1\r\n\r\na"),
    "a length with a sign": (400, POST + b"Content-Length: +1\r\n\r\na"),
    "a length in hexadecimal": (400, POST + b"Content-Length: 0x1\r\n\r\na"),
    "a chunk of letters": (400, POST + CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n"),
    "a chunk of 2**100": (400, POST + CHUNKED + b"1" + b"0" * 25 + b"\r\n"),
    "a chunk longer than it says": (400, POST + CHUNKED + b"1\r\nabc\r\n0\r\n\r\n"),
    "a chunk with a long extension": (431, POST + CHUNKED + b"1;" + b"a" * 200_000),
    "many small chunks": (400, POST + CHUNKED + b"1\r\na\r\n" * 100_000),
    "many trailers": (431, POST + CHUNKED + b"0\r\n" + b"a:\r\n" * 200_000 + b"\r\n"),
    "a long trailer": (431, POST + CHUNKED + b"0\r\nX: " + b"a" * 200_000),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(running: Running, name: str) -> None:
    status, request = REFUSED[name]
    begun = time.monotonic()
    answer = running.answer(request)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert b"\r\nconnection: close\r\n" in answer and b'{"detail": "' in answer
    assert time.monotonic() - begun < pace.seconds(2)


@pytest.mark.parametrize("name", ["two hosts", "length and chunks", "one header of 70 KiB"])
def test_is_refused_however_it_arrives(running: Running, name: str) -> None:
    status, request = REFUSED[name]
    size = max(1, len(request) // 50)
    parts = [request[n : n + size] for n in range(0, len(request), size)]
    assert running.answer(*parts).startswith(b"HTTP/1.1 %d " % status)


TAKEN = {
    "a plain request": (b"GET / a 0", HEAD + END),
    "HTTP/1.0 without a host": (b"GET /  0", b"GET / HTTP/1.0\r\n\r\n"),
    "a host with a port": (b"GET / a-b.c_d:80 0", b"GET / HTTP/1.1\r\nHost: a-b.c_d:80\r\n" + END),
    "an address of IPv6": (b"GET / [::1]:8000 0", b"GET / HTTP/1.1\r\nHost: [::1]:8000\r\n" + END),
    "200 headers": (b"GET / a 0", HEAD + b"a:\r\n" * 198 + END),
    "headers of 60 KiB": (b"GET / a 0", HEAD + b"X: " + b"a" * 60_000 + b"\r\n" + END),
    "a target of 30 KiB": (b"GET / a 0", b"GET /?" + b"a" * 30_000 + b" HTTP/1.1\r\nHost: a\r\n" + END),
    "a target as to a proxy": (b"GET /b a:1 0", b"GET http://a:1/b?c HTTP/1.1\r\nHost: other\r\n" + END),
    "an empty line before": (b"GET / a 0", b"\r\n" + HEAD + END),
    "Latin-1 in a header": (b"GET / a 0", HEAD + b"X: \xe9\r\n" + END),
    "a body": (b"POST / a 5", POST + b"Content-Length: 5\r\n" + END + b"abcde"),
    "a chunked body": (b"POST / a 5", POST + CHUNKED + b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: u\r\n\r\n"),
    "many chunks": (b"POST / a 800000", POST + CHUNKED + (b"c8\r\n" + b"a" * 200 + b"\r\n") * 4000 + b"0\r\n\r\n"),
    "a body of 8 MiB": (b"POST / a 8388608", POST + b"Content-Length: 8388608\r\n" + END + b"a" * 2**23),
    "an offer of HTTP/2 with a body": (b"POST / a 5", POST + b"Content-Length: 5\r\n" + H2C + b"\r\nabcde"),
    "an offer of HTTP/2 with chunks": (b"POST / a 5", POST + H2C + CHUNKED + b"5\r\nabcde\r\n0\r\n\r\n"),
    "an offer of WebSocket": (b"GET / a 0", HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_is_answered(running: Running, name: str) -> None:
    expected, request = TAKEN[name]
    with running.connect() as line:
        line.sendall(request)
        answer = read(line, expected)
    assert answer.startswith(OK) and answer.endswith(b"\r\n\r\n" + expected), answer[-300:]


def test_a_connection_is_kept_after_an_offer_of_http_2(running: Running) -> None:
    with running.connect() as line:
        for size in (5, 7):
            line.sendall(POST + b"Content-Length: %d\r\n" % size + H2C + b"\r\n" + b"a" * size)
            assert read(line, b"POST / a %d" % size).startswith(OK)


def test_requests_sent_at_once_are_answered_in_turn(running: Running) -> None:
    with running.connect() as line:
        line.sendall((HEAD + b"\r\n") * 500 + HEAD + END)
        assert read(line).count(b"GET / a 0") == 501


def test_a_bad_request_behind_a_good_one_is_refused_after_its_answer(running: Running) -> None:
    answer = running.answer(HEAD + b"\r\n" + REFUSED["two hosts"][1])
    assert answer.index(OK) < answer.index(b"HTTP/1.1 400")


def test_an_answer_that_comes_early_reaches_a_client_that_is_still_sending(running: Running) -> None:
    with running.connect() as line:
        line.sendall(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(100):
            line.sendall(b"a" * 10**6)
        answer = read(line)
    assert answer.startswith(OK) and b"\r\nconnection: close\r\n" in answer.lower()


def test_a_short_body_behind_an_early_answer_costs_no_connection(running: Running) -> None:
    with running.connect() as line:
        for _ in range(2):
            line.sendall(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
            time.sleep(0.05)
            line.sendall(b"a" * 1000)
            assert b"connection: close" not in read(line, b"POST /early a 0").lower()


def test_100_continue_is_said_when_the_body_is_wanted(running: Running) -> None:
    asks = b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    with running.connect() as line:
        line.sendall(POST + asks)
        assert read(line, b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        line.sendall(b"abcde")
        assert read(line, b"POST / a 5").startswith(OK)
    with running.connect() as line:
        line.sendall(b"POST /early HTTP/1.1\r\nHost: a\r\n" + asks)
        assert read(line, b"POST /early a 0").startswith(OK)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"HEAD": 1.0, "BODY": 1.0, "STALL": 2.0, "UNREAD": 2.0, "LINGER": 2.0}.items():
        monkeypatch.setattr(protocol, f"{name}_SECONDS", seconds)
    monkeypatch.setattr(protocol, "LINGER_PAUSE", 1.0)
    monkeypatch.setattr(listening, "HANDSHAKE_SECONDS", 1.0)


SLOW = {
    "nothing at all": (b"", b"", None),
    "half a head": (HEAD, b"", 408),
    "a header a moment": (HEAD, b"X: a\r\n", 408),
    "empty lines": (b"\r\n", b"", None),
    "no body": (POST + b"Content-Length: 100000\r\n\r\n", b"", 408),
    "a byte a moment": (POST + b"Content-Length: 100000\r\n\r\n", b"a", 408),
    "a chunk a moment": (POST + CHUNKED, b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\na\r\n", 408),
    "half a head behind a request": (HEAD + b"\r\n" + HEAD, b"", 408),
    "a body that nobody reads": (b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n", b"a", None),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_client_is_cut(impatient: None, running: Running, name: str) -> None:
    begin, more, status = SLOW[name]
    found = b""
    with running.connect() as line:
        line.sendall(begin)
        line.settimeout(0.1)
        until = time.monotonic() + pace.seconds(10)
        while time.monotonic() < until:
            try:
                data = line.recv(2**16)
            except TimeoutError:
                with suppress(OSError):
                    line.sendall(more)
                continue
            except ConnectionResetError:
                break
            if not data:
                break
            found += data
        else:
            pytest.fail("the connection is still open")
    last = re.findall(rb"HTTP/1.1 (\d+) ", found)[-1:]
    assert last == ([] if status is None and b"early" not in begin else [b"%d" % (status or 200)]), found


def test_a_body_that_comes_slowly_enough_is_taken(
    impatient: None, monkeypatch: pytest.MonkeyPatch, running: Running
) -> None:
    monkeypatch.setattr(protocol, "STALL_SECONDS", pace.seconds(10))
    with running.connect() as line:
        line.sendall(POST + b"Content-Length: 50000\r\n\r\n")
        for _ in range(50):  # sending takes 2.5 s; each byte extends the time limit by 2 ms
            line.sendall(b"a" * 1000)
            time.sleep(0.05)
        assert read(line, b"POST / a 50000").startswith(OK)


def test_an_answer_that_is_not_read_is_cut_and_one_that_is_read_slowly_is_not(
    impatient: None, running: Running
) -> None:
    ends = len(running.app.ends)
    with running.connect() as lazy, running.connect() as slow:
        lazy.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n" + END)
        slow.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n" + END)
        found = 0
        until = time.monotonic() + pace.seconds(6)
        while time.monotonic() < until and len(running.app.ends) == ends:
            found += len(slow.recv(2**18))
            time.sleep(0.05)
        assert len(running.app.ends) > ends, "the server has not ended the unread answer"
        found += len(read(slow))
        assert found > 64 * 2**20
        lazy.settimeout(5)
        with suppress(ConnectionResetError):
            assert len(read(lazy)) < 64 * 2**20


def test_an_address_has_a_bound_and_a_proxy_has_none() -> None:
    with serving(each=5) as running, ExitStack() as stack:
        lines = [stack.enter_context(running.connect("127.0.0.2")) for _ in range(5)]
        answered(running)
        assert running.answer(HEAD + END, source="127.0.0.2").startswith(b"HTTP/1.1 503 ")
        assert running.answer(HEAD + END, source="127.0.0.3").startswith(OK)
        for _ in range(20):
            stack.enter_context(running.connect("127.0.0.9"))
        assert running.answer(HEAD + END, source="127.0.0.9").startswith(OK)
        lines[0].close()
        assert eventually(lambda: running.answer(HEAD + END, source="127.0.0.2").startswith(OK))
        stack.close()
        assert eventually(lambda: running.connections._open == 0 and not running.connections._of)


def test_when_all_places_are_taken_who_has_waited_longest_gives_up_its_own() -> None:
    with serving(most=20) as running, ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(running.connect())
        with running.connect() as line:
            line.sendall(HEAD + b"\r\n")
            assert read(line, b"GET / a 0").startswith(OK)
            assert running.answer(HEAD + END).startswith(OK)
            assert running.connections._open <= 20


def answered(running: Running) -> None:
    """Ensures that the server has accepted all earlier connections."""
    assert running.answer(HEAD + END, source="127.0.0.4").startswith(OK)


def eventually(done: Any) -> bool:
    until = time.monotonic() + pace.seconds(5)
    while not (found := bool(done())) and time.monotonic() < until:
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_over_tls(impatient: None, tmp_path: Path, loop: Any) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    with serving(loop=loop, encryption=server, each=5) as running, ExitStack() as stack:
        with client.wrap_socket(running.connect(), server_hostname="127.0.0.1") as line:
            line.sendall(POST + b"Content-Length: 1000000\r\n\r\n" + b"a" * 1_000_000)
            assert read(line, b"POST / a 1000000").startswith(OK)
        with client.wrap_socket(running.connect(), server_hostname="127.0.0.1") as line:
            line.sendall(REFUSED["201 headers"][1])
            assert read(line, b"}").startswith(b"HTTP/1.1 431 ")
        assert eventually(lambda: running.connections._open == 0)
        silent = [stack.enter_context(running.connect()) for _ in range(5)]  # these clients send no TLS handshake
        assert eventually(lambda: running.connections._open == 5)
        with running.connect() as line, suppress(ConnectionResetError):
            assert line.recv(1) == b""  # the server closes the sixth connection
        for line in silent:
            line.settimeout(pace.seconds(10))
            with suppress(ConnectionResetError):
                assert line.recv(100) == b""
        with running.connect() as line:
            line.sendall(HEAD + END)  # plain HTTP on the TLS port
            with suppress(ConnectionResetError):
                assert not read(line).startswith(b"HTTP")
        assert eventually(lambda: running.connections._open == 0)


def test_an_address_of_ipv6_is_its_network() -> None:
    assert place_of("2001:db8:1:2:3::4") == place_of("2001:db8:1:2:ffff::1") != place_of("2001:db8:1:3::1")
    assert place_of("::ffff:192.0.2.1") == place_of("192.0.2.1") != place_of("192.0.2.2")
    assert place_of("fe80::1%eth0") == "fe80::/64"


def test_no_more_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (1024, 4096)}
    monkeypatch.setattr("resource.getrlimit", lambda _: limits["now"])
    monkeypatch.setattr("resource.setrlimit", lambda _, wanted: limits.update(now=wanted))
    assert most_by_files(300) == 300 and limits["now"] == (1024, 4096)
    assert most_by_files(500) == 500 and limits["now"] == (1256, 4096)
    assert most_by_files(9999) == (4096 - 256) // 2 and limits["now"] == (4096, 4096)
