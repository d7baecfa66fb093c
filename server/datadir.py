"""The data folder, where the server stores everything that it needs after a restart; a lock allows only one server at a
time to use the folder.

Knows: the layout of the folder, its lock, the free disk space. Does not know: the content of the files. With
`storage_url`, artifacts are stored elsewhere.

    lock  jobs.db  keys/  tls/  inputs/<sha256>  artifacts/<key>/<file name>  uploads/<parts of unfinished uploads>
    tmp/<temporary files of the server and its child processes>
    fetched-loras/<sha256>.safetensors  checkpoints/<job id>  checkpoints/finished/<hash>
    openai/ and replicate/<owner>/<id>.json: records of uploads
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import structlog

from server.errors import DataDirBusy, DataDirUnwritable, DiskFull
from server.limits.room import Room
from server.private import data_folder, private_file, private_folder

RECORDS = "openai", "replicate"  # APIs that keep a record of each upload, in a folder per owner
TEMPORARY = re.compile(r"\.[a-z0-9_]{8}")  # names that `write_atomically` gives to incomplete files

log = structlog.get_logger()


class DataDir:
    """The constructor creates and locks the folder; raises DataDirUnwritable, DataDirBusy. `close` unlocks it."""

    def __init__(self, root: Path, min_free_bytes: int = 0) -> None:
        self.root = root.absolute()
        self.min_free_bytes = min_free_bytes
        self.inputs = self.root / "inputs"
        self.loras = self.root / "fetched-loras"
        self.artifacts = self.root / "artifacts"
        self.uploads = self.root / "uploads"
        self.temporary = self.root / "tmp"
        self.checkpoints = self.root / "checkpoints"
        self.keys = self.root / "keys"
        self.records = {api: self.root / api for api in RECORDS}
        self._turn = Lock()
        try:
            self._was_there = self.root.is_dir()
            self._was_new = not self._was_there or not any(self.root.iterdir())
            data_folder(self.root, log.warning)  # private, because it holds prompts, videos and keys
            for folder in (
                *(self.inputs, self.loras, self.artifacts, self.uploads, self.checkpoints, self.keys, self.temporary),
                *self.records.values(),
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
        self.room = Room(lambda: self.free_bytes, min_free_bytes)
        self._clear()

    def _clear(self) -> None:
        """Removes files that a crash left incomplete. This process holds the lock, so no other server is writing."""
        for path in self.temporary.iterdir():
            _remove(path)
        for path in self.uploads.iterdir():  # folders hold parts of uploads that a client may still complete
            if not path.is_dir():
                _remove(path)
        for folder in (self.inputs, self.loras, self.checkpoints):
            for path in folder.rglob(".*"):
                if TEMPORARY.fullmatch(path.name):
                    _remove(path)

    @contextmanager
    def temporaries_here(self) -> Iterator[None]:
        """Redirects temporary files of this process, its libraries and its children to the data folder, because the
        free space on that disk is checked."""
        before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
        tempfile.tempdir = os.environ["TMPDIR"] = str(self.temporary)
        try:
            yield
        finally:
            tempfile.tempdir = before
            if variable is None:
                os.environ.pop("TMPDIR", None)
            else:
                os.environ["TMPDIR"] = variable

    def close(self) -> None:
        self._lock.close()

    def abandon(self) -> None:
        """For a failed start: closes the data folder, and empties or removes it if it was empty or new. This is safe:
        this process holds the lock, so no other server can have stored anything."""
        if self._was_new:
            for path in self.root.iterdir():
                _remove(path)
            if not self._was_there:
                with suppress(OSError):
                    self.root.rmdir()
        self.close()

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def check_room(self) -> None:
        """Raises DiskFull when less than `min_free_bytes` is free."""
        free = self.free_bytes
        if free < self.min_free_bytes:
            raise DiskFull(f"only {free // 2**20} MiB are free on the server's disk")

    def touch(self, file: Path) -> bool:
        """Marks the file as new, so that `drop` keeps it. Returns False if the file does not exist."""
        with self._turn:
            try:
                os.utime(file)
            except FileNotFoundError:
                return False
        return True

    def drop(self, file: Path, before: float) -> None:
        """Removes the file if it was last written or touched before `before` (unix seconds)."""
        with self._turn:
            try:
                if file.stat().st_mtime < before:
                    file.unlink()
            except FileNotFoundError:
                pass


def read_secret(path: Path) -> bytes:
    """Reads a secret of this server. Raises DataDirUnwritable for a file that other users of the machine may read or
    change; OSError.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise DataDirUnwritable(f"{path} holds a secret and must be a plain file")
        if found.st_uid not in (os.geteuid(), 0):
            raise DataDirUnwritable(f"{path} holds a secret and belongs to another user")
        if stat.S_IMODE(found.st_mode) & 0o007:
            raise DataDirUnwritable(f"{path} holds a secret and is open to every user: chmod 600 {path}")
        return file.read(2**20)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def full_disk_named() -> Iterator[None]:
    """Turns OSErrors about a full disk into DiskFull."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("the server's disk is full") from e
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Writes the file completely or not at all, even if the power fails. Raises DiskFull, OSError."""
    with arriving(path.parent) as (part, file):
        file.write(data)
        settle(part, file, path)


def copy_atomically(source: Path, path: Path) -> None:
    """Copies the file completely or not at all, even if the power fails. Raises DiskFull, OSError."""
    with source.open("rb") as from_file, arriving(path.parent) as (part, file):
        shutil.copyfileobj(from_file, file)
        settle(part, file, path)


@contextmanager
def arriving(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new temporary file, open for writing; removed afterwards unless `settle` has renamed it. Raises DiskFull."""
    with full_disk_named():
        handle, name = tempfile.mkstemp(dir=folder, prefix=".")
        try:
            with os.fdopen(handle, "wb") as file:
                yield Path(name), file
        finally:
            Path(name).unlink(missing_ok=True)


@full_disk_named()
def settle(part: Path, file: BinaryIO, path: Path) -> None:
    """Flushes the file from `arriving` to the disk and renames it to `path`. Raises DiskFull, OSError."""
    file.flush()
    os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
