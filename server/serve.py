"""Runs the server in this process until a signal stops it.

Knows: sockets, signals, logging, uvicorn. Does not know: what the app does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TextIO

import structlog
import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.errors import AddressInUse, StartError
from server.limits.connections import Connections, most_by_files
from server.middleware import trust
from server.settings import Settings
from server.transport import tls
from server.transport.allocator import return_large_blocks
from server.transport.listener import Listener
from server.transport.protocol import Http, answer
from server.workers.pool import Pool
from server.workers.spec import REAL_ENGINE

log = structlog.get_logger()

GRACE = 3  # seconds for responses in progress to end at shutdown
KEEP_ALIVE = 30  # seconds an idle connection stays open, enough for clients that poll every few seconds
SWITCH_SECONDS = 0.001  # seconds after which a computing thread yields to the event loop; Python's default is 0.005


def serve(
    settings: Settings,
    *,
    engine: str = REAL_ENGINE,
    on_ready: Callable[[str], None] = lambda url: None,
    on_broken: Callable[[str], None] = lambda reason: None,
) -> None:
    """Runs until SIGTERM or SIGINT and then returns within a few seconds; call it from the main thread.

    `on_ready` is called with the base URL as soon as requests are answered. `on_broken` is called once, with the
    reason, when no worker can start. Raises StartError before anything has started.
    """
    return_large_blocks()
    sys.setswitchinterval(SWITCH_SECONDS)
    certificate = tls.given(settings)
    set_up_logging(settings.log_level, settings.log_format)
    with bind(settings.host, settings.port) as listener:
        app = create_app(settings, engine=engine)
        # objects that live as long as the server are not scanned again, because each scan takes milliseconds
        gc.freeze()
        if certificate is None and tls.wanted(settings):
            try:
                certificate = tls.issued(settings)  # after `create_app`, which locks the data folder
            except BaseException:
                app.state.house.close()
                raise
        connections = Connections(
            most_by_files(settings.max_connections),
            settings.max_connections_per_address,
            trust(settings.trusted_proxies),
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # paths contain ids and file keys
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=KEEP_ALIVE,
            server_header=False,
            proxy_headers=False,  # `middleware.Forwarded` reads a proxy's headers
            lifespan="on",
            http="h11",
            ws="none",
        )
        host, port = listener.getsockname()[:2]
        url = f"http{'s' if certificate else ''}://{f'[{host}]' if ':' in host else host}:{port}"
        # uvicorn raises the signal again after its shutdown, when nothing is left to do
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        try:
            encryption = tls.context(certificate) if certificate else None
            server = Server(
                config,
                connections,
                encryption,
                lambda: _started(on_ready, url, app),
                app.state.house.begin_to_stop,
                _once(app.state.house.pool, on_broken),
            )
            with app.state.house.data.temporaries_here():
                server.run(sockets=[listener])
        finally:
            app.state.house.close()  # after a second signal, uvicorn skips the end of the lifespan
            log.info("server stopped", address=url)


def _started(on_ready: Callable[[str], None], url: str, app: FastAPI) -> None:
    served = app.state.house.served
    models = {task.value: info.name for task, info in sorted(served.by_task.items())}
    log.info("server started", address=url, version=app.version, models=models, devices=list(served.devices))
    on_ready(url)


def _once(pool: Pool, on_broken: Callable[[str], None]) -> Callable[[], None]:
    """Returns a function to call regularly. The first time that no worker can start, this function reports the
    reason."""
    said = False

    def look() -> None:
        nonlocal said
        if not said and (reason := pool.broken()) is not None:
            said = True
            on_broken(reason + pool.remedy())

    return look


class Server(uvicorn.Server):
    """uvicorn's server with our own listener and protocol."""

    def __init__(
        self,
        config: uvicorn.Config,
        connections: Connections,
        encryption: ssl.SSLContext | None = None,
        on_started: Callable[[], None] = lambda: None,
        on_exit: Callable[[], None] = lambda: None,
        each_second: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._connections = connections
        self._encryption = encryption
        self._on_started = on_started
        self._on_exit = on_exit
        self._each_second = each_second

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_exit()  # answers requests that wait for a job before GRACE is over
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(3)  # uvicorn's exit status for a failed start

        def protocol(on_lost: Callable[[], None]) -> Http:
            return Http(
                self._connections,
                on_lost,
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )

        refusal = partial(answer, 503)
        self.servers = [
            Listener(one, self._connections, protocol, refusal, self._encryption)  # type: ignore[misc]
            for one in sockets or []
        ]
        self.started = True
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("server stopping")  # not in `handle_exit`, because a signal may interrupt the writing of a line
        asyncio.get_running_loop().call_later((self.config.timeout_graceful_shutdown or 0) * 0.8, self._cut)
        await super().shutdown(sockets)

    def _cut(self) -> None:
        """Ends the responses that have begun but are not read. The rest of GRACE is left for responses that have not
        begun."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, Http):
                connection.cut()

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Http):
                    connection.check(now)
            self._connections.log(now)
            self._each_second()
        return await super().on_tick(counter)


def bind(host: str, port: int) -> socket.socket:
    """Returns a bound socket. Raises AddressInUse, StartError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as e:
        raise StartError(f"cannot listen on {host}: {e.strerror}; check the host (--host, COGVIDEOX_HOST)") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as e:
        listener.close()
        raise AddressInUse(f"cannot listen on {host}:{port}: {e.strerror}; choose another port (--port)") from None
    return listener


class Sink:
    """A stream whose reader may exit (`2>&1 | head`): lines that cannot be written are dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def set_up_logging(level: str, form: str = "auto") -> None:
    """Logs one line per event to stderr. `form`: text, json, or auto (text on a terminal, otherwise JSON)."""
    number = getattr(logging, level.upper())
    logging.basicConfig(level=max(number, logging.WARNING), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are about malformed requests
    steps: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    if form == "text" or (form == "auto" and sys.stderr.isatty()):
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        steps.append(renderer)
    else:
        steps += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=steps,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(Sink(sys.stderr)),  # type: ignore[arg-type]
    )
