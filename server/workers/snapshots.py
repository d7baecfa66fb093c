"""Snapshots of interrupted or finished samplings, as files. Latents of finished videos are kept for a while. A job for
the same video in another frame rate, size or format uses these latents, and needs no sampling. Knows: where the files
are, which ones to delete. Does not know: their content; the engine ignores a snapshot that belongs to another request.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from pipelines.plan import sampling_key
from server.datadir import write_atomically
from server.jobs.job import Job


class Snapshots:
    """`keep_bytes`: space for latents of finished videos; the least recently used are deleted first."""

    def __init__(self, folder: Path, keep_bytes: int = 0) -> None:
        self._folder = folder
        self._finished = folder / "finished"
        self._finished.mkdir(exist_ok=True)
        self._keep_bytes = keep_bytes

    def write(self, job_id: str, data: bytes) -> None:
        """Replaces the job's earlier snapshot. Raises DiskFull, OSError."""
        write_atomically(self._folder / job_id, data)

    def read(self, job_id: str, sampling: str) -> bytes | None:
        """The job's own snapshot, otherwise the snapshot of a finished job with the same sampling."""
        for path in (self._folder / job_id, self._finished / sampling):
            with contextlib.suppress(OSError):
                os.utime(path)
                return path.read_bytes()
        return None

    def keep(self, job_id: str, sampling: str) -> None:
        """Keeps the latents of a job that has succeeded, as long as there is room."""
        with contextlib.suppress(OSError):
            (self._folder / job_id).replace(self._finished / sampling)
        self._make_room()

    def remove(self, job_id: str) -> None:
        (self._folder / job_id).unlink(missing_ok=True)

    def job_ids(self) -> list[str]:
        """The jobs with a snapshot of an unfinished sampling."""
        return [path.name for path in self._folder.iterdir() if path.is_file() and not path.name.startswith(".")]

    def _make_room(self) -> None:
        found = sorted(((p.stat().st_mtime, p.stat().st_size, p) for p in self._finished.iterdir()), reverse=True)
        total = 0
        for _, size, path in found:
            total += size
            if total > self._keep_bytes:
                path.unlink(missing_ok=True)


def sampling_of(job: Job) -> str:
    """The key of the job's latents, as far as the server knows it; the engine's own key also covers the weights.

    The plan of a job with an image or a clip is preliminary until a worker has read the file, so the key includes the
    requested size and length. The prompt comes from the request, because it may have been reworded after planning.
    """
    request = job.request
    source = request.image or request.video
    asked = [] if source is None else [request.width, request.height, request.num_frames, request.duration]
    try:
        return sampling_key({**(job.plan or {}), "prompt": request.prompt}, {"asked": asked})
    except KeyError:  # no plan, or a plan of an older version: no other job's latents fit
        return job.id
