"""Pictures as Zhipu takes them: PNG or JPEG of 5 MB at most.

Knows: how those two begin. Does not know: where a picture comes from, whether it can be read to its end.
"""

from __future__ import annotations

from pathlib import Path

from starlette.concurrency import run_in_threadpool

from pipelines.request import Media
from server.context import Context
from server.errors import MediaError

MAX_BYTES = 5 * 2**20
BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


async def picture(context: Context, value: str | bytes, field: str, owner: str) -> Media:
    """Raises MediaError that names `field`; DiskFull."""
    media = await context.intake.picture(value, field, owner=owner)
    await run_in_threadpool(_check, Path(media.path), field)
    return media


def _check(path: Path, field: str) -> None:
    if not path.is_file():  # the worker will miss it too, and say so
        return
    if path.stat().st_size > MAX_BYTES:
        raise MediaError(
            field, "file_too_large", f"the file is larger than {MAX_BYTES // 2**20} MB", max_size=MAX_BYTES
        )
    with path.open("rb") as file:
        if not file.read(8).startswith(BEGINNINGS):
            raise MediaError(field, "unsupported_image_format", "must be a PNG or a JPEG")
