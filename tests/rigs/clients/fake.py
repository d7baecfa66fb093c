"""A Context whose jobs end as a test says: no worker, no database, no fetching.

Knows: the interface the façades use, and the rules of the real one that they rely on (a seed is drawn, the plan is
resolved at submit, a cancelled queued job ends at once). Does not know: any vendor.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from pipelines.models import FAMILIES, ModelInfo
from pipelines.request import GenerationRequest, Lora, Media, RequestError, Task, draw_seed
from pipelines.resolve import resolve
from server.auth import Keys
from server.context import Context
from server.datadir import RECORDS
from server.errors import MediaError
from server.jobs.follow import Seen
from server.jobs.job import FOLLOWS, Job, JobError, LogLine, Status
from server.jobs.order import Order
from server.limits.room import Room
from server.limits.shares import Shares
from server.media.artifact import Artifact
from server.media.inspectors import Inspectors
from server.settings import Settings
from server.signing import Signing

VIDEO = b"\x00\x00\x00\x18ftypisom not really a film"
PICTURE = "data:image/png;base64,iVBORw0KGgo="
CLIP = "data:video/mp4;base64,AAAAGGZ0eXA="

End = Callable[["FakeJobs", str], None]


def succeed(jobs: FakeJobs, job_id: str) -> None:
    jobs.start(job_id)
    jobs.finish(job_id)


def fail(code: str, message: str = "it broke", field: str | None = None) -> End:
    def end(jobs: FakeJobs, job_id: str) -> None:
        jobs.start(job_id)
        jobs.fail(job_id, JobError(code, message, field))

    return end


def hold(jobs: FakeJobs, job_id: str) -> None:
    """Leaves the job waiting."""


@dataclass
class FakeJobs:
    """`end` is carried out on every job when it is submitted."""

    end: End = succeed
    rife_available: bool = False
    raises: Exception | None = None
    jobs: dict[str, Job] = field(default_factory=dict)
    lines: dict[str, list[LogLine]] = field(default_factory=dict)
    streams: Shares = field(default_factory=lambda: Shares("event streams", 2, 2))
    pages: Shares = field(default_factory=lambda: Shares("lists", 2, 2))
    waits: Shares = field(default_factory=lambda: Shares("calls that wait for a job", 2, 2))

    def submit(self, request: GenerationRequest, order: Order) -> Job:
        if self.raises is not None:
            raise self.raises
        if request.seed is None:
            request = replace(request, seed=draw_seed())
        plan = resolve(request, model_for(request.task)).to_dict()
        job = self._add(request, order, plan=plan)
        self.end(self, job.id)
        return job

    def refuse(self, order: Order, error: JobError) -> Job:
        job = self._add(GenerationRequest("", seed=0), order)
        return self._move(job.id, Status.FAILED, error=error, finished_at=time.time())

    def get(self, job_id: str) -> Job | None:
        return self.jobs.get(job_id)

    def find(self, job_id: str | int, facade: str, owner: str) -> Job | None:
        found = [j for j in self.jobs.values() if job_id in (j.id, j.number) and (j.facade, j.owner) == (facade, owner)]
        return self._in_time(found[0]) if found else None

    def _in_time(self, job: Job) -> Job:
        late = job.deadline is not None and job.deadline <= time.time()
        return (self.cancel(job.id) if late else None) or job

    def page(
        self, facade: str, owner: str, limit: int, after: Job | None = None, newest_first: bool = True
    ) -> list[Job]:
        mine = [job for job in self.jobs.values() if (job.facade, job.owner) == (facade, owner)]
        mine.sort(key=lambda job: job.number, reverse=newest_first)
        if after is not None:
            mine = [job for job in mine if (job.number < after.number) == newest_first and job.number != after.number]
        return mine[:limit]

    def delete(self, job: Job) -> None:
        del self.jobs[job.id]

    def cancel(self, job_id: str, only_queued: bool = False) -> Job | None:
        job = self.jobs.get(job_id)
        if job is None or job.status.is_terminal or (only_queued and job.status is Status.RUNNING):
            return job
        if job.status is Status.QUEUED:
            return self._move(job_id, Status.CANCELLED, finished_at=time.time())
        self.jobs[job_id] = replace(job, cancel_requested=True)
        return self.jobs[job_id]

    def position(self, job: Job) -> int:
        waiting = [j.id for j in self.jobs.values() if j.status is Status.QUEUED]
        return waiting.index(job.id) if job.id in waiting else 0

    def expected(self, job: Job) -> float | None:
        return job.eta

    def counts(self) -> dict[Status, int]:
        return Counter(job.status for job in self.jobs.values())

    def logs_of(self, jobs: Collection[Job]) -> dict[str, list[LogLine]]:
        return {job.id: self.lines[job.id] for job in jobs if job.id in self.lines}

    def logs(self, job_id: str, after: int = 0) -> list[LogLine]:
        return [line for line in self.lines.get(job_id, []) if line.seq > after]

    async def wait(self, job_id: str, timeout: float | None = None) -> Job:
        until = None if timeout is None else time.monotonic() + timeout
        while not self._in_time(self.jobs[job_id]).status.is_terminal and (until is None or time.monotonic() < until):
            await asyncio.sleep(0.005)
        return self.jobs[job_id]

    async def follow(self, job_id: str) -> AsyncGenerator[Seen]:
        before, seen = None, 0
        while job_id in self.jobs:
            job = self.jobs[job_id]
            lines = self.logs(job_id, seen)
            seen += len(lines)
            if lines or job != before:
                yield Seen(job, self.position(job), lines)
            if job.status.is_terminal:
                return
            before = job
            await asyncio.sleep(0.005)

    # what a test does to a job

    @property
    def last(self) -> Job:
        return next(reversed(self.jobs.values()))

    def start(self, job_id: str) -> None:
        self._move(job_id, Status.RUNNING, attempt=1, started_at=time.time())
        self.log(job_id, "begun")

    def log(self, job_id: str, message: str, level: str = "INFO") -> None:
        lines = self.lines.setdefault(job_id, [])
        lines.append(LogLine(len(lines) + 1, time.time(), level, message))

    def finish(self, job_id: str) -> None:
        video = Artifact(f"key-{job_id}", "video/mp4", "film.mp4", len(VIDEO))
        poster = Artifact(f"poster-{job_id}", "image/jpeg", "poster.jpg", 9)
        self._move(job_id, Status.SUCCEEDED, video=video, poster=poster, finished_at=time.time())

    def fail(self, job_id: str, error: JobError) -> None:
        self._move(job_id, Status.FAILED, error=error, finished_at=time.time())

    def stop(self, job_id: str) -> None:
        """What a worker does about `cancel_requested`."""
        self._move(job_id, Status.CANCELLED, finished_at=time.time())

    def _add(self, request: GenerationRequest, order: Order, **more: Any) -> Job:
        number = len(self.jobs) + 1
        fresh: dict[str, Any] = {"id": str(uuid.uuid4()), "model": "cogvideox-5b", "created_at": time.time()}
        job = Job(request=request, number=number, **fresh, **vars(order), **more)
        self.jobs[job.id] = job
        return job

    def _move(self, job_id: str, status: Status, **more: Any) -> Job:
        job = self.jobs[job_id]
        if status not in FOLLOWS[job.status]:
            raise ValueError(f"{job.status} -> {status}")
        self.jobs[job_id] = replace(job, status=status, **more)
        return self.jobs[job_id]


class FakeIntake:
    """Takes everything but addresses: those cannot be had."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | bytes]] = []

    async def picture(self, value: str | bytes, field: str, *, owner: str = "") -> Media:
        return self._media(value, field)

    async def video(self, value: str | bytes, field: str, *, owner: str = "") -> Media:
        return self._media(value, field)

    def again(self, media: Media, field: str) -> Media:
        return media

    def _media(self, value: str | bytes, field: str) -> Media:
        self.seen.append((field, value))
        if isinstance(value, str) and value.startswith("http"):
            raise MediaError(field, "file_download_error", "Nothing came from that address")
        if value in ("big", b"big"):
            raise MediaError(field, "file_too_large", "Too large", max_size=10)
        return Media("somewhere", "0" * 64)


