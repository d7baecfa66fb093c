"""Selects the progress reports that get a line in the job's log. Pure."""

from __future__ import annotations

from pipelines.events import Progress

LINES = 10  # the maximum per stage
EVERY = 2.0  # minimum seconds between two lines of a stage other than sampling


class Milestones:
    def __init__(self) -> None:
        self._latest: dict[str, tuple[int, float]] = {}  # stage -> units done and time at its last line

    def passed(self, progress: Progress, now: float) -> bool:
        """Whether this report gets a line. The last unit of a stage always gets a line, and so does the first unit of a
        stage other than sampling. Call this once per report."""
        done, at = self._latest.get(progress.stage, (0, 0.0))
        sampling = progress.stage == "denoise"
        parts = LINES if sampling else LINES - 1  # one of the lines is for the first unit
        crossed = progress.done * parts // progress.total > done * parts // progress.total
        soon = not sampling and now - at < EVERY
        is_first = not sampling and progress.stage not in self._latest
        if not (is_first or progress.done >= progress.total or (crossed and not soon)):
            return False
        self._latest[progress.stage] = progress.done, now
        return True
