"""What samplings have left, interrupted or finished: the worker's bytes, unread.

Knows: where they lie, that a file is whole or not there, that the latents of finished films are worth keeping for a
while: another rate, size or form of the same film needs no sampling. Does not know: what is in them; the engine passes
over what does not fit its request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from server.datadir import write_atomically
from server.jobs.job import Job

# of the request: what the file is made with, after sampling
AFTERWARDS = (
    *("fps", "interpolate_fps", "output_format", "strict", "num_frames", "width", "height", "fit"),
    *("prompt_help", "asked_prompt", "prompt_note"),
)
# and of the plan: what the first three of those mean to the model
MODELLED = ("model_frames", "model_width", "model_height", "extender", "extension")


class Checkpoints:
    """`keep_bytes`: how much of finished samplings is kept, the latest used longest."""

    def __init__(self, folder: Path, keep_bytes: int = 0) -> None:
        self._folder = folder
        self._finished = folder / "finished"
        self._finished.mkdir(exist_ok=True)
        self._keep_bytes = keep_bytes

    def write(self, job_id: str, data: bytes) -> None:
        """Replaces the job's earlier one. Raises DiskFull, OSError."""
        write_atomically(self._folder / job_id, data)

    def read(self, job_id: str, sampling: str) -> bytes | None:
        """What this job has left, else what a finished one of the same sampling has."""
        for path in (self._folder / job_id, self._finished / sampling):
            with contextlib.suppress(OSError):
                os.utime(path)
                return path.read_bytes()
        return None

    def keep(self, job_id: str, sampling: str) -> None:
        """The job has succeeded: its latents are kept as long as there is room."""
        with contextlib.suppress(OSError):
            (self._folder / job_id).replace(self._finished / sampling)
        self._make_room()

    def remove(self, job_id: str) -> None:
        (self._folder / job_id).unlink(missing_ok=True)

    def job_ids(self) -> list[str]:
        """Of those that have left something unfinished."""
        return [path.name for path in self._folder.iterdir() if path.is_file() and not path.name.startswith(".")]

    def _make_room(self) -> None:
        found = sorted(((p.stat().st_mtime, p.stat().st_size, p) for p in self._finished.iterdir()), reverse=True)
        total = 0
        for _, size, path in found:
            total += size
            if total > self._keep_bytes:
                path.unlink(missing_ok=True)


def sampling_of(job: Job) -> str:
    """The same for two jobs whose latents are the same, as far as can be told without looking at pictures."""
    request = job.request.to_dict()
    plan = job.plan or {}
    what = {name: value for name, value in request.items() if name not in AFTERWARDS}
    for name in ("image", "video"):
        if what[name] is not None:  # how it is fitted decides, and its own size may
            what[name] = [what[name]["sha256"], *(request[n] for n in ("num_frames", "width", "height", "fit"))]
    made = {name: plan.get(name) for name in MODELLED}
    return hashlib.sha256(json.dumps([job.model, what, made], sort_keys=True).encode()).hexdigest()
