"""How long to wait for a worker: until a silent worker counts as hanging, and until a cancelled worker is killed.

Pure: no clock, no process.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.events import Progress

CANCEL_GRACE = 10.0  # minimum seconds that a cancelled worker gets to stop before it is killed
STEPS_GRACE = 3.0  # a cancelled worker also gets at least the duration of its slowest step so far, times this
SILENT_STEPS = 10.0  # while sampling, a silence as long as the slowest step times this counts as hanging
STEP_SILENCE = 120.0  # minimum seconds of silence that count as hanging
STAGE_GRACE = 300.0  # seconds to stop if no step is measured, because only sampling checks for cancellation


@dataclass(frozen=True)
class Patience:
    """Limits in seconds. `drain`: how long running jobs may take to pause when the server stops. `silence`: how long a
    worker may be silent before it counts as hanging; the limit is lower while sampling, see SILENT_STEPS. `run`: how
    long one attempt may take (None: no limit)."""

    drain: float = 20.0
    silence: float = 1800.0
    run: float | None = None


@dataclass
class Pace:
    """How fast an attempt samples. `slowest`: the longest step so far in seconds, 0 before the first. `looked_at`: when
    the stage began or the latest step ended."""

    stage: str | None = None
    step: int = 0
    steps: int = 0
    slowest: float = 0.0
    looked_at: float | None = None

    def begin(self, stage: str, now: float) -> None:
        self.stage, self.looked_at = stage, now

    def count(self, progress: Progress, now: float) -> None:
        self.stage = progress.stage
        if progress.stage == "denoise":
            self.step, self.steps = progress.done, progress.total
            self.slowest = max(self.slowest, now - (self.looked_at or now))
            self.looked_at = now

    def grace(self) -> float:
        """Seconds from a cancellation until a worker that has not stopped is killed."""
        if not self._measured():
            return STAGE_GRACE
        return max(CANCEL_GRACE, STEPS_GRACE * self.slowest)

    def silence(self, longest: float) -> float:
        """Seconds without an event after which the worker counts as hanging."""
        if not self._measured():
            return longest
        return min(longest, max(STEP_SILENCE, SILENT_STEPS * self.slowest))

    def _measured(self) -> bool:
        return self.stage == "denoise" and self.slowest > 0.0 and self.step < self.steps
