"""A video's progress: on a terminal one bar for all stages, elsewhere a plain line every few seconds.

Knows: terminals, names of stages. Does not know: engines.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from pipelines.events import Progress
from pipelines.progress import label, time_left

LINE_EVERY = 10.0  # seconds between two lines without a terminal


class Display:
    """A context manager for one video. `clock`: monotonic seconds."""

    def __init__(
        self, console: Console, clock: Callable[[], float] = time.monotonic, every: float = LINE_EVERY
    ) -> None:
        self._console = console
        self._clock = clock
        self._every = every
        self._begun = clock()
        self._doing = label("load")
        self._latest: Progress | None = None
        self._at = 0.0  # when `_latest` was reported
        self._ended = threading.Event()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._row = self._bar.add_task(self._doing, total=None, left="")
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._bar.start()
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._ticker.join()
        if self._console.is_terminal:
            self._bar.stop()

    def stage(self, name: str) -> None:
        self._doing = label(name)
        self._show()

    def progress(self, progress: Progress) -> None:
        self._doing = f"{label(progress.stage)} {progress.done} of {progress.total}"
        self._latest, self._at = progress, self._clock()
        self._show()

    def line(self, text: str, style: str) -> None:
        self._bar.console.print(text, style=style, highlight=False, markup=False)

    def state(self) -> str:
        """`decoding 3 of 13, 52 %, about 12 s left`."""
        parts = [self._doing]
        if self._latest is not None:
            parts.append(f"{100 * self._latest.share:.0f} %")
        if left := self._left():
            parts.append(left)
        return ", ".join(parts)

    def _left(self) -> str:
        """The estimated seconds left. Counts down between two reports, but stays above 0 if the work takes longer than
        estimated."""
        if self._latest is None or self._latest.eta is None:
            return ""
        left = self._latest.eta - (self._clock() - self._at)
        return time_left(left if left >= 1 or self._latest.eta < 1 else 1)

    def _show(self) -> None:
        done = None if self._latest is None else self._latest.share
        total = None if done is None else 1.0
        self._bar.update(self._row, description=self._doing, total=total, completed=done or 0, left=self._left())

    def _tick(self) -> None:
        if self._console.is_terminal:
            while not self._ended.wait(0.5):
                self._show()
            return
        while not self._ended.wait(self._every):
            seconds = self._clock() - self._begun
            self._console.print(f"{seconds:.0f} s: {self.state()}", highlight=False, markup=False, soft_wrap=True)
