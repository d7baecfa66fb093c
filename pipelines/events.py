"""What the engine says while it works, in order: Started, then Stage / Progress / Checkpoint / Log, then Finished.

Knows: plain data that pickles and crosses a process or a network. Does not know: who listens.
`Failed`, `Cancelled` and `Paused` are made by whoever ran the engine, from the exception that ended it; `Reworded` by
whoever had the prompt reworded before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

StageName = Literal["load", "encode", "denoise", "decode", "enlarge", "interpolate", "write", "finish"]


@dataclass(frozen=True)
class Started:
    """The plan that is carried out (`Plan.to_dict()`), with its notes."""

    plan: dict[str, Any]


@dataclass(frozen=True)
class Stage:
    name: StageName


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of a stage are done: sampling steps, decoder calls, frames.

    `share`: of the whole video's work, 0 to below 1, never falling. `eta`: estimated seconds until the whole video is
    complete, None while nothing is known. Stages from "decode" on overlap.
    """

    stage: StageName
    done: int
    total: int
    share: float
    eta: float | None


@dataclass(frozen=True)
class Checkpoint:
    """The sampling after `step` steps, for `Engine.run(resume=...)`; the latest replaces those before it."""

    data: bytes
    step: int


@dataclass(frozen=True)
class Log:
    message: str
    level: Literal["INFO", "WARN", "ERROR"] = "INFO"


@dataclass(frozen=True)
class Finished:
    """The finished file. `manifest` reproduces it and is also inside it; `timings` are seconds per stage."""

    video: bytes
    poster: bytes  # JPEG
    media_type: str
    frames: int
    fps: int
    width: int
    height: int
    manifest: dict[str, Any]
    timings: dict[str, float] = field(default_factory=dict)
    memory: str = ""  # the memory profile used, and why


@dataclass(frozen=True)
class Failed:
    """`code`: invalid_request, out_of_memory, bad_output, media_error, model_error, worker_lost or internal."""

    code: str
    message: str
    field: str | None = None


@dataclass(frozen=True)
class Cancelled:
    pass


@dataclass(frozen=True)
class Paused:
    """Stopped to go on later, from the latest Checkpoint."""


@dataclass(frozen=True)
class Reworded:
    """Before all others: the request carried out (`GenerationRequest.to_dict()`), its prompt reworded or not."""

    request: dict[str, Any]


Event = Reworded | Started | Stage | Progress | Checkpoint | Log | Finished | Failed | Cancelled | Paused
