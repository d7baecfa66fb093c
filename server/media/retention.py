"""Removes files that are no longer needed: expired ones, unused inputs, and the remains of interrupted work.

Knows: how long each kind of file is kept. Does not know: jobs, when a sweep runs.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Collection

import structlog

from server.datadir import TEMPORARY, DataDir
from server.limits.room import HOUR
from server.media.artifacts import Artifacts, Limits
from server.media.storage import KEY, StorageDown
from server.media.uploads import Uploads

RECORD = re.compile(rf"(?:file-)?({KEY.pattern})(?:\.json)?")
LEFT_SECONDS = 86_400.0  # how long inputs of ended jobs, parts of unfinished uploads and incomplete files are kept
REFUSED_SECONDS = 86_400.0  # how long the table keeps jobs that were refused before they began
SELDOM = 3600.0  # seconds between two sweeps of old jobs and records
LORA_SECONDS = 30 * 86_400.0  # how long a LoRA fetched from a URL is kept after its last use

log = structlog.get_logger()


Keys = Callable[[], Collection[str]]


class Retention:
    """`inputs_in_use` returns the names of input files that unfinished jobs need. `forget(ended, refused, keys)` cleans
    the job table: it deletes jobs without a video that ended before `ended` or were refused before `refused`; `keys`
    returns the keys of all files. `keep_jobs`: seconds to keep ended jobs. `clock` returns unix seconds."""

    def __init__(
        self,
        data: DataDir,
        artifacts: Artifacts,
        uploads: Uploads,
        inputs_in_use: Callable[[], Collection[str]],
        limits: Limits,
        clock: Callable[[], float] = time.time,
        forget: Callable[[float, float, Keys], object] = lambda ended, refused, keys: None,
        keep_jobs: float = math.inf,
    ) -> None:
        self._data = data
        self._artifacts = artifacts
        self._uploads = uploads
        self._inputs_in_use = inputs_in_use
        self._limits = limits
        self._clock = clock
        self._forget = forget
        self._keep_jobs = keep_jobs
        self._looked_at = -math.inf

    def sweep(self) -> None:
        """Logs failures; the next sweep tries again."""
        before = self._clock() - LEFT_SECONDS
        parts: tuple[Callable[[], object], ...] = (
            lambda: self._artifacts.sweep(self._limits, self._uploads.parts),
            lambda: self._uploads.sweep(before),
            lambda: self._drop_inputs(before),
            lambda: self._drop_loras(self._clock() - LORA_SECONDS),
            lambda: self._drop_temporary(before),
            self._drop_when_short,
            *self._seldom(),
        )
        for part in parts:
            try:
                part()
            except StorageDown:
                pass  # the storage has logged the reason
            except Exception as e:
                log.warning("not all old files could be removed", error=type(e).__name__)

    def _seldom(self) -> tuple[Callable[[], object], ...]:
        now = self._clock()
        if 0 <= now - self._looked_at < SELDOM:
            return ()
        self._looked_at = now
        return (
            lambda: self._forget(now - self._keep_jobs, now - REFUSED_SECONDS, self._artifacts.keys),
            self._drop_records,
        )

    def _drop_records(self) -> None:
        """Removes the record of each upload whose file no longer exists."""
        before, keys = self._clock() - LEFT_SECONDS, self._artifacts.keys()
        for path in (path for folder in self._data.records.values() for path in folder.glob("*/*")):
            found = RECORD.fullmatch(path.name)
            if found is not None and found[1] not in keys:
                self._data.drop(path, before)

    def _drop_when_short(self) -> None:
        """Removes idle inputs and LoRAs, least recently used first, while too little disk space is free."""
        if self._data.free_bytes >= self._data.min_free_bytes:
            return
        needed, now = self._inputs_in_use(), self._clock()
        files = [path for folder in (self._data.inputs, self._data.loras) for path in folder.iterdir()]
        idle = [path for path in files if path.stem not in needed and path.name not in needed]
        for path in sorted(idle, key=lambda path: path.stat().st_mtime):
            if self._data.free_bytes >= self._data.min_free_bytes:
                return
            self._data.drop(path, now - HOUR)

    def _drop_inputs(self, before: float) -> None:
        """Removes idle inputs. Lists the inputs in use first: an input that is requested after the listing is touched,
        and so counts as new."""
        needed = self._inputs_in_use()
        for path in self._data.inputs.iterdir():
            if path.name not in needed:
                self._data.drop(path, before)

    def _drop_loras(self, before: float) -> None:
        """Removes LoRAs that were fetched for requests and not used since `before`. Each request that names such a LoRA
        touches its file."""
        needed = self._inputs_in_use()
        for path in self._data.loras.iterdir():
            if path.stem not in needed:
                self._data.drop(path, before)

    def _drop_temporary(self, before: float) -> None:
        elsewhere = (self._data.artifacts, self._data.uploads, self._data.temporary)  # folders with their own sweeps
        folders = [path for path in self._data.root.iterdir() if path.is_dir() and path not in elsewhere]
        for path in (path for folder in folders for path in folder.rglob(".*")):
            if TEMPORARY.fullmatch(path.name) and path.is_file():
                self._data.drop(path, before)
