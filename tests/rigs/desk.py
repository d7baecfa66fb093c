"""Everything an attempt needs, without processes: a job table, a data folder, a clock, and scripted pools."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.events import Event, Finished
from pipelines.request import GenerationRequest
from server.datadir import DataDir
from server.jobs.job import Job, LogLine
from server.jobs.store import JobStore
from server.media.artifacts import Artifacts
from server.workers.attempt import Attempt, Records
from server.workers.patience import Patience
from server.workers.pool import WorkerInfo
from server.workers.protocol import InputFile, Report, Run, Said
from server.workers.snapshots import Snapshots

FILM = Finished(b"video", b"poster", "video/mp4", 9, 8, 64, 48, {"seed": 1}, {"denoise": 0.1}, "none")


class Notebook:
    """A pool that only records its calls."""

    def __init__(self) -> None:
        self.notes: list[Any] = []

    def wake(self) -> None: ...

    def workers(self) -> list[WorkerInfo]:
        return []

    def broken(self) -> str | None:
        return None

    def remedy(self) -> str:
        return ""

    def start(self) -> None: ...

    def free(self) -> bool:
        return True

    def run(self, run: Run, _: Mapping[InputFile, Path]) -> None:
        self.notes.append(run)

    def cancel(self, job_id: str, attempt: int) -> None:
        self.notes.append(("cancel", job_id, attempt))

    def pause(self, job_id: str, attempt: int) -> None:
        self.notes.append(("pause", job_id, attempt))

    def kill(self, job_id: str, attempt: int) -> None:
        self.notes.append(("kill", job_id, attempt))

    def reports(self, timeout: float) -> list[Report]:
        return []

    def close(self, why: str | None = None) -> None:
        self.notes.append(("close", why))


class Scripted(Notebook):
    """A pool that reports `event` for each run as soon as the run begins."""

    def __init__(self, event: Event = FILM) -> None:
        super().__init__()
        self._event = event
        self._said: list[Report] = []
        self._nudged = threading.Event()

    def wake(self) -> None:
        self._nudged.set()

    def run(self, run: Run, sources: Mapping[InputFile, Path]) -> None:
        super().run(run, sources)
        self._said.append(Said(run.job_id, run.attempt, self._event))
        self.wake()

    def reports(self, timeout: float) -> list[Report]:
        self._nudged.wait(timeout)
        self._nudged.clear()
        said, self._said = self._said, []
        return said


class Desk:
    """Provides everything an attempt needs, and one queued job, "id". `now` is the time of the attempts' clock."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self.clock: Callable[[], float] = lambda: self.now
        self.pool = Notebook()
        self.data = DataDir(folder)
        self.store = JobStore(folder / "jobs.db")
        self.snapshots = Snapshots(self.data.checkpoints, 1000)
        self.records = Records(self.store, Artifacts(self.data), self.snapshots)
        self.submit("id")

    def close(self) -> None:
        self.store.close()
        self.data.close()

    def submit(self, name: str, model: str = "tiny") -> None:
        self.store.submit(Job(name, "test", "e", GenerationRequest("a", seed=1), {}, model, 1.0))

    def attempt(self, **patience: Any) -> Attempt:
        """Claims the next job and begins an attempt."""
        job = self.store.claim()
        assert job is not None
        made = Attempt(job, self.pool, self.records, Patience(**patience), self.clock)
        assert made.begin()
        return made

    def get(self, name: str) -> Job:
        found = self.store.get(name)
        assert found is not None
        return found

    @property
    def job(self) -> Job:
        return self.get("id")

    @property
    def lines(self) -> list[str]:
        lines: list[LogLine] = self.store.logs("id")
        return [line.message for line in lines]

    @property
    def files(self) -> list[Path]:
        """The entries of the artifacts folder."""
        return list(self.data.artifacts.iterdir())
