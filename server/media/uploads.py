"""Files that clients upload ahead of a request, in one piece or in parts.

Knows: how to write a stream to disk without holding it in memory; how to make sure that a file exists completely or not
at all. Does not know: how vendors start an upload, who may start one, how long and where files are stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from server.datadir import DataDir, copy_atomically, full_disk_named
from server.errors import ServerError, UploadTooLarge
from server.limits.room import TAG, Counted
from server.limits.steps import steps
from server.media.artifact import Artifact
from server.media.artifacts import Artifacts
from server.media.storage import KEY

UPLOAD_BYTES = 256 * 2**20
TOO_LARGE = f"the file is larger than {UPLOAD_BYTES // 2**20} MiB"
MAX_PARTS = 10_000  # the highest part number
MOST_PARTS = 1000  # parts of one upload; limited, because every new part lists all others
PART_NAME = re.compile(r"[1-9]\d{0,4}")
EMPTY = "the upload is empty: no byte of the file arrived"
OVER = "this upload is finished, or was never begun"


class UploadBroken(ServerError):
    """The upload is empty, parts are missing, the key is unknown, or the file already exists."""


class Uploads:
    def __init__(self, data: DataDir, artifacts: Artifacts) -> None:
        self._data = data
        self._artifacts = artifacts
        self.room = data.room

    async def store(
        self,
        chunks: AsyncIterator[bytes],
        name: str,
        media_type: str = "",
        *,
        keep_seconds: float | None = None,
        key: str | None = None,
        owner: str = "",
    ) -> Artifact:
        """Stores the file under `key`, which comes from `Artifacts.new_key`. Without `key`, makes a new key of `owner`.

        Raises UploadTooLarge (StorageQuotaExceeded), UploadBroken (the key is taken, the upload is empty), DiskFull;
        after an error nothing is left on the disk.
        """
        key = key or self._artifacts.new_key(owner)
        return await self._store(chunks, name, media_type, keep_seconds, key)

    async def _store(
        self,
        chunks: AsyncIterator[bytes],
        name: str,
        media_type: str,
        keep_seconds: float | None,
        key: str,
        *,
        again: bool = False,
    ) -> Artifact:
        await asyncio.to_thread(self._begin, key)
        with (
            full_disk_named(),
            self.room.growing(key[:TAG], again=again) as grow,
            tempfile.NamedTemporaryFile(dir=self._data.uploads) as file,
        ):
            await _write(chunks, file, UPLOAD_BYTES, grow)
            try:
                return await asyncio.to_thread(
                    self._artifacts.adopt, Path(file.name), key, name, media_type, keep_seconds=keep_seconds
                )
            except FileExistsError:
                raise UploadBroken(OVER) from None

    async def store_part(self, key: str, number: int, chunks: AsyncIterator[bytes]) -> str:
        """Writes part `number` (from 1), and replaces an earlier part with this number. Returns the part's ETag, a
        quoted hash.

        Raises UploadTooLarge, UploadBroken, DiskFull.
        """
        if not 1 <= number <= MAX_PARTS:
            raise UploadBroken(OVER)
        await asyncio.to_thread(self._begin, key)
        folder = self._data.uploads / key
        with (
            full_disk_named(),
            self.room.growing(key[:TAG]) as grow,
            tempfile.NamedTemporaryFile(dir=self._data.uploads) as file,
        ):
            there = await asyncio.to_thread(_make_room_for_part, folder, number)
            digest = await _write(chunks, file, UPLOAD_BYTES - there, grow)
            await asyncio.to_thread(copy_atomically, Path(file.name), folder / str(number))
            self.room.note(key[:TAG], file.tell(), brought=True)
        # simultaneous writers of parts do not see each other's part
        if await asyncio.to_thread(_size_of_parts, folder) > UPLOAD_BYTES:
            (folder / str(number)).unlink(missing_ok=True)
            raise UploadTooLarge(TOO_LARGE)
        return f'"{digest}"'

    async def complete(
        self,
        key: str,
        numbers: Iterable[int],
        name: str,
        media_type: str = "",
        *,
        keep_seconds: float | None = None,
    ) -> Artifact:
        """Joins the parts with these numbers into one file, in ascending order. Raises UploadBroken, UploadTooLarge,
        DiskFull."""
        wanted = sorted(set(numbers))
        folder = self._data.uploads / key
        if (
            not KEY.fullmatch(key)
            or not wanted
            or len(wanted) > MOST_PARTS
            or not await asyncio.to_thread(lambda: all((folder / str(n)).is_file() for n in wanted))
        ):
            raise UploadBroken("parts of this upload are missing")

        async def joined() -> AsyncIterator[bytes]:
            for number in wanted:
                with (folder / str(number)).open("rb") as part:
                    while chunk := await asyncio.to_thread(part.read, 2**20):
                        yield chunk

        artifact = await self._store(joined(), name, media_type, keep_seconds, key, again=True)
        await asyncio.to_thread(self._drop_parts, folder)
        return artifact

    def _drop_parts(self, folder: Path) -> None:
        parts = list(_parts(folder))
        shutil.rmtree(folder, ignore_errors=True)
        for tag, size, brought, at in parts:
            self.room.note(tag, -size, brought, at)

    def parts(self) -> Iterator[Counted]:
        """The parts of unfinished uploads, each as the arguments of `Room.note`."""
        for folder in self._data.uploads.iterdir():
            if KEY.fullmatch(folder.name):
                yield from _parts(folder)

    def _begin(self, key: str) -> None:
        """Raises UploadBroken, DiskFull."""
        self._artifacts.check_room()
        if not KEY.fullmatch(key) or self._artifacts.find(key) is not None:
            raise UploadBroken(OVER)

    def sweep(self, before: float) -> None:
        """Removes unfinished uploads that were last written before `before`, in unix seconds."""
        for path in self._data.uploads.iterdir():
            with suppress(FileNotFoundError):  # it was finished meanwhile
                if path.is_file():
                    self._data.drop(path, before)
                elif max(p.stat().st_mtime for p in (path, *path.iterdir())) < before:
                    shutil.rmtree(path, ignore_errors=True)


def _parts(folder: Path) -> Iterator[Counted]:
    with suppress(FileNotFoundError):  # it was finished meanwhile
        for path in folder.iterdir():
            if PART_NAME.fullmatch(path.name):
                found = path.stat()
                yield folder.name[:TAG], found.st_size, True, found.st_mtime


def _make_room_for_part(folder: Path, number: int) -> int:
    """Returns the size of the other parts in bytes. Raises UploadTooLarge when there are too many parts."""
    folder.mkdir(exist_ok=True)
    if sum(1 for _ in folder.iterdir()) >= MOST_PARTS and not (folder / str(number)).exists():
        raise UploadTooLarge(f"the upload has more than {MOST_PARTS} parts")
    return _size_of_parts(folder, but=number)


def _size_of_parts(folder: Path, but: int | None = None) -> int:
    """The bytes of all parts except part `but`."""
    return sum(p.stat().st_size for p in folder.iterdir() if PART_NAME.fullmatch(p.name) and p.name != str(but))


async def chunks_of(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _short(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Splits the bytes into small chunks, so that processing each takes little time."""
    async for chunk in chunks:
        for begin, end in steps(0, len(chunk)):
            yield chunk[begin:end]


async def _write(chunks: AsyncIterator[bytes], file: BinaryIO | object, limit: int, grow: Callable[[int], None]) -> str:
    """Writes the chunks and returns their MD5 in hex, for an ETag. Raises UploadBroken if they are empty,
    UploadTooLarge."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    async for chunk in _short(chunks):
        size += len(chunk)
        if size > limit:
            raise UploadTooLarge(TOO_LARGE)
        grow(len(chunk))
        digest.update(chunk)
        await asyncio.to_thread(file.write, chunk)  # type: ignore[union-attr]
    if not size:
        raise UploadBroken(EMPTY)
    file.flush()  # type: ignore[union-attr]
    return digest.hexdigest()
