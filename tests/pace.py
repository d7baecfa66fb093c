"""How slow this machine is at the moment, so that no test's time limit depends on the machine it was written on."""

from __future__ import annotations

import time
from functools import cache

UNIT_SECONDS = 0.03  # what one unit of work takes on an idle core of the machine the limits were written on
UNIT_LOOPS = 1_000_000


@cache
def slowness() -> float:
    """How many times longer a unit of work takes here than on the machine the limits were written on; at least 1.

    Wall-clock time, so that other processes on the same cores count too. Measured once in each process.
    """
    return max(1.0, sorted(_unit() for _ in range(5))[2] / UNIT_SECONDS)


def seconds(limit: float) -> float:
    """A time limit, written for an idle reference machine, as it is to be on this one."""
    return limit * slowness()


def _unit() -> float:
    begun = time.perf_counter()
    total = 0
    for n in range(UNIT_LOOPS):
        total += n & 7
    return time.perf_counter() - begun
