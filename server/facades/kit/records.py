"""Records of uploaded files. Each record has the form that the vendor shows to the client that uploaded the file.

Knows: a folder for each owner, and that a record is deleted with its file. Does not know: the content of a record.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from server.context import Context
from server.datadir import write_atomically
from server.media.artifact import Artifact

Record = dict[str, Any]


class Records:
    """`folder`: the vendor's folder. A record is found by the key of its file, and only for the owner of the file."""

    def __init__(self, context: Context, folder: Path) -> None:
        self._artifacts = context.artifacts
        self._folder = folder

    def keep(self, owner: str, key: str, record: Record) -> None:
        path = self._path(owner, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(record).encode("ascii"))

    def find(self, owner: str, key: str) -> tuple[Record, Artifact] | None:
        # find the file first: an invalid key has no file, and such a key must not become part of a path
        artifact = self._artifacts.find(key)
        record = None if artifact is None else _read(self._path(owner, key))
        return None if artifact is None or record is None else (record, artifact)

    def all(self, owner: str) -> list[Record]:
        """The owner's records, in any order. Deletes records whose file no longer exists."""
        found = []
        for path in self._path(owner, "").parent.glob("*.json"):
            if self._artifacts.find(path.stem) is None:
                path.unlink(missing_ok=True)
            elif (record := _read(path)) is not None:
                found.append(record)
        return found

    def remove(self, owner: str, artifact: Artifact) -> None:
        """Deletes the record and its file."""
        self._artifacts.remove(artifact)
        self._path(owner, artifact.key).unlink(missing_ok=True)

    def _path(self, owner: str, key: str) -> Path:
        return self._folder / (owner or "anyone") / f"{key}.json"


def _read(path: Path) -> Record | None:
    with suppress(OSError, ValueError):
        record: Record = json.loads(path.read_bytes())
        return record
    return None
