"""The progress of a run: units done and seconds spent per stage, and an estimate for the rest. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from pipelines.events import Progress, StageName

T = TypeVar("T")
REPORT_EVERY = 0.1  # seconds between two reports of a stage whose units are quick
MOST = 0.99  # the largest share reported before the file is complete
LABELS: dict[str, str] = {
    "load": "loading the model",
    "encode": "encoding the prompt",
    "denoise": "sampling",
    "decode": "decoding",
    "enlarge": "enlarging",
    "interpolate": "interpolating",
    "write": "encoding the video",
    "finish": "finishing the file",
}


def label(stage: str) -> str:
    return LABELS.get(stage, stage)


def time_left(seconds: float) -> str:
    if seconds < 1:
        return "less than 1 s left"
    return f"about {seconds:.0f} s left" if seconds < 120 else f"about {seconds / 60:.0f} min left"


def sentence(progress: Progress) -> str:
    """`decoding 3 of 13, about 12 s left`."""
    what = "step" if progress.stage == "denoise" else label(progress.stage)
    counted = f"{what} {progress.done} of {progress.total}"
    return counted if progress.eta is None else f"{counted}, {time_left(progress.eta)}"


@dataclass
class Count:
    """The count of one stage. `seconds` is the time of `measured` units. The first unit is left out once a second unit
    is measured, because the first unit includes the warm-up."""

    total: int = 0
    done: int = 0
    measured: int = 0
    seconds: float = 0.0
    first: float = 0.0
    since: float = 0.0  # seconds spent on the unit in progress

    def unit(self) -> float | None:
        """Seconds per unit; None before the first unit is done."""
        if not self.measured:
            return None
        usual = (self.seconds - self.first) / (self.measured - 1) if self.measured > 1 else self.seconds
        return max(usual, 0.0)


class Meter:
    """Counts the work of one run. `tell` receives the reports while the run cannot yield events.

    `usual`: seconds per unit of a stage in earlier runs. `in_steps`: the time of a unit as a multiple of the time of a
    sampling step, for stages that have never run. `usual` and `in_steps` are used only until the stage is measured in
    this run.
    """

    def __init__(
        self,
        tell: Callable[[Progress], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.usual: Mapping[str, float] = {}
        self.in_steps: Mapping[str, float] = {}
        self._tell = tell
        self._clock = clock
        self._counts: dict[StageName, Count] = {}
        self._doing: StageName | None = None
        self._charged_at = clock()
        self._reported_at = -REPORT_EVERY
        self._share = 0.0

    def expect(self, stage: StageName, total: int, done: int = 0) -> None:
        """Set the stage's number of units, and how many of these units are already done. A later call replaces both
        numbers."""
        count = self._counts.setdefault(stage, Count())
        count.total, count.done = total, done

    def reach(self, stage: StageName, share: float) -> None:
        """Set how large a share of the stage is done. Work done in an earlier run counts too."""
        count = self._counts[stage]
        count.done = round(count.total * share)

    @contextmanager
    def doing(self, stage: StageName) -> Iterator[None]:
        """The time inside the block counts for this stage. If another stage begins inside the block, the time in that
        stage counts for that stage only."""
        outer = self._charge(stage)
        try:
            yield
        finally:
            self._charge(outer)

    def count(self, stage: StageName, units: int = 1) -> None:
        """Count `units` more and report the progress."""
        if (progress := self.advance(stage, units)) is not None:
            self._tell(progress)

    def advance(self, stage: StageName, units: int = 1) -> Progress | None:
        """Count `units` more. Returns a report, or None if the last report was too recent."""
        self._charge(self._doing)
        count = self._counts.setdefault(stage, Count())
        count.done += units
        count.total = max(count.total, count.done)
        if not count.measured:
            count.first = count.since / units
        count.measured += units
        count.seconds += count.since
        count.since = 0.0
        return self._report(stage, count, first=count.measured == units)

    def over(self, stage: StageName, items: Iterable[T], counted: bool = True) -> Iterator[T]:
        """Yield `items`. The time spent waiting for the next item is charged to the stage. Each item counts as a unit,
        unless `counted` is False."""
        source = iter(items)
        while True:
            with self.doing(stage):
                try:
                    item = next(source)
                except StopIteration:
                    return
                if counted:
                    self.count(stage)
            yield item

    def unit(self, stage: str) -> float | None:
        """Seconds per unit of the stage: as measured in this run, else as measured in earlier runs, else estimated from
        the time of a sampling step."""
        count = self._counts.get(stage)  # type: ignore[call-overload]
        found: float | None = count.unit() if count else None
        if stage == "denoise" and count is not None and count.measured == 1 and count.done < count.total:
            found = None  # the first step warms up, and would give wrong estimates for stages that have never run
        if found is None:
            found = self.usual.get(stage)
        if found is None and stage != "denoise" and stage in self.in_steps:
            step = self.unit("denoise")
            found = None if step is None else step * self.in_steps[stage]
        return found

    def measured(self) -> dict[StageName, float]:
        """Seconds per unit of each stage that has run."""
        units = {stage: count.unit() for stage, count in self._counts.items()}
        return {stage: unit for stage, unit in units.items() if unit is not None}

    def left(self) -> float | None:
        """Seconds until the video is complete; None before the first measurement."""
        sampling = self._counts.get("denoise")
        if sampling and sampling.done < sampling.total and self.unit("denoise") is None:
            return None  # sampling is most of the work and not measured yet
        parts = [(count.total - count.done, self.unit(stage)) for stage, count in self._counts.items()]
        if not any(unit for _, unit in parts):
            return None
        return max(0.0, sum(left * unit for left, unit in parts if unit is not None))

    def _charge(self, to: StageName | None) -> StageName | None:
        """Charge the time since the last call of this method to the current stage. From now on, time is charged to the
        stage `to`."""
        now = self._clock()
        was = self._doing
        if was is not None:
            self._counts.setdefault(was, Count()).since += now - self._charged_at
        self._doing, self._charged_at = to, now
        return was

    def _report(self, stage: StageName, count: Count, first: bool) -> Progress | None:
        now = self._clock()
        if stage != "denoise" and not first and count.done < count.total and now - self._reported_at < REPORT_EVERY:
            return None
        self._reported_at = now
        left = self.left()
        spent = sum(one.done * (self.unit(name) or 0.0) for name, one in self._counts.items())
        if left is not None and spent + left > 0:
            self._share = max(self._share, min(MOST, spent / (spent + left)))
        return Progress(stage, count.done, count.total, self._share, left)
