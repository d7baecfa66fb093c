"""From a body to a GenerationRequest, and what of it is not as Zhipu has it.

Knows: which of Zhipu's fields CogVideoX has. Does not know: HTTP, and what the model makes of sizes, lengths and rates
(the plan does, and has notes of its own).
"""

from __future__ import annotations

from pipelines.request import GenerationRequest, Media
from server.facades.zhipu.models import UnifiedVideo, VideoGeneration

STEPS = {"speed": 25, "quality": None}  # None: as many as the model's card says, 50
NO_PROMPT = "The scene comes to life with natural, smooth motion."  # CogVideoX needs words
WITHOUT_EFFECT = ("style", "aspect_ratio", "movement_amplitude")


def generation(given: VideoGeneration, picture: Media | None, rife: bool) -> GenerationRequest:
    """`rife`: frames between the model's own can be drawn; else they are repeated to reach `fps`."""
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
        said.append("off_peak: ignored (jobs are worked on in the order they came)")
    if given.sensitive_word_check is not None:
        said.append("sensitive_word_check: ignored (nothing is checked)")
    return said
