"""The interface between worker and engine: the methods that a worker calls, and the settings from which an engine is
built.

Knows: plain data and one method's signature. Does not know: torch, processes, the engine that implements it
(`pipelines.engine.generate.Engine`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipelines.events import Event, Progress
from pipelines.request import GenerationRequest

MemorySetting = Literal["auto", "none", "model", "group", "sequential"]


@dataclass(frozen=True)
class EngineSpec:
    """`models`: name -> checkpoint folder. `device`: auto, cpu, cuda or cuda:N. `rife`: an IFNet file for requests with
    `interpolate_fps`; without it, the small network that ships with this project is used. `upscaler`: a file
    that spandrel reads, used if a video is larger than the model's frames."""

    models: dict[str, Path]
    device: str = "auto"
    memory: MemorySetting = "auto"
    rife: Path | None = None
    upscaler: Path | None = None


class Engine(Protocol):
    """Owns a device and the models on it; makes one video at a time. The constructor takes an EngineSpec and raises
    GenerationError, ModelError or ImportError."""

    def run(
        self,
        request: GenerationRequest,
        model: str,
        cancelled: Callable[[], bool],
        resume: bytes | None = None,
        paused: Callable[[], bool] = lambda: False,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> Iterator[Event]:
        """Make the video; the last event is Finished. `request.seed` must be set.

        `resume`: the latest snapshot of an earlier run of the same request. This run continues from the snapshot, or
        ignores it if it does not fit. While frames are decoded, this method cannot yield; the Progress of decoding goes
        to `progress`.

        Raises RequestError, GenerationCancelled or GenerationPaused. Every other failure raises GenerationError.
        """
        ...

    def is_broken_by(self, error: Exception) -> bool:
        """Whether every later run on the device will fail too, after `run` raised `error`. A new process may work."""
        ...
