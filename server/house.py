"""Builds the server: the only place where its parts are constructed and connected.

Knows: the parts, and the order in which they start and stop. Does not know: how the parts work, HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from pipelines.engine_port import EngineSpec
from pipelines.request import Task
from server.auth import Keys, check_bind, owner_of
from server.context import Context
from server.datadir import DataDir
from server.errors import BadSetting
from server.facades.kit.errors import Unavailable
from server.facades.registry import FACADES
from server.health import Health
from server.jobs.jobs import Jobs
from server.jobs.store import NO_QUOTA, JobStore, Quota
from server.keys import KeyStore
from server.limits.room import RoomLimits
from server.media.addresses import is_public
from server.media.artifact import Artifact
from server.media.artifacts import Artifacts, Limits
from server.media.fetch import Intake
from server.media.inspectors import Inspectors
from server.media.loras import Loras
from server.media.outbound import Outbound
from server.media.retention import Retention
from server.media.storage import LocalStorage, Storage
from server.media.uploads import Uploads
from server.served import Served, check_rife, check_upscaler, choose
from server.settings import Settings
from server.signing import Signing
from server.webhooks import Courier
from server.workers.attempt import Records
from server.workers.dispatcher import Dispatcher
from server.workers.local_pool import LocalPool
from server.workers.patience import Patience
from server.workers.prompt_help import helper_of
from server.workers.shown import without_paths
from server.workers.snapshots import Snapshots
from server.workers.spec import REAL_ENGINE, WorkerSpec, by_name

log = structlog.get_logger()


@dataclass(frozen=True)
class House:
    """The parts that exist as long as the server. `close` may be called repeatedly."""

    served: Served
    data: DataDir
    store: JobStore
    pool: LocalPool
    dispatcher: Dispatcher
    context: Context
    health: Health
    courier: Courier
    retention: Retention

    def open(self) -> None:
        self.dispatcher.start()

    def begin_to_stop(self) -> None:
        """For signal handlers: answers the requests that wait for jobs, and pauses running jobs. After a second call,
        the server stops without waiting for the jobs to pause."""
        self.context.jobs.stop_waiting()
        self.context.inspectors.stop()
        self.dispatcher.drain()

    def close(self) -> None:
        """Puts running jobs back into the queue."""
        self.dispatcher.stop()
        self.store.close()
        self.data.close()


def build(settings: Settings, engine: str = REAL_ENGINE) -> House:
    """Raises StartError: an invalid setting, a public address without keys, a data folder in use or not writable."""
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
        issued.known()  # the first call has no time limit
        keys = Keys(settings, issued.known)
        check_bind(settings, keys)
        signing = Signing(data.keys)
        storage = storage_of(settings, data.artifacts)
    except BaseException:
        store.close()
        data.abandon()
        raise

    def file_at(path: str) -> Artifact | None:
        apis = (FACADES[name] for name in settings.served_apis)
        return next((file for api in apis if (file := api.file_of(context, path)) is not None), None)

    artifacts = Artifacts(data, settings.public_url, storage=storage, file_at=file_at)
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
    outbound = Outbound((lambda _: True) if settings.allow_private_urls else is_public)
    inspectors = Inspectors()
    context = Context(
        settings,
        served,
        data,
        jobs,
        Intake(data, artifacts, outbound, inspectors),
        artifacts,
        uploads,
        keys,
        signing,
        Loras(settings, served.by_task, data, artifacts, outbound, inspectors),
        inspectors,
    )
    writers = {name: partial(FACADES[name].letter, context) for name in FACADES}
    health = Health(served, store, pool, dispatcher, data, artifacts, settings.max_queue)
    retention = Retention(
        *(data, artifacts, uploads, store.inputs_in_use, limits),
        forget=store.forget,
        keep_jobs=settings.keep_jobs_seconds,
    )
    courier = Courier(store, outbound, writers)
    return House(served, data, store, pool, dispatcher, context, health, courier, retention)


def storage_of(settings: Settings, folder: Path) -> Storage:
    """Raises StartError."""
    if settings.storage_url is None:
        return LocalStorage(folder)
    try:
        from server.media.storage_s3 import ObjectStorage  # needs the extra `s3`
    except ModuleNotFoundError:
        raise BadSetting("COGVIDEOX_STORAGE_URL needs another package: pip install 'cogvideox-server[s3]'") from None
    return ObjectStorage(settings.storage_url, redirect=settings.storage_redirect)


def _quota(settings: Settings, issued: KeyStore, owner: str) -> Quota:
    own = next((key.quota for key in issued.known().values() if owner_of(key.digest) == owner), NO_QUOTA)
    return Quota(own.at_once or settings.jobs_per_key, own.daily or settings.daily_jobs_per_key)