class FakeLoras:
    """Has one by the name of style; addresses cannot be had."""

    async def take(
        self, value: str, scale: float, task: Task, *, field: str = "loras", fresh: bool = False, owner: str = ""
    ) -> Lora:
        if value.startswith("http"):
            raise MediaError(field, "file_download_error", "Nothing came from that address")
        if value != "style":
            raise RequestError(field, f"no LoRA {value!r} is installed here; there are: style")
        return Lora("style.safetensors", scale)


class FakeArtifacts:
    def find(self, key: str) -> Artifact | None:
        return None

    def base_url(self, request: Request) -> str:
        return f"{request.url.scheme}://{request.headers['host']}"

    def url(self, artifact: Artifact, base: str) -> str:
        return f"{base}/files/{artifact.key}/{artifact.file_name}"

    def read(self, artifact: Artifact) -> bytes:
        return VIDEO

    def sent(self, request: Request, key: str, name: str) -> Response:
        return Response(VIDEO, media_type="image/jpeg" if name.endswith(".jpg") else "video/mp4")


def model_for(task: Task) -> ModelInfo:
    family = next(f for f in FAMILIES if task in f.tasks and "5b" in f.name and "1.5" not in f.name)
    return ModelInfo(family.name, Path(), family, True, 226, 1, 3072, 128, 86_400)


class FakeServed:
    """Every task, and frames between frames when the jobs say so."""

    def __init__(self, jobs: FakeJobs) -> None:
        self._jobs = jobs

    @property
    def by_task(self) -> dict[Task, ModelInfo]:
        return getattr(self._jobs, "models", {task: model_for(task) for task in Task})

    @property
    def rife_available(self) -> bool:
        return self._jobs.rife_available


def fake_context(*, keys: str = "", **settings: Any) -> tuple[Context, FakeJobs, FakeIntake]:
    jobs, intake = FakeJobs(), FakeIntake()
    given = Settings(_env_file=None, api_keys=SecretStr(keys), **settings)
    artifacts = cast(Any, FakeArtifacts())
    folder = given.data_dir.absolute()
    context = Context(
        given,
        cast(Any, FakeServed(jobs)),
        cast(Any, SimpleNamespace(uploads=folder / "uploads", records={api: folder / api for api in RECORDS})),
        cast(Any, jobs),
        cast(Any, intake),
        artifacts,
        cast(Any, SimpleNamespace(room=Room(lambda: 2**40, 0))),
        Keys(given),
        Signing(_secrets()),
        cast(Any, FakeLoras()),
        Inspectors(),
    )
    return context, jobs, intake


@cache
def _secrets() -> Path:
    """The same keys for all tests of a process."""
    return Path(tempfile.mkdtemp()) / "keys"
