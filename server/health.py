"""The health report: whether the server is ready for jobs, and the state of its parts.

Knows: which parts of the server can fail. Does not know: HTTP. A report never names a job, a folder or a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from server.datadir import DataDir
from server.errors import DiskFull
from server.jobs.job import Status
from server.jobs.store import JobStore
from server.media.artifacts import Artifacts
from server.served import REAL_WEIGHTS, Served
from server.workers.dispatcher import Dispatcher
from server.workers.pool import Pool, WorkerState
from server.workers.shown import without_paths


@dataclass(frozen=True)
class Health:
    served: Served
    store: JobStore
    pool: Pool
    dispatcher: Dispatcher
    data: DataDir
    artifacts: Artifacts
    max_queue: int

    def obstacles(self) -> list[str]:
        """The reasons why a job submitted now would not run; empty when it would."""
        return self._general() + self._of_workers()

    def _of_workers(self) -> list[str]:
        workers = self.pool.workers()
        if any(w.state in (WorkerState.READY, WorkerState.BUSY) for w in workers):
            return []
        return [
            without_paths(f"the worker on {w.device} cannot start: {w.error}")
            if w.error
            else f"the worker on {w.device} is {w.state}"
            for w in workers
        ]

    def _general(self) -> list[str]:
        found = []
        if not self.served.by_task:
            found.append("no checkpoint is served; cogvideox weights pull cogvideox-5b, or set COGVIDEOX_MODEL")
        if not self.dispatcher.alive:
            found.append("the dispatcher has stopped; see the log, and start the server again")
        try:
            self.artifacts.check_room()
        except DiskFull as e:
            found.append(e.message)
        try:
            self.store.unfinished()
        except SQLAlchemyError as e:
            found.append(f"the job table cannot be read ({type(e).__name__})")
        return found

    def report(self) -> dict[str, Any]:
        general, unready = self._general(), self._of_workers()
        may_come = any(w.state is WorkerState.STARTING and not w.error for w in self.pool.workers())
        status = "ok" if not general + unready else "starting" if may_come and not general else "degraded"
        try:
            counts: dict[str, int] = {s.value: n for s, n in self.store.unfinished().items()}
        except SQLAlchemyError:
            counts = {}
        report: dict[str, Any] = {
            "status": status,
            "problems": [*general, *unready, *map(without_paths, self.served.problems)],
            "models": {task.value: info.name for task, info in sorted(self.served.by_task.items())},
            "demo": self.served.is_demo,
            "devices": list(self.served.devices),
            "workers": [
                {
                    "device": w.device,
                    "state": w.state.value,
                    "restarts": w.restarts,
                    "error": w.error and without_paths(w.error),
                }
                for w in self.pool.workers()
            ],
            "queue": {
                Status.QUEUED.value: counts.get(Status.QUEUED),
                Status.RUNNING.value: counts.get(Status.RUNNING),
                "limit": self.max_queue,
            },
            "free_disk_mb": self.data.free_bytes // 2**20,
        }
        if self.served.is_demo:
            report["note"] = REAL_WEIGHTS
        return report
