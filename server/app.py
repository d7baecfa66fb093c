"""The app: routes requests to the APIs of the clouds, adds the middleware, and starts and stops the server's parts.

Knows: the order of the middleware. Does not know: how the parts are constructed (`house` does), the clouds' responses.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi_offline import FastAPIOffline  # /docs without a CDN
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from server.auth import Keys
from server.docs import add_docs
from server.errors import DiskFull
from server.facades import routes
from server.facades.kit.cors import Cors
from server.facades.kit.errors import Unavailable
from server.facades.registry import FACADES
from server.house import House, build
from server.limits.bodies import MAX_BODY, Bodies, Counted
from server.limits.calls import Fair
from server.limits.ratelimit import Limited, Limiter
from server.media.retention import Retention
from server.media.uploads import UPLOAD_BYTES
from server.middleware import ByPrefix, Forwarded, Labelled
from server.openapi import merged
from server.own import add_pages
from server.requestlog import Flood, Logged, note_refusals, noting
from server.settings import Settings
from server.transport.decoded import Decoded
from server.transport.heads import answer_heads
from server.workers.spec import REAL_ENGINE

BODIES = 2**30  # bytes of request bodies in memory at a time
BODIES_PER_KEY = 2 * MAX_BODY
THREADS = 32  # for blocking work outside the event loop; asyncio's default on a single core is five
SWEEP_EVERY = 60.0  # minimum seconds between two sweeps for expired files
SWEEP_SHARE = 20.0  # the pause is at least the duration of the previous sweep times this
WATCH_EVERY = 2.0  # seconds between two checks whether the server has become open or closed
SWEEP_END = 5.0  # seconds to wait, at shutdown, for a sweep to end

log = structlog.get_logger()


def create_app(settings: Settings, *, engine: str = REAL_ENGINE) -> FastAPI:
    """Creates the server. The workers start and stop with the app's lifespan. Raises StartError.

    `engine`: `module:class` of the engine that the workers run. The parts are at `app.state.house`.
    """
    house, flood = build(settings, engine), Flood()
    app: FastAPI = FastAPIOffline(
        title="CogVideoX server",
        version=_version(),
        lifespan=_lifespan(house, flood),
        docs_url=None,
        redoc_url=None,
    )
    app.router.redirect_slashes = False  # `ByPrefix` removes trailing slashes
    app.state.house = house
    add_docs(app, house.context.artifacts.base_url)
    served = [name for name in FACADES if name in settings.served_apis]
    add_pages(app, house.health, house.context.artifacts, served)
    facades = {name: _facade(name, house) for name in served}
    note_refusals(facades.values())
    answer_heads((app, *facades.values()))
    _document(app, facades)

    apps: dict[str, ASGIApp] = {**facades}
    if settings.rate_limit is not None:
        limiter = Limiter(settings.rate_limit)
        apps = {
            name: Limited(facade, limiter, noting(partial(FACADES[name].refuse, house.context)))
            for name, facade in facades.items()
        }
    # from the innermost to the outermost
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY)  # façades answer in their clouds' formats
    app.add_middleware(ByPrefix, routes=routes.routes(apps))
    app.add_middleware(Decoded, limit=UPLOAD_BYTES)
    app.add_middleware(Fair)
    app.add_middleware(Counted, bodies=Bodies(BODIES, BODIES_PER_KEY))
    app.add_middleware(Labelled, header=house.served.header)
    app.add_middleware(Cors)
    app.add_middleware(
        Logged, clouds=routes.clouds(served), apps=facades, key_name=house.context.keys.name_of, flood=flood
    )
    app.add_middleware(Forwarded, trusted=settings.trusted_proxies)
    return app


def _lifespan(house: House, flood: Flood) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "background"))
        house.open()
        house.courier.start()
        stopping = asyncio.Event()
        sweeper = asyncio.create_task(_sweep(house.retention, stopping))
        watcher = asyncio.create_task(_watch(house.context.keys, stopping))
        try:
            yield
        finally:
            stopping.set()
            house.context.jobs.stop_waiting()
            await house.courier.stop()
            await house.context.inspectors.close()
            await house.context.intake.close()
            await asyncio.wait({sweeper}, timeout=SWEEP_END)
            sweeper.cancel()
            watcher.cancel()
            flood.end()
            await asyncio.to_thread(house.close)

    return lifespan


def _facade(name: str, house: House) -> FastAPI:
    app = FACADES[name].create(house.context)
    for kind in (OperationalError, InterfaceError):
        app.add_exception_handler(kind, partial(_outage, partial(FACADES[name].refuse, house.context)))
    return app


def _outage(refuse: Callable[[Request, Exception], Response], request: Request, error: Exception) -> Response:
    """The response while the job table is unavailable."""
    reason = str(error.orig) if isinstance(error, DBAPIError) else ""
    log.error("job table unavailable", error=reason)
    if "disk is full" in reason or "No space left" in reason:
        return refuse(request, DiskFull("the server's disk is full"))
    return refuse(request, Unavailable("The job table cannot be used at the moment; send the request again later"))


def _document(app: FastAPI, facades: Mapping[str, FastAPI]) -> None:
    """The OpenAPI document of `app` also describes the façades."""
    own = app.openapi

    def openapi() -> dict[str, Any]:
        return merged(own(), facades)

    app.openapi = openapi  # type: ignore[method-assign]


async def _sweep(retention: Retention, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        begun = time.monotonic()
        await asyncio.to_thread(retention.sweep)
        pause = max(SWEEP_EVERY, SWEEP_SHARE * (time.monotonic() - begun))
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), pause)


async def _watch(keys: Keys, stopping: asyncio.Event) -> None:
    """Checks regularly whether `cogvideox keys` has opened or closed the server, and logs it."""
    while not stopping.is_set():
        with suppress(DBAPIError):
            await asyncio.to_thread(keys.log_changes)
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), WATCH_EVERY)


def _version() -> str:
    try:
        return version("cogvideox-server")
    except PackageNotFoundError:
        return "0"
