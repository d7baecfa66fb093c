"""Converts Hugging Face's fields to a GenerationRequest."""

from __future__ import annotations

from pipelines.request import GenerationRequest, Media, Task
from server.facades.huggingface.models import Parameters
from server.facades.kit.complaints import NO_PROMPT


def generation(task: Task, inputs: str, parameters: Parameters, image: Media | None) -> GenerationRequest:
    if task is Task.T2V:
        prompt = inputs
    else:
        prompt = parameters.prompt if parameters.prompt and parameters.prompt.strip() else NO_PROMPT
    size = parameters.target_size
    return GenerationRequest(
        prompt=prompt,
        negative_prompt=parameters.negative_prompt or "",
        image=image,
        num_frames=None if parameters.num_frames is None else round(parameters.num_frames),
        width=size.width if size else None,
        height=size.height if size else None,
        num_inference_steps=parameters.num_inference_steps,
        guidance_scale=parameters.guidance_scale,
        seed=parameters.seed,
    )
