"""The seconds of each stage of a run, and the checks whether to stop the run."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.errors import GenerationCancelled, GenerationPaused


class Clock:
    """Starts in the stage "load"."""

    def __init__(self, cancelled: Callable[[], bool], paused: Callable[[], bool]) -> None:
        self._cancelled = cancelled
        self.paused = paused
        self._marks: list[tuple[str, float]] = [("load", time.monotonic())]

    def check_cancelled(self) -> None:
        if self._cancelled():
            raise GenerationCancelled

    def check(self) -> None:
        self.check_cancelled()
        if self.paused():
            raise GenerationPaused

    def next(self, stage: str) -> None:
        """Start a stage now. The same stage may start again later."""
        self.check()
        self._marks.append((stage, time.monotonic()))

    def timings(self) -> dict[str, float]:
        ends = [at for _, at in self._marks[1:]] + [time.monotonic()]
        seconds: dict[str, float] = {}
        for (name, at), end in zip(self._marks, ends, strict=True):
            seconds[name] = seconds.get(name, 0.0) + end - at
        return {name: round(spent, 3) for name, spent in seconds.items()}
