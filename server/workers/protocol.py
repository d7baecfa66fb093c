"""What travels between the dispatcher's side and a worker process: plain data that pickles.

Knows: the messages. Does not know: pipes, processes. Everything said about a job names its attempt. No message holds a
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
    """To the worker: make this video. `request` as from `GenerationRequest.to_dict`, with the names of `files` as paths
    (`inputs.packed`); `resume` as in `Engine.run`."""

    job_id: str
    attempt: int
    request: dict[str, Any]
    model: str
    resume: bytes | None = None
    files: tuple[InputFile, ...] = ()


@dataclass(frozen=True)
class Cancel:
    """To the worker: stop, nobody wants it any more."""

    job_id: str
    attempt: int


@dataclass(frozen=True)
class Pause:
    """To the worker: save what there is and stop, it will go on later."""

    job_id: str
    attempt: int


@dataclass(frozen=True)
class Ready:
    """From the worker: it takes jobs from now on."""


@dataclass(frozen=True)
class StartFailed:
    """From the worker, its last words: it could not set up its engine."""

    message: str


@dataclass(frozen=True)
class Said:
    """From the worker: the engine's event."""

    job_id: str
    attempt: int
    event: Event


@dataclass(frozen=True)
class Died:
    """From the pool: the worker is gone and with it this attempt; `evidence` says how, in words."""

    job_id: str
    attempt: int
    evidence: str


Report = Said | Died
