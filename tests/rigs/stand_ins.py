"""Stand-ins for file and network access, which are quick and behave the same on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from pipelines.models import FAMILIES, ModelInfo
from pipelines.request import Lora, Media, RequestError, Task
from server.errors import MediaError
from server.media.outbound import DownloadFailed

PICTURE = "data:image/png;base64,iVBORw0KGgo="
CLIP = "data:video/mp4;base64,AAAAGGZ0eXA="


class AnyFile:
    """An intake that accepts every file, except by URL. `seen` lists the fields and values received."""

    def __init__(self, path: str = "somewhere") -> None:
        self.path = path
        self.seen: list[tuple[str, str | bytes]] = []

    async def picture(self, value: str | bytes, field: str, *, owner: str = "") -> Media:
        return self._media(value, field)

    async def video(self, value: str | bytes, field: str, *, owner: str = "") -> Media:
        return self._media(value, field)

    def again(self, media: Media, field: str) -> Media:
        return media

    async def close(self) -> None:
        pass

    def _media(self, value: str | bytes, field: str) -> Media:
        self.seen.append((field, value))
        if isinstance(value, str) and value.startswith("http"):
            raise MediaError(field, "file_download_error", "Nothing came from that address")
        if value in ("big", b"big"):
            raise MediaError(field, "file_too_large", "Too large", max_size=10)
        return Media(self.path, "0" * 64)


class OneLora:
    """Stands in for the LoRA folder: it has one LoRA, named style, and cannot download URLs."""

    async def take(
        self, value: str, scale: float, task: Task, *, field: str = "loras", fresh: bool = False, owner: str = ""
    ) -> Lora:
        if value.startswith("http"):
            raise MediaError(field, "file_download_error", "Nothing came from that address")
        if value != "style":
            raise RequestError(field, f"no LoRA {value!r} is installed here; there are: style")
        return Lora("style.safetensors", scale)


class NoNetwork:
    """An `Outbound` that cannot resolve any host name."""

    async def download(self, url: str, limit: int, owner: str = "") -> bytes:
        raise DownloadFailed("the host name is not known")

    async def save(self, url: str, limit: int, file: BinaryIO, seconds: float | None = None, owner: str = "") -> None:
        await self.download(url, limit)

    async def close(self) -> None:
        pass


def model_for(task: Task) -> ModelInfo:
    """A 5B checkpoint as published."""
    family = next(f for f in FAMILIES if task in f.tasks and "5b" in f.name and "1.5" not in f.name)
    return ModelInfo(family.name, Path(), family, True, 226, 1, 3072, 128, 86_400)
