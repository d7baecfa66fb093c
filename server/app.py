"""Wires everything: the one place where the parts of the server are made and handed to each other.

Knows: which parts there are, in which order they start and stop. Does not know: how any of them works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi_offline import FastAPIOffline  # /docs without a CDN
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp

from pipelines.engine_port import EngineSpec
from pipelines.request import Task
from server.auth import Keys, check_bind, owner_of
from server.context import Context
from server.datadir import DataDir
from server.decoded import Decoded
from server.docs import add_docs
from server.errors import DiskFull
from server.facades import v1
from server.facades.cors import Cors
from server.facades.registry import FACADES
from server.facades.wire import MAX_BODY, Unavailable
from server.health import Health
from server.jobs.jobs import Jobs
from server.jobs.store import NO_QUOTA, JobStore, Quota
from server.keys import KeyStore
from server.limits.bodies import Bodies, Counted
from server.limits.calls import Fair
from server.limits.ratelimit import Limited, Limiter
from server.limits.room import RoomLimits
from server.media.addresses import is_public
from server.media.artifacts import Artifacts, Limits
from server.media.door import Door
from server.media.fetch import Intake
from server.media.inspectors import Inspectors
from server.media.loras import Loras
from server.media.retention import Retention
from server.media.storage import CORS, storage_of
from server.media.uploads import UPLOAD_BYTES, Uploads
from server.middleware import ByPrefix, Forwarded, Labelled
from server.openapi import merged
from server.requestlog import Flood, Logged, note_refusals, noting
from server.served import REAL_WEIGHTS, check_rife, check_upscaler, choose
from server.settings import Settings
from server.signing import Signing
from server.transport.heads import answer_heads
from server.webhooks import Courier
from server.workers.attempt import Records
from server.workers.dispatcher import Dispatcher
from server.workers.local_pool import LocalPool
from server.workers.patience import Patience
from server.workers.prompt_help import helper_of
from server.workers.shown import without_paths
from server.workers.snapshots import Snapshots
from server.workers.spec import REAL_ENGINE, WorkerSpec, by_name

BODIES = 2**30  # bytes of request bodies in memory at a time
BODIES_PER_KEY = 2 * MAX_BODY
THREADS = 32  # for what the event loop leaves to others; its own choice is five on a single core
FILE_THREADS = 16  # of the forty that answer requests, for files: a storage that is slow leaves the others free
SWEEP_EVERY = 60.0  # seconds between two looks for files whose time is over
SWEEP_SHARE = 20.0  # and so many times as long as the last look took
WATCH_EVERY = 2.0  # seconds between two looks whether the server has become open or closed
SWEEP_END = 5.0  # seconds that the server waits, when it stops, for a look to end

log = structlog.get_logger()


@dataclass(frozen=True)
class House:
    """The parts that live as long as the server; `close` may be called twice."""

    context: Context
    health: Health
    courier: Courier
    retention: Retention

    def open(self) -> None:
        self.health.dispatcher.start()

    def begin_to_stop(self) -> None:
        """For signal handlers: who waits is answered, running jobs pause; a second call waits for them no longer."""
        self.context.jobs.stop_waiting()
        self.context.inspectors.stop()
        self.health.dispatcher.drain()

    def close(self) -> None:
        """Running jobs go back into the queue."""
        self.health.dispatcher.stop()
        self.health.store.close()
        self.health.data.close()


def build(settings: Settings, engine: str = REAL_ENGINE) -> House:
    """Raises StartError: a bad setting, an open address, a data folder that is taken or not writable."""
    served, helper = choose(settings), helper_of(settings)
    check_rife(settings)
    check_upscaler(settings)
    if settings.extend and Task.I2V not in served.by_task:
        log.warning("COGVIDEOX_EXTEND: no image-to-video checkpoint is served, so nothing can be extended")
    for problem in served.problems:
        log.warning(problem)
    data = DataDir(settings.data_dir, settings.min_free_bytes)
    try:
        store = JobStore(settings.database)
    except BaseException:
        data.abandon()
        raise
    try:
        issued = KeyStore(store.database)
        issued.known()  # the first time, which may take as long as it takes
        keys = Keys(settings, issued.known)
        check_bind(settings, keys)
        signing = Signing(data.keys)
        storage = storage_of(settings, data.artifacts)
    except BaseException:
        store.close()
        data.abandon()
        raise
    artifacts = Artifacts(data, settings.public_url, storage=storage)
    engine_spec = EngineSpec({}, memory=settings.memory, rife=served.rife_weights, upscaler=settings.upscaler)
    spec = WorkerSpec(
        engine_spec,
        data.temporary / "inputs",
        models_dir=settings.models_dir,
        engine_class=engine,
        helper=helper,
    )
    pool = LocalPool(by_name(spec, served.folders), served.devices)
    patience = Patience(settings.drain_seconds, settings.silence_seconds, settings.max_run_seconds)
    snapshots = Snapshots(data.checkpoints, settings.keep_latents_mb * 2**20)
    dispatcher = Dispatcher(Records(store, artifacts, snapshots, keys.name_of), pool, served.folders, patience)

    def check_room() -> None:
        artifacts.check_room()
        if dispatcher.dead:
            raise Unavailable("the server has stopped working on jobs; its log says why")
        if (reason := broken()) is not None:
            raise Unavailable(reason)

    def broken() -> str | None:
        found = pool.broken()
        return None if found is None else without_paths(f"no videos can be made at the moment: {found}")

    jobs = Jobs(
        store,
        served,
        max_queue=settings.max_queue,
        check_room=check_room,
        wake=dispatcher.wake,
        rife_available=served.rife_weights is not None,
        extend=settings.extend,
        remove=artifacts.remove,
        quota=lambda owner: _quota(settings, issued, owner),
        owners=lambda: keys.owners,
        broken=broken,
        key_name=keys.name_of,
    )
    uploads = Uploads(data, artifacts)
    per_key, brought = settings.max_storage_per_key_bytes, settings.max_uploads_per_key_bytes
    limits = Limits(settings.keep_results_seconds, settings.max_storage_bytes, per_key, brought)
    data.room.limits = RoomLimits(settings.max_storage_bytes, per_key, brought)
    door = Door((lambda _: True) if settings.allow_private_urls else is_public)
    inspectors = Inspectors()
    context = Context(
        settings,
        jobs,
        Intake(data, artifacts, door, inspectors),
        artifacts,
        uploads,
        keys,
        signing,
        Loras(settings, served.by_task, data, artifacts, door, inspectors),
        inspectors,
    )
    writers = {name: partial(FACADES[name].letter, context) for name in FACADES}
    health = Health(served, store, pool, dispatcher, data, artifacts, settings.max_queue)
    retention = Retention(
        *(data, artifacts, uploads, store.inputs_in_use, limits),
        forget=store.forget,
        keep_jobs=settings.keep_jobs_seconds,
    )
    return House(context, health, Courier(store, door, writers), retention)


def create_app(settings: Settings, *, engine: str = REAL_ENGINE) -> FastAPI:
    """The server. Its workers start with its lifespan and end with it. Raises StartError.

    `engine`: `module:class` of what the workers run. The parts are at `app.state.house`.
    """
    house, flood = build(settings, engine), Flood()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
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

    app: FastAPI = FastAPIOffline(
        title="CogVideoX server", version=_version(), lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.router.redirect_slashes = False  # `ByPrefix` takes them off
    add_docs(app, house.context.artifacts.base_url)
    app.state.house = house
    served = [name for name in FACADES if name in settings.served_apis]
    facades = {name: FACADES[name].create(house.context) for name in served}
    for name, facade in facades.items():
        for kind in (OperationalError, InterfaceError):
            facade.add_exception_handler(kind, partial(_outage, partial(FACADES[name].refuse, house.context)))
    doors: dict[str, ASGIApp] = {**facades}
    note_refusals(facades.values())
    if settings.rate_limit is not None:
        limiter = Limiter(settings.rate_limit)
        doors = {
            name: Limited(facade, limiter, noting(partial(FACADES[name].refuse, house.context)))
            for name, facade in facades.items()
        }
    _own_routes(app, house, served)
    answer_heads((app, *facades.values()))
    own_document = app.openapi

    def openapi() -> dict[str, Any]:
        return merged(own_document(), facades)

    app.openapi = openapi  # type: ignore[method-assign]
    routes: list[tuple[str, ASGIApp]] = [(prefix, doors[name]) for name in served for prefix in FACADES[name].prefixes]
    routes += v1.shared(doors)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY)  # façades limit bodies in their own words
    app.add_middleware(ByPrefix, routes=routes)
    app.add_middleware(Decoded, limit=UPLOAD_BYTES)
    app.add_middleware(Fair)
    app.add_middleware(Counted, bodies=Bodies(BODIES, BODIES_PER_KEY))
    app.add_middleware(Labelled, model=house.health.served.header)
    app.add_middleware(Cors)
    clouds = {prefix: name for name in served for prefix in FACADES[name].prefixes}
    app.add_middleware(Logged, clouds=clouds, apps=facades, key_name=house.context.keys.name_of, flood=flood)
    app.add_middleware(Forwarded, trusted=settings.trusted_proxies)
    return app


def _own_routes(app: FastAPI, house: House, served: list[str]) -> None:
    health, artifacts = house.health, house.context.artifacts
    files = CapacityLimiter(FILE_THREADS)

    @app.get("/", tags=["server"])
    def overview() -> dict[str, Any]:
        """What is served here."""
        about: dict[str, Any] = {
            "name": "cogvideox-server",
            "version": app.version,
            "models": {task.value: info.name for task, info in sorted(health.served.by_task.items())},
            "apis": {name: list(FACADES[name].prefixes) for name in served},
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

    @app.get("/files/{key}/{name}", tags=["server"], response_class=FileResponse)
    async def file(request: Request, key: str, name: str) -> Response:
        """A result. Whoever knows its address may have it."""
        return await to_thread.run_sync(artifacts.respond, request, key, name, limiter=files)

    @app.options("/files/{key}/{name}", include_in_schema=False)
    async def file_preflight(key: str, name: str) -> Response:
        allowed = {"access-control-allow-methods": "GET, HEAD", "access-control-allow-headers": "*"}
        return Response(status_code=204, headers={**CORS, **allowed})


def _outage(refuse: Callable[[Request, Exception], Response], request: Request, error: Exception) -> Response:
    """What a caller is told while the job table cannot be used."""
    reason = str(error.orig) if isinstance(error, DBAPIError) else ""
    log.error("job table not usable", error=reason)
    if "disk is full" in reason or "No space left" in reason:
        return refuse(request, DiskFull("the server's disk is full"))
    return refuse(request, Unavailable("The job table cannot be used at the moment; send the request again later"))


def _quota(settings: Settings, issued: KeyStore, owner: str) -> Quota:
    own = next((key.quota for key in issued.known().values() if owner_of(key.digest) == owner), NO_QUOTA)
    return Quota(own.at_once or settings.jobs_per_key, own.daily or settings.daily_jobs_per_key)


async def _sweep(retention: Retention, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        begun = time.monotonic()
        await asyncio.to_thread(retention.sweep)
        pause = max(SWEEP_EVERY, SWEEP_SHARE * (time.monotonic() - begun))
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), pause)


async def _watch(keys: Keys, stopping: asyncio.Event) -> None:
    """The log says when `cogvideox keys` has opened or closed the server."""
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
