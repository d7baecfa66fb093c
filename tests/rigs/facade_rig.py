"""One façade over the real job table and the real files; every job finishes as soon as it is submitted.

The parts are assembled as in `server.house`, but without workers and without a network, so URLs cannot be downloaded.
Nothing here is specific to one vendor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from anyio.from_thread import BlockingPortal
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message

from pipelines.request import Task
from pipelines.video import VideoWriter
from server.auth import Keys
from server.context import Context
from server.datadir import DataDir
from server.facades import routes
from server.facades.registry import FACADES
from server.jobs.job import Job
from server.jobs.jobs import Jobs
from server.media.artifact import Artifact
from server.media.artifacts import Artifacts
from server.media.fetch import Intake
from server.media.inspectors import Inspectors
from server.media.loras import Loras
from server.media.outbound import Outbound
from server.media.uploads import Uploads
from server.middleware import ByPrefix
from server.served import Served
from server.settings import Settings
from server.signing import Signing
from tests.rigs import pace
from tests.rigs.job_table import VIDEO, Store, Table, hold, succeed
from tests.rigs.stand_ins import AnyFile, NoNetwork, OneLora, model_for

HERE = "http://here:8000"
MEMORY = Path("/dev/shm")  # syncing a disk takes time, and no file in this rig outlives the test


@dataclass
class Clock:
    """A clock that stands still until a test moves it. While `now` is None, this clock shows the machine's time."""

    now: float | None = None

    def __call__(self) -> float:
        return time.time() if self.now is None else self.now

    def advance(self, seconds: float) -> None:
        self.now = self() + seconds


@dataclass
class Rig:
    """A façade and its parts. `intake` is a stand-in that the context uses unless `real_media` is set."""

    name: str
    app: FastAPI
    context: Context
    table: Table
    data: DataDir
    clock: Clock
    intake: AnyFile
    base: str
    serves: ASGIApp  # the app that `client` calls
    _open: ExitStack
    portal: BlockingPortal | None = None  # the event loop that several clients share
    keys: Iterator[str] = field(default_factory=lambda: iter(()))
    _client: TestClient | None = None
    _before: frozenset[str] = frozenset()

    @property
    def store(self) -> Store:
        return self.table.store

    @property
    def client(self) -> TestClient:
        """A client whose calls all run in one event loop, which starts at the first use."""
        if self._client is None:
            client = TestClient(self.serves, base_url=self.base, raise_server_exceptions=False)
            self._client = self._open.enter_context(client)
            assert client.portal is not None
            self._open.callback(client.portal.call, self.context.inspectors.close)
            self._open.callback(client.portal.call, self.context.intake.close)
        return self._client

    def beside(self, *names: str) -> None:
        """Lets `client` call all these clouds at their own paths, as in the server; call this before the first use of
        `client`."""
        apps: dict[str, ASGIApp] = {name: FACADES[name].create(self.context) for name in names}
        self.serves = ByPrefix(Starlette(), routes.routes(apps))

    def url(self, file: Artifact | None) -> str:
        """The file's URL as clients of this server receive it."""
        assert file is not None
        return self.context.artifacts.url(file, self.base)

    def letter(self, job: Job, event: str = "completed") -> Any:
        """The webhook call for the job's event, or None if no call is due."""
        return FACADES[self.name].letter(self.context, job, event)

    # for tests whose sections share the rig

    def begin(self) -> None:
        """Starts a section of a test: from now on, `jobs` and `files` ignore everything older."""
        self.table.sent.clear()
        self._before = frozenset(path.name for path in self.data.artifacts.iterdir())

    def jobs(self) -> list[Job]:
        """The jobs submitted since `begin`, in their current state."""
        return self.table.jobs

    def files(self) -> list[Artifact]:
        """The files stored since `begin`, except for the jobs' results."""
        mine = {artifact.key for job in self.jobs() for artifact in (job.video, job.poster, job.manifest) if artifact}
        keys = {path.name for path in self.data.artifacts.iterdir()} - self._before - mine
        return [artifact for artifact in map(self.context.artifacts.find, keys) if artifact is not None]

    def hold(self) -> None:
        """Leaves new jobs in the queue."""
        self.table.end = hold

    def release(self) -> None:
        """Finishes the queued jobs; new jobs finish at once again."""
        self.table.finish_all()


Build = Callable[..., Rig]


@contextmanager
def facade(
    name: str,
    *,
    keys: str = "",
    clock: Clock | None = None,
    base: str = HERE,
    film: bytes = VIDEO,
    real_media: bool = True,
    rife: bool = False,
    tasks: Collection[Task] = tuple(Task),
    **settings: Any,
) -> Iterator[Rig]:
    """`film` is the content of each result. With `real_media`, the server's own inspector processes read files and
    LoRAs. `tasks` are the tasks that have a model."""
    with ExitStack() as there:
        folder = Path(there.enter_context(TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)))
        kept = {"data_dir": folder, "loras_dir": folder / "styles", "min_free_mb": 0}
        given = Settings(_env_file=None, api_keys=SecretStr(keys), **kept, **settings)
        clock = clock or Clock()
        data = DataDir(folder)
        there.callback(data.close)
        artifacts = Artifacts(
            data, given.public_url, clock=clock, file_at=lambda path: FACADES[name].file_of(context, path)
        )
        store = Store(given.database, clock=clock)
        there.callback(store.close)
        table = Table(store, artifacts, film, succeed)
        known = Keys(given)
        models = {task: model_for(task) for task in tasks}
        served = Served(models, ("cpu",), rife_weights=folder / "rife" if rife else None)
        jobs = Jobs(
            store,
            served,
            max_queue=given.max_queue,
            check_room=lambda: None,
            wake=lambda: None,
            extend=given.extend,
            remove=artifacts.remove,
            owners=lambda: known.owners,
        )
        outbound, inspectors, any_file = cast(Outbound, NoNetwork()), Inspectors(), AnyFile()
        intake = Intake(data, artifacts, outbound, inspectors) if real_media else cast(Intake, any_file)
        real_loras = Loras(given, models, data, artifacts, outbound, inspectors)
        loras = real_loras if real_media else cast(Loras, OneLora())
        uploads, signing = Uploads(data, artifacts), Signing(data.keys)
        context = Context(given, served, data, jobs, intake, artifacts, uploads, known, signing, loras, inspectors)
        app = FACADES[name].create(context)
        yield Rig(name, app, context, table, data, clock, any_file, base, app, there)


def hang_up(rig: Rig, path: str, body: bytes) -> None:
    """Sends a POST request, and hangs up when its job is in the table. Returns when the server has noticed that."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        while not rig.table.jobs:
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"here")],
    }
    asyncio.run(asyncio.wait_for(rig.app(scope, receive, send), pace.seconds(30)))


@cache
def square() -> bytes:
    """A decodable video of twelve frames."""
    frames = np.zeros((12, 32, 48, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[8:24, 2 * number : 2 * number + 16] = (220, 30, 30)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        with VideoWriter(path, 48, 32, 8, "mp4", {}) as writer:
            writer.write(frames)
        return path.read_bytes()
