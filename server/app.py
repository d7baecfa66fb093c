"""Wires everything: the one place where the parts of the server are made and handed to each other.

Knows: which parts there are, in which order they start and stop. Does not know: how any of them works.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi_offline import FastAPIOffline  # /docs without a CDN
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import FileResponse, JSONResponse, Response

from server.auth import Keys, check_bind
from server.context import Context
from server.datadir import DataDir
from server.facades import fal, segmind
from server.facades.wire import MAX_BODY, Unavailable
from server.front import ByPrefix, Labelled
from server.health import Health
from server.jobs.dispatcher import Dispatcher
from server.jobs.jobs import Jobs
from server.jobs.pool import LocalPool, specs_for
from server.jobs.protocol import REAL_ENGINE, WorkerSpec
from server.jobs.served import REAL_WEIGHTS, choose
from server.jobs.store import JobStore
from server.media.addresses import is_public
from server.media.artifacts import CORS, Artifacts
from server.media.door import Door
from server.media.fetch import Intake
from server.openapi import merged
from server.settings import Settings

log = structlog.get_logger()

FACADES = {"fal": fal, "segmind": segmind}


@dataclass(frozen=True)
class House:
    """The parts that live as long as the server; `close` may be called twice."""

    context: Context
    health: Health

    def open(self) -> None:
        self.health.dispatcher.start()

    def close(self) -> None:
        """Running jobs go back into the queue."""
        self.health.dispatcher.stop()
        self.health.store.close()
        self.health.data.close()


def build(settings: Settings, engine: str = REAL_ENGINE) -> House:
    """Raises StartError: a bad setting, an open address, a data folder that is taken or not writable."""
    check_bind(settings)
    served = choose(settings)
    for problem in served.problems:
        log.warning(problem)
    data = DataDir(settings.data_dir, settings.min_free_bytes)
    try:
        store = JobStore(data.database)
    except BaseException:
        data.close()
        raise
    artifacts = Artifacts(data, settings.public_url)
    spec = WorkerSpec("", settings.memory, served.folders, settings.rife_weights, engine)
    pool = LocalPool(specs_for(served.devices, spec))
    dispatcher = Dispatcher(store, pool, artifacts, served.folders)

    def check_room() -> None:
        data.check_room()
        if dispatcher.dead:
            raise Unavailable("the server has stopped working on jobs; its log says why")

    jobs = Jobs(
        store,
        served,
        max_queue=settings.max_queue,
        check_room=check_room,
        wake=dispatcher.wake,
        rife_available=settings.rife_weights is not None,
        one_shot=("fal",),  # Segmind's callers may ask for /v1/requests/{id}
    )
    door = Door((lambda _: True) if settings.allow_private_urls else is_public)
    context = Context(settings, jobs, Intake(data, artifacts, door), artifacts, Keys(settings))
    return House(context, Health(served, store, pool, dispatcher, data, settings.max_queue))


def create_app(settings: Settings, *, engine: str = REAL_ENGINE) -> FastAPI:
    """The server. Its workers start with its lifespan and end with it. Raises StartError.

    `engine`: `module:class` of what the workers run. The parts are at `app.state.house`.
    """
    house = build(settings, engine)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        house.open()
        try:
            yield
        finally:
            house.context.jobs.stop_waiting()
            await house.context.intake.close()
            await asyncio.to_thread(house.close)

    app: FastAPI = FastAPIOffline(title="CogVideoX server", version=_version(), lifespan=lifespan, redoc_url=None)
    app.state.house = house
    facades = {name: module.create(house.context) for name, module in FACADES.items()}
    _own_routes(app, house)
    own_document = app.openapi

    def openapi() -> dict[str, Any]:
        return merged(own_document(), facades)

    app.openapi = openapi  # type: ignore[method-assign]
    routes = [(prefix, facades[name]) for name, module in FACADES.items() for prefix in module.PREFIXES]
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY)  # façades limit bodies in their own words
    app.add_middleware(ByPrefix, routes=routes)
    app.add_middleware(Labelled, model=house.health.served.header)
    return app


def _own_routes(app: FastAPI, house: House) -> None:
    health, artifacts = house.health, house.context.artifacts

    @app.get("/", tags=["server"])
    def overview() -> dict[str, Any]:
        """What is served here."""
        about: dict[str, Any] = {
            "name": "cogvideox-server",
            "version": app.version,
            "models": {task.value: info.name for task, info in sorted(health.served.by_task.items())},
            "apis": {name: list(module.PREFIXES) for name, module in FACADES.items()},
            "docs": "/docs",
            "health": "/health",
        }
        return about | ({"note": REAL_WEIGHTS} if health.served.is_demo else {})

    @app.get("/health", tags=["server"])
    def state() -> dict[str, Any]:
        """Models, devices, workers and queue."""
        return health.report()

    @app.get("/health/live", tags=["server"])
    async def live() -> dict[str, str]:
        """200 as long as requests are answered at all."""
        return {"status": "alive"}

    @app.get("/health/ready", tags=["server"])
    def ready() -> Response:
        """200 when a job sent now would be worked on, else 503 with the reasons."""
        obstacles = health.obstacles()
        body = {"status": "not ready" if obstacles else "ready", "problems": obstacles}
        return JSONResponse(body, 503 if obstacles else 200)

    @app.head("/files/{key}/{name}", include_in_schema=False)
    @app.get("/files/{key}/{name}", tags=["server"], response_class=FileResponse)
    def file(request: Request, key: str, name: str) -> Response:
        """A result. Whoever knows its address may have it."""
        return artifacts.respond(request, key, name)

    @app.options("/files/{key}/{name}", include_in_schema=False)
    async def file_preflight(key: str, name: str) -> Response:
        allowed = {"access-control-allow-methods": "GET, HEAD", "access-control-allow-headers": "*"}
        return Response(status_code=204, headers={**CORS, **allowed})


def _version() -> str:
    try:
        return version("cogvideox-server")
    except PackageNotFoundError:
        return "0"
