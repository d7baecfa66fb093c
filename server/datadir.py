"""The one folder where the server keeps what must survive it, held by one server at a time.

Knows: the layout of the folder, the lock on it, how much room is left. Does not know: what is in the files. With
`storage_url` artifacts lie elsewhere.

    lock  jobs.db  keys/  tls/  inputs/<sha256>  artifacts/<key>/<file name>  uploads/<parts of unfinished ones>
    fetched-loras/<sha256>.safetensors  checkpoints/<job id>  checkpoints/finished/<hash>
    openai/ and replicate/<owner>/<id>.json: records of uploads
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import structlog

from server.errors import DataDirBusy, DataDirUnwritable, DiskFull
from server.private import data_folder, private_file, private_folder

log = structlog.get_logger()


class DataDir:
    """Opened on construction: raises DataDirUnwritable or DataDirBusy. `close` lets the next server in."""

    def __init__(self, root: Path, min_free_bytes: int = 0) -> None:
        self.root = root.absolute()
        self.min_free_bytes = min_free_bytes
        self.inputs = self.root / "inputs"
        self.loras = self.root / "fetched-loras"
        self.artifacts = self.root / "artifacts"
        self.uploads = self.root / "uploads"
        self.checkpoints = self.root / "checkpoints"
        self.keys = self.root / "keys"
        self._turn = Lock()
        try:
            data_folder(self.root, log.warning)  # prompts, videos and keys
            records = self.root / "openai", self.root / "replicate"
            for folder in (
                *(self.inputs, self.loras, self.artifacts, self.uploads, self.checkpoints, self.keys),
                *records,
            ):
                private_folder(folder)
            private_file(self.root / "lock")
            self._lock = (self.root / "lock").open("a")
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as e:
            raise DataDirUnwritable(f"cannot write to the data folder {self.root}: {e.strerror or e}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise DataDirBusy(f"another server is using the data folder {self.root}") from None

    def close(self) -> None:
        self._lock.close()

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def check_room(self) -> None:
        """Raises DiskFull when less than the floor is free."""
        free = self.free_bytes
        if free < self.min_free_bytes:
            raise DiskFull(f"only {free // 2**20} MiB are free on the server's disk")

    def touch(self, file: Path) -> bool:
        """Whether it is there; it then counts as new, and `drop` leaves it alone."""
        with self._turn:
            try:
                os.utime(file)
            except FileNotFoundError:
                return False
        return True

    def drop(self, file: Path, before: float) -> None:
        """Removes a file that was last written or touched before that time, in unix seconds."""
        with self._turn:
            try:
                if file.stat().st_mtime < before:
                    file.unlink()
            except FileNotFoundError:
                pass


@contextmanager
def full_disk_named() -> Iterator[None]:
    """Whatever tells of a full disk comes out as DiskFull."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("the server's disk is full") from e
        raise


def write_atomically(path: Path, data: bytes, check: Callable[[Path], None] | None = None) -> None:
    """`path` holds all of `data` or does not exist, whenever the power goes. Raises DiskFull, OSError.

    `check` is shown the file before it takes its place; what it raises comes out, and no file stays.
    """
    _atomically(path, lambda file: file.write(data), check)


def copy_atomically(source: Path, path: Path) -> None:
    """`path` holds all that `source` does or does not exist. Raises DiskFull, OSError."""
    with source.open("rb") as from_file:
        _atomically(path, lambda file: shutil.copyfileobj(from_file, file), None)


@full_disk_named()
def _atomically(path: Path, write: Callable[[BinaryIO], object], check: Callable[[Path], None] | None) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(Path(name))
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
