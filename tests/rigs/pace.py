"""Time limits that scale with the machine, so that no test depends on the one it was written on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

UNIT_SECONDS = 0.01  # what one unit of work takes on an idle core of the machine the limits were written on
UNIT_LOOPS = 300_000
FRESH = 20.0  # seconds that a measurement is used for: other processes come and go

_measured_at = float("-inf")
_slowness = 1.0


def slowness() -> float:
    """How many times longer a unit of work takes here than on the machine the limits were written on; at least 1.

    Wall-clock time, so that other processes on the same cores count too.
    """
    global _measured_at, _slowness
    if time.monotonic() > _measured_at + FRESH:
        _slowness = max(1.0, sorted(_unit() for _ in range(5))[2] / UNIT_SECONDS)
        _measured_at = time.monotonic()
    return _slowness


def seconds(limit: float) -> float:
    """A time limit, written for an idle reference machine, scaled to this one at the moment."""
    return limit * slowness()


def until(done: Callable[[], Any], limit: float = 60.0, every: float = 0.02) -> Any:
    """What `done` returns, as soon as that is true; it is called every `every` seconds.

    Raises TimeoutError after `limit` seconds, scaled: a generous limit costs nothing while the tests pass.
    """
    begun = time.monotonic()
    while not (found := done()):
        if time.monotonic() - begun > seconds(limit):
            raise TimeoutError(f"not true after {time.monotonic() - begun:.0f} seconds")
        time.sleep(every)
    return found


def _unit() -> float:
    begun = time.perf_counter()
    total = 0
    for n in range(UNIT_LOOPS):
        total += n & 7
    return time.perf_counter() - begun
