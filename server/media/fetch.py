"""Pictures and clips that come with a request: from wherever they are to a checked file in the data folder.

Knows: the forms clients send them in (URL, data: URI, base64, bytes, one of our own result URLs), limits, what makes
a file a picture or a clip. Does not know: vendors' error shapes, what a model wants of them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes

from pipelines.request import Media
from pipelines.video import MediaUnreadable, read_picture
from server.datadir import DataDir, write_atomically
from server.errors import MediaCode, MediaError
from server.jobs.job import Artifact
from server.media.artifacts import Artifacts
from server.media.clip import check_clip
from server.media.door import Door, DownloadFailed, TooLarge

PICTURE_BYTES = 25 * 2**20
VIDEO_BYTES = 200 * 2**20
URL_LENGTH = 8192
DECODERS = 4  # pictures and clips looked at at the same time
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
SPACE = re.compile(rb"\s+")


class Intake:
    """Belongs to one event loop, from the first call to `close`. `owner`: the key that a file is fetched for."""

    def __init__(self, data: DataDir, artifacts: Artifacts, door: Door) -> None:
        self._data = data
        self._artifacts = artifacts
        self._door = door
        self._decoders = asyncio.Semaphore(DECODERS)

    async def picture(self, value: str | bytes, field: str, *, owner: str = "") -> Media:
        """A readable picture, stored. Raises MediaError that names `field`; DiskFull."""
        return await self._take(value, field, owner, PICTURE_BYTES, "image_load_error", _check_picture)

    async def video(self, value: str | bytes, field: str, *, owner: str = "") -> Media:
        """A clip whose first frame can be decoded, stored. Raises MediaError that names `field`; DiskFull."""
        return await self._take(value, field, owner, VIDEO_BYTES, "unsupported_video_format", check_clip)

    def again(self, media: Media, field: str) -> Media:
        """What an earlier job was given, for another one. Raises MediaError when it is not kept any more."""
        if not self._data.touch(Path(media.path)):
            raise MediaError(field, "file_download_error", "the file is not kept any more, send it again")
        return media

    async def close(self) -> None:
        await self._door.close()

    async def _take(
        self,
        value: str | bytes,
        field: str,
        owner: str,
        limit: int,
        empty: MediaCode,
        check: Callable[[Path], None],
    ) -> Media:
        try:
            data = await self._bytes(value, limit, owner)
        except TooLarge as e:
            raise MediaError(field, "file_too_large", e.message, max_size=limit) from None
        except DownloadFailed as e:
            raise MediaError(field, "file_download_error", e.message) from None
        if not data:
            raise MediaError(field, empty, "the file is empty")
        async with self._decoders:
            return await asyncio.to_thread(self._keep, data, field, check)

    async def _bytes(self, value: str | bytes, limit: int, owner: str) -> bytes:
        """Raises TooLarge, DownloadFailed."""
        if isinstance(value, bytes):
            data = value
        elif value.lstrip()[:5].lower() == "data:":
            data = await asyncio.to_thread(from_data_uri, value.strip(), limit)
        elif SCHEME.match(url := value[:URL_LENGTH].strip()):
            if len(value) > URL_LENGTH:
                raise DownloadFailed(f"the URL has more than {URL_LENGTH} characters")
            own = await asyncio.to_thread(self._artifacts.of_url, url)
            if own is None:
                return await self._door.download(url, limit, owner)
            data = await asyncio.to_thread(self._read, own, limit)
        else:
            data = await asyncio.to_thread(_from_base64, value.encode("utf-8", "replace"), limit)
        if len(data) > limit:
            raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
        return data

    def _read(self, own: Artifact, limit: int) -> bytes:
        if own.size > limit:
            raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
        try:
            return self._artifacts.read(own)
        except FileNotFoundError:
            raise DownloadFailed("the file is gone") from None

    def _keep(self, data: bytes, field: str, check: Callable[[Path], None]) -> Media:
        digest = hashlib.sha256(data).hexdigest()
        path = self._data.inputs / digest
        try:
            if self._data.touch(path):
                check(path)
            else:
                write_atomically(path, data, check)
        except MediaUnreadable as e:
            raise MediaError(field, e.code, str(e)) from None
        return Media(str(path), digest)


def _check_picture(path: Path) -> None:
    read_picture(path.read_bytes())


def from_data_uri(uri: str, limit: int) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma:
        raise DownloadFailed("the data: URI has no comma")
    if len(body) > limit * 4:
        raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
    data = unquote_to_bytes(body)
    return _from_base64(data, limit) if head.lower().rstrip().endswith(";base64") else data


def _from_base64(text: bytes, limit: int) -> bytes:
    """Whitespace and missing padding are forgiven, and both alphabets read; anything else is not base64."""
    text = SPACE.sub(b"", text).rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    if len(text) * 3 // 4 > limit:
        raise TooLarge(f"the file is larger than {limit // 2**20} MiB")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise DownloadFailed("it is neither an http(s) URL, nor a data: URI, nor base64") from None
