"""Runs the server and reports long holds of the interpreter lock: `python -m tests.rigs.attacks.holds`. It runs only on
Linux.

Garbage collection is off. Memory in reference cycles is therefore never freed, and shows as a leak.

Whenever one thread blocks all others for at least LONG seconds of its own CPU time, the program prints `held SECONDS
WHERE`. It counts CPU time, because a busy machine lengthens wall-clock times but not a thread's CPU time.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback
from pathlib import Path

from server.serve import serve
from server.settings import Settings

LOOK_EVERY = 0.002  # seconds
LONG = 0.01


def _cpu_seconds() -> dict[int, float]:
    """Maps each thread's id to the CPU seconds that it has used so far."""
    used = {}
    for thread in threading.enumerate():
        try:
            ran = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]
        except OSError:  # the thread has ended
            continue
        used[thread.ident or 0] = int(ran) / 1e9
    return used


def _watch() -> None:
    while True:
        before, begun = _cpu_seconds(), time.monotonic()
        time.sleep(LOOK_EVERY)
        if time.monotonic() - begun < LOOK_EVERY + LONG:
            continue
        frames, after = sys._current_frames(), _cpu_seconds()
        after.pop(threading.get_ident(), None)
        holder = max(after, key=lambda one: after[one] - before.get(one, 0.0))
        seconds = after[holder] - before.get(holder, 0.0)
        if seconds >= LONG:
            steps = traceback.extract_stack(frames[holder])[-3:] if holder in frames else []
            where = " < ".join(f"{step.name} {Path(step.filename).name}:{step.lineno}" for step in reversed(steps))
            print(f"held {seconds:.3f} {where}", flush=True)  # noqa: T201


if __name__ == "__main__":
    gc.disable()
    threading.Thread(target=_watch, daemon=True).start()
    serve(Settings.load(), engine="tests.rigs.fake_engine:Engine")
