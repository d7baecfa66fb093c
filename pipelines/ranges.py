"""Limits for every model: ranges of numbers, text that can be encoded, fields that exclude each other.

The widest range of each field is defined here and nowhere else. Vendors may have narrower ranges. Pure: no torch.
"""

from __future__ import annotations

from pipelines.request import MAX_SEED, GenerationRequest, RequestError, Task

MAX_FRAMES = 1000
MIN_SIDE, MAX_SIDE = 16, 4096
MAX_STEPS = 1000
MAX_GUIDANCE = 100
MAX_FPS = 120
MAX_LORAS = 8
MAX_LORA_SCALE = 10
MIN_SECONDS, MAX_SECONDS = 0.1, 120
RANGES: dict[str, tuple[float, float]] = {  # field of GenerationRequest -> smallest and largest value
    "num_frames": (1, MAX_FRAMES),
    "width": (MIN_SIDE, MAX_SIDE),
    "height": (MIN_SIDE, MAX_SIDE),
    "fps": (1, MAX_FPS),
    "interpolate_fps": (1, MAX_FPS),
    "duration": (MIN_SECONDS, MAX_SECONDS),
    "num_inference_steps": (1, MAX_STEPS),
    "guidance_scale": (0, MAX_GUIDANCE),
    "strength": (0, 1),
    "seed": (0, MAX_SEED),
}


def flaw(text: str) -> str | None:
    """Why this text cannot be encoded or stored; None if it can."""
    if "\0" in text:
        return "it contains a NUL character"
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as e:
        if 0xDC80 <= ord(text[e.start]) <= 0xDCFF:  # a byte of an argument or file name that is not UTF-8
            return "it is not valid UTF-8"
        return "it contains half a surrogate pair"
    return None


def _plain(value: int | float) -> str:
    """The shortest text for a number, such as 100 or 100.0000001; a very long integer is cut."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else str(value)
    text = str(value)
    return text if len(text) <= 40 else f"{text[:20]}… ({len(text)} digits)"


def spoken(name: str) -> str:
    """The range of a field: `between 0 and 100`."""
    low, high = RANGES[name]
    return f"between {low} and {high}"


def check_ranges(request: GenerationRequest) -> None:
    """Raises RequestError for a value outside the limits."""
    for name, (low, high) in RANGES.items():
        value = getattr(request, name)
        if value is not None and not low <= value <= high:  # NaN too
            raise RequestError(name, f"must be {spoken(name)}, got {_plain(value)}")
    if len(request.loras) > MAX_LORAS:
        raise RequestError("loras", f"at most {MAX_LORAS} LoRAs are possible, got {len(request.loras)}")
    for lora in request.loras:
        if not abs(lora.scale) <= MAX_LORA_SCALE:
            raise RequestError(
                "loras", f"a scale must be between -{MAX_LORA_SCALE} and {MAX_LORA_SCALE}, got {_plain(lora.scale)}"
            )
    _check_texts(request)
    if not request.prompt.strip():
        raise RequestError("prompt", "must not be empty")
    if request.image is not None and request.video is not None:
        raise RequestError("video", "give an image or a video, not both")
    if request.duration is not None and request.num_frames is not None:
        raise RequestError("duration", "give a duration or a number of frames, not both")
    if request.strength is not None and request.task is not Task.V2V:
        raise RequestError("strength", "acts on video-to-video only; there is no source video here")


def _check_texts(request: GenerationRequest) -> None:
    for name in ("prompt", "negative_prompt", "asked_prompt", "prompt_note"):
        if wrong := flaw(getattr(request, name) or ""):
            raise RequestError(name, f"must be plain text: {wrong}")
