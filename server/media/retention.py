"""What is removed when nobody needs it any more: files whose time is over, and what was left behind on the way.

Knows: how long each kind of file is kept. Does not know: jobs, who asks when to look.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection

import structlog

from server.datadir import DataDir
from server.media.artifacts import Artifacts, Limits
from server.media.storage import StorageDown
from server.media.uploads import Uploads

LEFT_SECONDS = 86_400.0  # inputs of ended jobs, parts of unfinished uploads, and torn files stay so long
LORA_SECONDS = 30 * 86_400.0  # LoRAs that came from an address stay so long after they were last asked for
TEMPORARY = re.compile(r"\.[a-z0-9_]{8}")  # as `write_atomically` names a file that it has not finished

log = structlog.get_logger()


class Retention:
    """`inputs_in_use`: the names of those that unfinished jobs need. `clock` gives unix seconds."""

    def __init__(
        self,
        data: DataDir,
        artifacts: Artifacts,
        uploads: Uploads,
        inputs_in_use: Callable[[], Collection[str]],
        limits: Limits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._data = data
        self._artifacts = artifacts
        self._uploads = uploads
        self._inputs_in_use = inputs_in_use
        self._limits = limits
        self._clock = clock

    def sweep(self) -> None:
        """What goes wrong is logged, and looked at again the next time."""
        before = self._clock() - LEFT_SECONDS
        parts: tuple[Callable[[], object], ...] = (
            lambda: self._artifacts.sweep(self._limits),
            lambda: self._uploads.sweep(before),
            lambda: self._drop_inputs(before),
            lambda: self._drop_loras(self._clock() - LORA_SECONDS),
            lambda: self._drop_temporary(before),
        )
        for part in parts:
            try:
                part()
            except StorageDown:
                pass  # the storage has said why
            except Exception as e:
                log.warning("not all old files could be removed", error=type(e).__name__)

    def _drop_inputs(self, before: float) -> None:
        """The list of those in use comes first: what is asked for after that is touched, and counts as new."""
        needed = self._inputs_in_use()
        for path in self._data.inputs.iterdir():
            if path.name not in needed:
                self._data.drop(path, before)

    def _drop_loras(self, before: float) -> None:
        """Those fetched for requests; each request that names one touches it."""
        needed = self._inputs_in_use()
        for path in self._data.loras.iterdir():
            if path.stem not in needed:
                self._data.drop(path, before)

    def _drop_temporary(self, before: float) -> None:
        elsewhere = (self._data.artifacts, self._data.uploads)  # whose own sweeps see to it
        folders = [path for path in self._data.root.iterdir() if path.is_dir() and path not in elsewhere]
        for path in (path for folder in folders for path in folder.rglob(".*")):
            if TEMPORARY.fullmatch(path.name) and path.is_file():
                self._data.drop(path, before)
