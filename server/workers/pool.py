"""The interface between the dispatcher and the workers, wherever these run.

`local_pool` implements this interface with processes on this machine.
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
    BROKEN = "broken"  # the worker cannot start; the pool tries again later


@dataclass(frozen=True)
class WorkerInfo:
    """`restarts`: how often the worker's process has died. `error`: why it could not start, until it is ready."""

    device: str
    state: WorkerState
    job_id: str | None
    restarts: int
    error: str | None


class Pool(Protocol):
    """Use from the dispatcher's thread; only `wake`, `workers`, `broken` and `remedy` may be called from other
    threads."""

    def wake(self) -> None:
        """Makes a waiting `reports` return."""
        ...

    def workers(self) -> list[WorkerInfo]: ...

    def broken(self) -> str | None:
        """Why no worker can start at present; None when at least one worker may start."""
        ...

    def remedy(self) -> str:
        """A hint for the operator, to be shown after the text of `broken`; may be empty."""
        ...

    def start(self) -> None: ...

    def free(self) -> bool:
        """Whether a worker is free for `run`."""
        ...

    def run(self, run: Run, sources: Mapping[InputFile, Path]) -> None:
        """Hands the job to a free worker, with a copy or link of each input file; `reports` returns its events.

        `sources`: the paths of the run's files on this machine. Raises OSError.
        """
        ...

    def cancel(self, job_id: str, attempt: int) -> None:
        """Asks the worker with this attempt, if any, to stop at once."""
        ...

    def pause(self, job_id: str, attempt: int) -> None:
        """Asks the worker with this attempt, if any, to save a snapshot and stop."""
        ...

    def kill(self, job_id: str, attempt: int) -> None:
        """Kills the worker with this attempt, if any; `reports` will return its death."""
        ...

    def reports(self, timeout: float) -> list[Report]:
        """Events and deaths of workers; waits up to `timeout` seconds for the first report."""
        ...

    def close(self, why: str | None = None) -> None:
        """Ends every worker within a few seconds. `why`: the error that `workers` reports from now on."""
        ...
