"""What no model can take: the ranges of a request's numbers, and fields that make no sense together.

Knows: the widest range of each field. Pure: no torch, no files. Does not know: models, vendors with narrower ranges.
"""

from __future__ import annotations

import math

from pipelines.request import MAX_SEED, GenerationRequest, RequestError, Task

MAX_FRAMES = 1000
MAX_SIDE = 4096
MAX_STEPS = 1000
MAX_GUIDANCE = 100
MAX_FPS = 120
MAX_LORAS = 8
MAX_LORA_SCALE = 10
MIN_SECONDS, MAX_SECONDS = 0.1, 120


def _plain(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high or not math.isfinite(value):
        raise RequestError(name, f"must be between {low} and {high}, got {_plain(value)}")


def check_ranges(request: GenerationRequest) -> None:
    """Raises RequestError for what no model can take."""
    for name, low, high in (
        ("num_frames", 1, MAX_FRAMES),
        ("width", 16, MAX_SIDE),
        ("height", 16, MAX_SIDE),
        ("fps", 1, MAX_FPS),
        ("interpolate_fps", 1, MAX_FPS),
        ("duration", MIN_SECONDS, MAX_SECONDS),
        ("num_inference_steps", 1, MAX_STEPS),
        ("guidance_scale", 0, MAX_GUIDANCE),
        ("strength", 0, 1),
        ("seed", 0, MAX_SEED),
    ):
        value = getattr(request, name)
        if value is not None:
            _within(name, value, low, high)
    if len(request.loras) > MAX_LORAS:
        raise RequestError("loras", f"at most {MAX_LORAS} LoRAs are possible, got {len(request.loras)}")
    for lora in request.loras:
        if not abs(lora.scale) <= MAX_LORA_SCALE:  # NaN too
            raise RequestError(
                "loras", f"a scale must be between -{MAX_LORA_SCALE} and {MAX_LORA_SCALE}, got {_plain(lora.scale)}"
            )
    if not request.prompt.strip():
        raise RequestError("prompt", "must not be empty")
    if request.image is not None and request.video is not None:
        raise RequestError("video", "give an image or a video, not both")
    if request.duration is not None and request.num_frames is not None:
        raise RequestError("duration", "give a duration or a number of frames, not both")
    if request.strength is not None and request.task is not Task.V2V:
        raise RequestError("strength", "acts on video-to-video only; there is no source video here")
