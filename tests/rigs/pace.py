"""Time limits that scale with the machine's speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

UNIT_SECONDS = 0.01  # duration of a unit of work on an idle core of the reference machine
UNIT_LOOPS = 300_000
FRESH = 20.0  # seconds for which a measurement is used; later, the machine's load may differ

_measured_at = float("-inf")
_slowness = 1.0


def slowness() -> float:
    """The time that a unit of work takes now, divided by its time on the reference machine; at least 1.

    It measures wall-clock time, so that other processes on the same cores count too.
    """
    global _measured_at, _slowness
    if time.monotonic() > _measured_at + FRESH:
        _slowness = max(1.0, sorted(_unit() for _ in range(5))[2] / UNIT_SECONDS)
        _measured_at = time.monotonic()
    return _slowness


def seconds(limit: float) -> float:
    """Scales a time limit for the idle reference machine to this machine's current speed."""
    return limit * slowness()


def until(done: Callable[[], Any], limit: float = 60.0, every: float = 0.02) -> Any:
    """Calls `done` every `every` seconds until its result is true; returns that result.

    Raises TimeoutError after `limit` seconds, scaled to the machine. A long limit does not slow the tests down while
    they pass.
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
