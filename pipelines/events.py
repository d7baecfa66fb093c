"""The engine's events, in order: Started, then Stage / Progress / Snapshot / Log, then Finished.

Plain data that can be pickled and sent to another process or machine. A worker turns the exception that ended a run
into `Failed`, `Cancelled` or `Paused`, and yields `Reworded` first when it has changed the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

StageName = Literal["load", "encode", "denoise", "decode", "enlarge", "interpolate", "write", "finish"]


@dataclass(frozen=True)
class Started:
    """`plan` is `Plan.to_dict()`, with its notes."""

    plan: dict[str, Any]


@dataclass(frozen=True)
class Stage:
    name: StageName


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of a stage: sampling steps, decoder calls, frames.

    `share`: the part of all work on the video that is done. It is at least 0 and below 1, and never falls. `eta`:
    estimated seconds until the video is complete, None before the first estimate. The stages from "decode" on overlap
    in time.
    """

    stage: StageName
    done: int
    total: int
    share: float
    eta: float | None


@dataclass(frozen=True)
class Snapshot:
    """The latents after `step` steps. `Engine.run(resume=...)` resumes from them. Each Snapshot replaces all earlier
    Snapshots."""

    data: bytes
    step: int


@dataclass(frozen=True)
class Log:
    message: str
    level: Literal["INFO", "WARN", "ERROR"] = "INFO"


@dataclass(frozen=True)
class Finished:
    """The finished file. `manifest` reproduces the video and is also inside the file; `timings` are seconds per
    stage."""

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
    """The run stopped and will be resumed from the latest Snapshot."""


@dataclass(frozen=True)
class Reworded:
    """`request` is the `GenerationRequest.to_dict()` that is carried out. Its prompt may be unchanged."""

    request: dict[str, Any]


Event = Reworded | Started | Stage | Progress | Snapshot | Log | Finished | Failed | Cancelled | Paused
