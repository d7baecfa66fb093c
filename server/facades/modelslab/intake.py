"""Converts ModelsLab's fields to a GenerationRequest, with notes about changes."""

from __future__ import annotations

from pipelines.request import GenerationRequest, Media
from server.facades.kit.complaints import NO_PROMPT, shown
from server.facades.modelslab.models import (
    RANDOM_SEED,
    Given,
    ImageToVideo,
    ImageToVideoUltra,
    Sized,
    TextToVideo,
    TextToVideoUltra,
)


def limited(given: Given) -> tuple[Given, list[str]]:
    """Returns `given` with values reduced to ModelsLab's maxima, and a note for each reduced value."""
    over = {name: most for name, most in given.MOST.items() if (getattr(given, name) or 0) > most}
    notes = [f"{name}: {shown(getattr(given, name))} -> {most} (the maximum)" for name, most in over.items()]
    return given.model_copy(update=over), notes


def generation(given: Given, image: Media | None) -> tuple[GenerationRequest, list[str]]:
    """Returns the request for the engine, and notes on values that differ from `given`."""
    notes = []
    if not given.prompt.strip():
        notes.append(f"prompt: none -> {NO_PROMPT!r} (CogVideoX needs words)")
    if isinstance(given, TextToVideoUltra | ImageToVideoUltra):
        steps = guidance = None
        width, height = _landscape(given.resolution)
        if given.portrait:
            width, height = height, width
    else:
        steps, guidance = given.num_inference_steps, given.guidance_scale
        width, height = _enlarged(given)
        if width < given.width or height < given.height:
            width, height = given.width, given.height
            sent = [name for name in ("upscale_height", "upscale_width") if getattr(given, name) is not None]
            notes += [f"{name}: ignored (nothing is made smaller)" for name in sent]
        elif (width, height) != (given.width, given.height):
            notes.append(f"size: {given.width}x{given.height} -> {width}x{height} (upscale_*)")
    for name, (usual, why) in given.IGNORED.items():
        if getattr(given, name) not in (None, usual):
            notes.append(f"{name}: ignored ({why})")
    request = GenerationRequest(
        prompt=given.prompt if given.prompt.strip() else NO_PROMPT,
        negative_prompt=given.negative_prompt,
        image=image,
        num_frames=given.num_frames,
        width=width,
        height=height,
        fps=given.fps,
        num_inference_steps=steps,
        guidance_scale=guidance,
        seed=None if given.seed == RANDOM_SEED else given.seed,
        output_format=given.output_type,
    )
    return request, notes


def _landscape(short: int) -> tuple[int, int]:
    """Returns a width and a height in pixels. The ratio is 16:9, and the two numbers are even. `short`: the height."""
    return round(short * 16 / 9 / 2) * 2, short + short % 2


def _enlarged(given: Sized) -> tuple[int, int]:
    """The final size, after upscaling. A missing side is computed from the other side."""
    width, height = given.width, given.height
    if not isinstance(given, TextToVideo) or (given.upscale_width, given.upscale_height) == (None, None):
        return width, height
    wide, tall, most = given.upscale_width, given.upscale_height, int(given.MOST["upscale_width"])
    wide = wide or min(most, round((tall or 0) * width / height / 2) * 2)
    tall = tall or min(most, round(wide * height / width / 2) * 2)
    return wide, tall


def picture_of(given: Given) -> str | None:
    return given.init_image if isinstance(given, ImageToVideo | ImageToVideoUltra) else None
