"""Converts Zhipu's fields to a GenerationRequest, with notes on differences from Zhipu, and checks Zhipu's rules for
images."""

from __future__ import annotations

from pathlib import Path

from starlette.concurrency import run_in_threadpool

from pipelines.request import GenerationRequest, Media
from server.context import Context
from server.errors import MediaError
from server.facades.kit.complaints import NO_PROMPT
from server.facades.zhipu.models import UnifiedVideo, VideoGeneration

STEPS = {"speed": 25, "quality": None}  # None: the number of steps in the model card, 50
MAX_BYTES = 5 * 2**20
BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
WITHOUT_EFFECT = ("style", "aspect_ratio", "movement_amplitude")


def generation(given: VideoGeneration, picture: Media | None, rife: bool) -> GenerationRequest:
    """`rife`: whether this server can interpolate frames. If not, frames are repeated to reach `fps`."""
    width, height = given.sides or (None, None)
    return GenerationRequest(
        prompt=given.prompt or NO_PROMPT,
        negative_prompt=given.negative_prompt if isinstance(given, UnifiedVideo) else "",
        image=picture,
        duration=given.duration,
        width=width,
        height=height,
        fps=given.fps,
        interpolate_fps=given.fps if rife else None,
        num_inference_steps=STEPS[given.quality],
    )


def notes(given: VideoGeneration, rife: bool) -> list[str]:
    said = []
    if not given.prompt:
        said.append(f"prompt: none -> {NO_PROMPT!r} (CogVideoX needs words)")
    if rife:
        said.append(f"fps: {given.fps}, with frames drawn between the model's own")
    if given.with_audio:
        said.append("with_audio: true -> no sound (CogVideoX makes silent films)")
    if given.watermark_enabled:
        said.append("watermark_enabled: true -> no watermark (none is ever drawn)")
    ignored = [name for name in WITHOUT_EFFECT if getattr(given, name) is not None]
    if isinstance(given, UnifiedVideo) and given.aspect_ratio is not None:
        ignored.remove("aspect_ratio")
    said += [f"{name}: ignored (CogVideoX has no such setting)" for name in ignored]
    if given.off_peak:
        said.append("off_peak: ignored (jobs run in the order of the queue)")
    if given.sensitive_word_check is not None:
        said.append("sensitive_word_check: ignored (nothing is checked)")
    return said


async def picture(context: Context, value: str | bytes, field: str, owner: str) -> Media:
    """Raises MediaError that names `field`; DiskFull."""
    media = await context.intake.picture(value, field, owner=owner)
    await run_in_threadpool(_check, Path(media.path), field)
    return media


def _check(path: Path, field: str) -> None:
    if not path.is_file():  # the worker will report it
        return
    if path.stat().st_size > MAX_BYTES:
        raise MediaError(
            field, "file_too_large", f"the file is larger than {MAX_BYTES // 2**20} MB", max_size=MAX_BYTES
        )
    with path.open("rb") as file:
        if not file.read(8).startswith(BEGINNINGS):
            raise MediaError(field, "unsupported_image_format", "must be a PNG or a JPEG")
