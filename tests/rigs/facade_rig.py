"""One façade over the real job table, files and intake, with every job done as soon as it is sent.

Knows: how those parts are put together (as `server.house` does). Does not know: vendors, workers, the network: whatever
is fetched by address does not come.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, cast

import numpy as np
from anyio.from_thread import BlockingPortal
from fastapi import FastAPI
from pydantic import SecretStr

from pipelines.request import Task
from pipelines.video import VideoWriter, poster
from server.auth import Keys
from server.context import Context
from server.datadir import DataDir
from server.facades.registry import FACADES
from server.jobs.job import Job
from server.jobs.jobs import Jobs
from server.jobs.store import JobStore
from server.media.artifact import Artifact
from server.media.artifacts import Artifacts
from server.media.fetch import Intake
from server.media.inspectors import Inspectors
from server.media.loras import Loras
from server.media.outbound import DownloadFailed, Outbound
from server.media.uploads import Uploads
from server.served import Served
from server.settings import Settings
from server.signing import Signing
from tests.rigs.clients.fake import model_for

FILM = ("film.mp4", "video/mp4")
POSTER = ("poster.jpg", "image/jpeg")
MANIFEST = ("film.mp4.json", "application/json")
MEMORY = Path("/dev/shm")  # disks take their time to make sure, and nothing here is to last


@dataclass
class Clock:
    """Stands still until it is told otherwise; without `now` it is the machine's."""

    now: float | None = None

    def __call__(self) -> float:
        return time.time() if self.now is None else self.now


@dataclass
class Rig:
    app: FastAPI
    context: Context
    store: JobStore
    data: DataDir
    clock: Clock
    sent: list[str] = field(default_factory=list)
    holds: bool = False  # jobs stay in the queue
    portal: BlockingPortal | None = None  # the one event loop of several clients
    keys: Iterator[str] = field(default_factory=lambda: iter(()))
    _before: frozenset[str] = frozenset()

    def begin(self) -> None:
        """Forgets which jobs and files there are."""
        self.sent.clear()
        self._before = frozenset(path.name for path in self.data.artifacts.iterdir())

    def jobs(self) -> list[Job]:
        """Those that were sent since `begin`, as they are now."""
        return [job for job in map(self.store.get, self.sent) if job is not None]

    def files(self) -> list[Artifact]:
        """What was kept since `begin`, results aside."""
        mine = {artifact.key for job in self.jobs() for artifact in (job.video, job.poster, job.manifest) if artifact}
        keys = {path.name for path in self.data.artifacts.iterdir()} - self._before - mine
        return [artifact for artifact in map(self.context.artifacts.find, keys) if artifact is not None]

    def release(self) -> None:
        """Ends what was held in the queue."""
        self.holds = False
        while self.done():
            pass

    def done(self) -> bool:
        """What a worker would make of the next job in the queue; whether there was one."""
        job = None if self.holds else self.store.claim()
        if job is None:
            return False
        self.sent.append(job.id)
        self.store.log(job.id, "begun")
        video, picture, manifest = (_put(self.context.artifacts, *file) for file in (FILM, POSTER, MANIFEST))
        more: dict[str, Any] = {"timings": {"denoise": 1.0}, "memory": "none"}
        self.store.finish(job.id, job.attempt, video=video, poster=picture, manifest=manifest, **more)
        return True


class NoNetwork:
    """Stands in for `Outbound`."""

    async def download(self, url: str, limit: int, owner: str = "") -> bytes:
        raise DownloadFailed("the host name is not known")

    async def save(self, url: str, limit: int, file: BinaryIO, seconds: float | None = None, owner: str = "") -> None:
        await self.download(url, limit)

    async def close(self) -> None:
        pass


@contextmanager
def facade(name: str, *, keys: str = "", clock: Clock | None = None, **settings: Any) -> Iterator[Rig]:
    with ExitStack() as there:
        folder = Path(there.enter_context(TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)))
        rig = _built(folder, name, keys, clock or Clock(), settings)
        there.callback(rig.data.close)
        there.callback(rig.store.close)
        yield rig


def _built(folder: Path, name: str, keys: str, clock: Clock, settings: dict[str, Any]) -> Rig:
    kept = {"data_dir": folder, "loras_dir": folder / "styles"}
    given = Settings(_env_file=None, api_keys=SecretStr(keys), min_free_mb=0, **kept, **settings)
    data = DataDir(folder)
    artifacts = Artifacts(data, clock=clock, file_at=lambda path: FACADES[name].file_of(context, path))
    store = JobStore(given.database, clock=clock)
    known = Keys(given)
    served = Served({task: model_for(task) for task in Task}, ("cpu",), rife_weights=folder / "rife")
    jobs = Jobs(
        store,
        served,
        max_queue=given.max_queue,
        check_room=lambda: None,
        wake=lambda: rig.done(),
        extend=given.extend,
        remove=artifacts.remove,
        owners=lambda: known.owners,
    )
    outbound = cast(Outbound, NoNetwork())
    inspectors = Inspectors()
    intake = Intake(data, artifacts, outbound, inspectors)
    loras = Loras(given, {task: model_for(task) for task in Task}, data, artifacts, outbound, inspectors)
    uploads = Uploads(data, artifacts)
    signing = Signing(data.keys)
    context = Context(given, served, data, jobs, intake, artifacts, uploads, known, signing, loras, inspectors)
    rig = Rig(FACADES[name].create(context), context, store, data, clock)
    return rig


def _put(artifacts: Artifacts, name: str, media_type: str) -> Artifact:
    return artifacts.put(name, media_type, _bytes()[name])


@cache
def _bytes() -> dict[str, bytes]:
    """A film of twelve frames and what lies beside it."""
    frames = np.zeros((12, 32, 48, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[8:24, 2 * number : 2 * number + 16] = (220, 30, 30)
    with TemporaryDirectory() as folder:
        path = Path(folder) / FILM[0]
        with VideoWriter(path, 48, 32, 8, "mp4", {}) as writer:
            writer.write(frames)
        return {FILM[0]: path.read_bytes(), POSTER[0]: poster(frames[0]), MANIFEST[0]: b"{}"}
