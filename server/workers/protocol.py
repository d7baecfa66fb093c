"""The messages between the pool and a worker process: plain data that can be pickled.

Knows: the messages. Does not know: pipes, processes. Every message about a job names its attempt. No message contains
a path of the sender's machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.events import Event


@dataclass(frozen=True)
class InputFile:
    """`name`: a path relative to the worker's own folder of inputs."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Run:
    """To the worker: generate this video. `request`: from `GenerationRequest.to_dict`, with the names of `files` as
    paths (`inputs.packed`). `resume`: as in `Engine.run`."""

    job_id: str
    attempt: int
    request: dict[str, Any]
    model: str
    resume: bytes | None = None
    files: tuple[InputFile, ...] = ()


@dataclass(frozen=True)
class Cancel:
    """To the worker: stop, the video is no longer wanted."""

    job_id: str
    attempt: int


@dataclass(frozen=True)
class Pause:
    """To the worker: save a snapshot and stop; the job resumes later."""

    job_id: str
    attempt: int


@dataclass(frozen=True)
class Ready:
    """From the worker: ready for jobs."""


@dataclass(frozen=True)
class StartFailed:
    """From the worker, as its last message: the engine could not be created."""

    message: str


@dataclass(frozen=True)
class Said:
    """From the worker: an event of the engine."""

    job_id: str
    attempt: int
    event: Event


@dataclass(frozen=True)
class Died:
    """From the pool: the worker has died and the attempt is lost. `evidence`: how it died."""

    job_id: str
    attempt: int
    evidence: str


Report = Said | Died
