"""A prediction's `logs`: the job's lines, and a progress bar in tqdm's form, which clients parse."""

from __future__ import annotations

from collections.abc import Iterable

from server.jobs.job import Job, LogLine

WIDTH = 10  # characters
EIGHTHS = " ▏▎▍▌▋▊▉"


def text(job: Job, lines: Iterable[LogLine], now: float) -> str:
    """The logs; empty before the job has begun. `now`: unix seconds."""
    if job.started_at is None:
        return ""
    said = [f"Using seed: {job.seed}", *(line.message for line in lines), progress(job, now)]
    return "\n".join(filter(None, said))


def progress(job: Job, now: float) -> str:
    """The progress bar for the whole video, with the number of sampling steps; empty before sampling has begun."""
    if job.started_at is None or not job.steps:
        return ""
    return bar(job.step, job.steps, (job.finished_at or now) - job.started_at, job.eta, job.progress)


def bar(step: int, steps: int, elapsed: float, eta: float | None, share: float | None = None) -> str:
    """` 12%|█▏        | 6/50 [00:05<00:38,  1.15it/s]`; `elapsed` and `eta` in seconds. The bar shows `share`, by
    default the share of the steps."""
    done = step / steps if share is None else share
    full, eighths = divmod(int(done * WIDTH * 8), 8)
    blocks = ("█" * full + (EIGHTHS[eighths] if full < WIDTH else "")).ljust(WIDTH)
    rate = step / elapsed if elapsed > 0 else 0.0
    left = eta if eta is not None else (steps - step) / rate if rate else None
    speed = "?it/s" if not rate else f"{rate:5.2f}it/s" if rate >= 1 else f"{1 / rate:5.2f}s/it"
    return f"{int(done * 100):3d}%|{blocks}| {step}/{steps} [{_clock(elapsed)}<{_clock(left)}, {speed}]"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
