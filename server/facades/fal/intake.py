"""Converts fal's input to a GenerationRequest: fetches media, resolves sizes to pixels, refuses unsupported
features."""

from __future__ import annotations

import asyncio
from typing import Any

from pipelines.request import GenerationRequest, Lora, RequestError
from server.context import Context
from server.errors import MediaError
from server.facades.fal.errors import Invalid
from server.facades.fal.models import (
    DEFAULT_SIZE,
    Endpoint,
    ImageToVideoInput,
    LoraWeight,
    TextToVideoInput,
    VideoToVideoInput,
)
from server.facades.kit.fields import members, present


def validated(endpoint: Endpoint, payload: Any) -> TextToVideoInput:
    """Validates `payload` as the input of `endpoint`. Raises pydantic's ValidationError, NotAnObject."""
    return endpoint.input.model_validate(present(members(payload)))


async def generation(context: Context, endpoint: Endpoint, given: TextToVideoInput, owner: str) -> GenerationRequest:
    """Fetches the image or clip and the LoRAs, and returns the request. Raises Invalid, MediaError."""
    smooth = given.use_rife and context.served.rife_available
    if given.use_rife and not smooth and "use_rife" in given.model_fields_set:
        raise Invalid(
            "feature_not_supported",
            "Frame interpolation needs the RIFE weights, which are not installed on this server; "
            "send use_rife false to have the frames stamped at export_fps",
            "use_rife",
        )
    image = video = strength = None
    if isinstance(given, ImageToVideoInput):
        image = await context.intake.picture(given.image_url, "image_url", owner=owner)
    if isinstance(given, VideoToVideoInput):
        video = await context.intake.video(given.video_url, "video_url", owner=owner)
        strength = given.strength
    loras = await _loras(context, endpoint, given.loras, owner)
    size = given.video_size
    return GenerationRequest(
        prompt=given.prompt,
        negative_prompt=given.negative_prompt,
        image=image,
        video=video,
        width=size.width if size else DEFAULT_SIZE[0],
        height=size.height if size else DEFAULT_SIZE[1],
        fps=given.export_fps,
        interpolate_fps=given.export_fps if smooth else None,
        num_inference_steps=given.num_inference_steps,
        guidance_scale=given.guidance_scale,
        strength=strength,
        seed=given.seed,
        loras=loras,
    )


async def _loras(context: Context, endpoint: Endpoint, given: list[LoraWeight], owner: str) -> tuple[Lora, ...]:
    """Fetches all LoRAs in parallel, before the job is accepted, so that the LoRAs are on disk after a restart."""
    takes = (context.loras.take(one.path, one.scale, endpoint.task, fresh=one.force, owner=owner) for one in given)
    found = []
    for number, one in enumerate(await asyncio.gather(*takes, return_exceptions=True)):
        match one:
            case Lora():
                found.append(one)
            case MediaError():
                raise Invalid(one.code, one.message, "loras", number, "path", ctx=one.extra or None)
            case RequestError():
                raise Invalid("value_error", one.message, "loras", number, "path")
            case _:
                raise one
    return tuple(found)
