"""The record of a checkpoint folder, `cogvideox-files.json`: the size and SHA-256 of each file, from the pull or
import.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

RECORD = "cogvideox-files.json"
_FORMAT = 1


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """`files`: relative path with forward slashes -> size and SHA-256. `commit`: of the repository."""

    files: dict[str, FileRecord]
    checkpoint: str | None = None
    repository: str | None = None
    commit: str | None = None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure(folder: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Reads every byte, which takes about a second per gigabyte."""
    return {n: FileRecord((folder / n).stat().st_size, sha256(folder / n)) for n in sorted(names)}


def write(folder: Path, record: Record) -> None:
    content = json.dumps({"format": _FORMAT, **asdict(record)}, indent=2) + "\n"
    scratch = folder / (RECORD + ".new")
    scratch.write_text(content)
    scratch.replace(folder / RECORD)


def read(folder: Path) -> Record | None:
    """None if there is no record. Raises ValueError for an unreadable record."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text())
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']}, not {_FORMAT}")
        files = {str(n): FileRecord(int(f["size"]), str(f["sha256"])) for n, f in data["files"].items()}
        return Record(files, data.get("checkpoint"), data.get("repository"), data.get("commit"))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{RECORD} cannot be read: {error}") from error
