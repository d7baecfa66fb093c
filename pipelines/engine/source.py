"""Read a request's input image or the part of its input clip that the model can use. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from pipelines.errors import GenerationError
from pipelines.models import ModelInfo
from pipelines.plan import Note, Source
from pipelines.request import GenerationRequest
from pipelines.video import Clip, MediaUnreadable, read_picture, read_video
from pipelines.video.stream import SOURCE_PIXELS

SECONDS = 60.0  # the longest input clip; the server refuses longer ones beforehand (pipelines/video/probe.py)
PIXELS = 1920 * 1088  # pixels of a frame in memory; larger frames are scaled down as they are decoded
RATE = 120  # frames a second at most


def read_source(request: GenerationRequest, info: ModelInfo) -> tuple[Image.Image | None, Clip | None, Source | None]:
    """The input image or clip, and its description. Raises GenerationError if the file cannot be read."""
    try:
        if request.image is not None:
            picture = read_picture(Path(request.image.path).read_bytes())
            return picture, None, Source(*picture.size, notes=_notes("image", picture.info.get("note")))
        if request.video is not None:
            wanted = info.family.frames.maximum / info.family.fps + 1  # seconds that the model can use, plus 1 s
            clip = read_video(
                request.video.path,
                max_frames=int(wanted * RATE),
                max_pixels=PIXELS,
                source_pixels=SOURCE_PIXELS,
                max_seconds=SECONDS,
                first_seconds=wanted,
                longest_side=2 * max(max(size) for size in info.family.sizes.native),
            )
            notes = _notes("video", clip.note)
            return None, clip, Source(clip.width, clip.height, len(clip.frames), clip.fps, notes)
    except MediaUnreadable as e:
        raise GenerationError("media_error", str(e), "image" if request.image is not None else "video") from e
    except OSError as e:
        field = "image" if request.image is not None else "video"
        raise GenerationError("media_error", f"cannot be read: {e.strerror or e}", field) from e
    return None, None, None


def _notes(field: str, note: tuple[str, str, str] | None) -> tuple[Note, ...]:
    return () if note is None else (Note(field, *note),)
