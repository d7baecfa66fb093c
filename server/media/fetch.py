"""The images and input clips of a request: fetched or decoded, checked, and stored in the data folder.

Knows: the forms in which clients send them (URL, data: URI, base64, bytes, one of our own result URLs), limits, turns
of API keys. Does not know: vendors' error shapes, how a file is checked, what a model needs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

from pipelines.request import Media
from pipelines.video import MediaUnreadable
from server.datadir import DataDir, arriving, settle
from server.errors import MediaCode, MediaError, StorageQuotaExceeded
from server.limits.room import Growing, Writable, tag_of
from server.limits.shares import Shares
from server.limits.steps import in_turn
from server.media.artifact import Artifact
from server.media.artifacts import Artifacts
from server.media.data_uris import from_text, head_of, pour
from server.media.inspectors import Inspectors
from server.media.outbound import DownloadFailed, Outbound, TooLarge
from weights.record import sha256

PICTURE_BYTES = 25 * 2**20
VIDEO_BYTES = 200 * 2**20
URL_LENGTH = 8192
AT_ONCE, PER_KEY, WAITING = 32, 4, 100  # files being downloaded, decoded or checked at a time
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

Check = Callable[[Path, str], Awaitable[None]]


class Intake:
    """Use from one event loop only. `owner`: the owner name of the API key for which a file is fetched."""

    def __init__(self, data: DataDir, artifacts: Artifacts, outbound: Outbound, inspectors: Inspectors) -> None:
        self._data = data
        self._artifacts = artifacts
        self._outbound = outbound
        self._inspectors = inspectors
        self._turns = Shares("images and clips", AT_ONCE, PER_KEY, WAITING)

    async def picture(self, value: str | bytes, field: str, *, owner: str = "") -> Media:
        """Stores an image and checks that it is readable.

        Raises MediaError that names `field`; DiskFull, QueueFull.
        """
        return await self._take(value, field, owner, PICTURE_BYTES, "image_load_error", self._inspectors.image)

    async def video(self, value: str | bytes, field: str, *, owner: str = "") -> Media:
        """Stores an input clip and checks that its first frame can be decoded. Raises the same errors as `picture`."""
        return await self._take(value, field, owner, VIDEO_BYTES, "unsupported_video_format", self._inspectors.clip)

    def again(self, media: Media, field: str) -> Media:
        """Reuses an earlier job's input for another job. Raises MediaError when that input is no longer stored."""
        if not self._data.touch(Path(media.path)):
            raise MediaError(field, "file_download_error", "the file is not kept any more, send it again")
        return media

    async def close(self) -> None:
        await self._outbound.close()

    async def _take(
        self, value: str | bytes, field: str, owner: str, limit: int, empty: MediaCode, check: Check
    ) -> Media:
        """Waits for this owner's turn, then decodes or downloads. In this order, a waiting request takes no extra
        memory."""
        async with self._turns.turn(owner):
            room, tag = self._data.room, tag_of(owner)
            with arriving(self._data.inputs) as (part, file), room.growing(tag) as grow:
                try:
                    await self._write(value, limit, Growing(file, grow), owner)
                    digest, size = await asyncio.to_thread(_digest, part, file)
                    if not size:
                        raise MediaError(field, empty, "the file is empty")
                    await check(part, owner)
                except TooLarge as e:
                    raise MediaError(field, "file_too_large", e.message, max_size=limit) from None
                except StorageQuotaExceeded as e:
                    raise MediaError(field, "file_too_large", e.message, max_size=e.limit) from None
                except DownloadFailed as e:
                    raise MediaError(field, "file_download_error", e.message) from None
                except MediaUnreadable as e:
                    raise MediaError(field, e.code, str(e)) from None
                path = self._data.inputs / digest
                if not self._data.touch(path):
                    await asyncio.to_thread(settle, part, file, path)
                    room.note_fetched(tag, size)
                return Media(str(path), digest)

    async def _write(self, value: str | bytes, limit: int, file: Writable, owner: str) -> None:
        """Raises TooLarge, DownloadFailed, DiskFull."""
        if isinstance(value, bytes):
            data = value
        elif head_of(value) is None and SCHEME.match(url := value[:URL_LENGTH].strip()):
            if len(value) > URL_LENGTH:
                raise DownloadFailed(f"the URL has more than {URL_LENGTH} characters")
            own = await asyncio.to_thread(self._artifacts.of_url, url)
            if own is None:
                return await self._outbound.save(url, limit, file, owner=owner)
            data = await asyncio.to_thread(self._read, own, limit)
        else:
            return await in_turn(owner, len(value), pour, from_text(value, limit), limit, file)
        if len(data) > limit:
            raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
        await asyncio.to_thread(file.write, data)
        return None

    def _read(self, own: Artifact, limit: int) -> bytes:
        if own.size > limit:
            raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
        try:
            return self._artifacts.read(own)
        except FileNotFoundError:
            raise DownloadFailed("the file is gone") from None


def _digest(path: Path, file: BinaryIO) -> tuple[str, int]:
    """SHA-256 and size in bytes of the written file."""
    file.flush()
    return sha256(path), file.tell()
