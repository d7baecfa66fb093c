"""What interrupted samplings have left, one file a job: the worker's bytes, unread.

Knows: where they lie and that a file is whole or not there. Does not know: what is in them.
"""

from __future__ import annotations

from pathlib import Path

from server.datadir import write_atomically


class Checkpoints:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, job_id: str, data: bytes) -> None:
        """Replaces the job's earlier one. Raises DiskFull, OSError."""
        write_atomically(self._folder / job_id, data)

    def read(self, job_id: str) -> bytes | None:
        try:
            return (self._folder / job_id).read_bytes()
        except OSError:
            return None

    def remove(self, job_id: str) -> None:
        (self._folder / job_id).unlink(missing_ok=True)

    def job_ids(self) -> list[str]:
        """Of those that have left something."""
        return [path.name for path in self._folder.iterdir() if not path.name.startswith(".")]
