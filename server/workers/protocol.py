"""What travels between the dispatcher's side and a worker process: plain data that pickles.

Knows: the messages. Does not know: pipes, processes. Every message about a job names its attempt. No message holds a
path of the machine that sends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.events import Event


@dataclass(frozen=True)
class InputFile:
    """`name`: a relative path in the worker's own folder of inputs."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Run:
    """To the worker: make this video. `request` has the form of `GenerationRequest.to_dict`, with names of `files` in
    the place of paths (`inputs.packed`). `resume`: see `Engine.run`."""

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
    """From the worker: it is ready for jobs."""


@dataclass(frozen=True)
class StartFailed:
    """From the worker, its last message: its engine could not be created."""

    message: str


@dataclass(frozen=True)
class Said:
    """From the worker: the engine's event."""

    job_id: str
    attempt: int
    event: Event


@dataclass(frozen=True)
class Died:
    """From the pool: the worker is dead and the attempt lost; `evidence` says how it died."""

    job_id: str
    attempt: int
    evidence: str


Report = Said | Died
