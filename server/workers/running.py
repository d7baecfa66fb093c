"""A job that a worker has, as last heard of, and how long to wait for its next word.

Pure: no clock, no process. Does not know: what is done when the wait is over.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipelines.events import Progress
from server.jobs.job import Job

CANCEL_GRACE = 10.0  # seconds a worker may take to stop before it is killed, at least
STEPS_GRACE = 3.0  # and at least this many of its slowest step so far
SILENT_STEPS, STEP_SILENCE = (
    10.0,
    120.0,
)  # a hang: so many of its slowest steps without a word, so many seconds
STAGE_GRACE = 300.0  # where nothing was measured: loading, encoding and decoding look for no cancel on the way


@dataclass(frozen=True)
class Patience:
    """Seconds: a worker that is asked to save and stop may take `drain`; one that says nothing for `silence` is taken
    to hang (while sampling: for SILENT_STEPS of its slowest step, at least STEP_SILENCE); an attempt may last `run`."""

    drain: float = 20.0
    silence: float = 1800.0
    run: float | None = None


@dataclass
class Running:
    """A job that a worker has, as last heard."""

    job: Job
    sampling: str = ""  # as `snapshots.sampling_of` had it when the attempt began
    stage: str | None = None
    step: int = 0
    steps: int = 0
    share: float = 0.0  # of the whole video's work, as far as it is done
    eta: float | None = None  # seconds until the video is complete
    written_at: float = 0.0
    cancelled_at: float | None = None
    heard_at: float = 0.0
    begun_at: float = 0.0
    why_killed: str = ""
    looked_at: float | None = None  # when denoising began, then when its latest step was done
    slowest: float = 0.0  # seconds, of the steps so far
    told: dict[str, tuple[int, float]] = field(default_factory=dict)  # stage -> units and time of its last log line

    def grace(self) -> float:
        """Seconds from now's cancel until a worker that has not stopped is taken to be stuck."""
        if self.stage != "denoise" or self.slowest == 0.0 or self.step >= self.steps:
            return STAGE_GRACE
        return max(CANCEL_GRACE, STEPS_GRACE * self.slowest)

    def silence(self, longest: float) -> float:
        """Seconds without a word after which its worker is taken to hang."""
        if self.stage != "denoise" or self.slowest == 0.0 or self.step >= self.steps:
            return longest
        return min(longest, max(STEP_SILENCE, SILENT_STEPS * self.slowest))

    def tells(self, progress: Progress, now: float, times: int, every: float) -> bool:
        """Whether the job's log gets a line about this: at most `times` per stage, and about stages after sampling
        one in `every` seconds, beside the first and the last. Asked once about each."""
        done, at = self.told.get(progress.stage, (0, 0.0))
        sampling = progress.stage == "denoise"
        parts = times if sampling else times - 1  # the first unit is told too
        crossed = progress.done * parts // progress.total > done * parts // progress.total
        soon = not sampling and now - at < every
        is_first = not sampling and progress.stage not in self.told
        if not (is_first or progress.done >= progress.total or (crossed and not soon)):
            return False
        self.told[progress.stage] = progress.done, now
        return True
