"""The port between the dispatcher and the workers, wherever these run.

`local_pool` fills it with processes of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from server.workers.protocol import InputFile, Report, Run


class WorkerState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    BROKEN = "broken"  # does not start; tried again after a while


@dataclass(frozen=True)
class WorkerInfo:
    """`restarts` counts deaths; `error` is why the worker is broken, until it is ready."""

    device: str
    state: WorkerState
    job_id: str | None
    restarts: int
    error: str | None


class Pool(Protocol):
    """Belongs to the dispatcher's thread; only `wake`, `workers`, `broken` and `remedy` may be called from others."""

    def wake(self) -> None:
        """Makes a waiting `reports` return."""
        ...

    def workers(self) -> list[WorkerInfo]: ...

    def broken(self) -> str | None:
        """Why no worker can start until further notice; None where one may still."""
        ...

    def remedy(self) -> str:
        """What to add to `broken` for the operator; empty where nothing is known to help."""
        ...

    def start(self) -> None: ...

    def free(self) -> bool:
        """Whether `run` would find a worker."""
        ...

    def run(self, run: Run, sources: Mapping[InputFile, Path]) -> None:
        """Hands the job to a free worker, with a copy or link of each input file; `reports` says what becomes of it.

        `sources`: where the files that the run names lie on this machine. Raises OSError.
        """
        ...

    def cancel(self, job_id: str, attempt: int) -> None:
        """The worker should stop at once; nothing happens when none has this attempt."""
        ...

    def pause(self, job_id: str, attempt: int) -> None:
        """The worker should save a snapshot and stop."""
        ...

    def kill(self, job_id: str, attempt: int) -> None:
        """Ends the worker that has this attempt; `reports` will say that it died."""
        ...

    def reports(self, timeout: float) -> list[Report]:
        """What workers said and which died, waiting up to `timeout` seconds for the first."""
        ...

    def close(self, why: str | None = None) -> None:
        """Ends every worker within a few seconds. `why`: the error that `workers` reports from now on."""
        ...
