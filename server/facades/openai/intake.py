"""OpenAI's fields -> GenerationRequest: pictures fetched, names of models checked.

Knows: what each field means here. Does not know: paths, answers, how a video is made.
"""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool

from pipelines.request import GenerationRequest, Media, Task
from server.context import Context
from server.facades.openai import answers
from server.facades.openai.errors import Refused
from server.facades.openai.files import find
from server.facades.openai.models import DEFAULT_SIZE, CreateVideo, FileId, opened

BAGS = {  # vLLM-Omni's objects -> what is taken from them when it is not given beside them
    "video_params": ("num_frames", "fps", "width", "height"),
    "extra_params": (
        "negative_prompt",
        "num_inference_steps",
        "guidance_scale",
        "seed",
        "num_frames",
        "fps",
        "width",
        "height",
        "fit",
        "extend",
    ),
}
ONLY_PICTURES = "This model makes videos from pictures only: send 'input_reference'."
PICTURES = ("input_reference", "image_reference")


def validated(fields: dict[str, Any]) -> CreateVideo:
    """Raises pydantic's ValidationError and Refused."""
    unpacked: dict[str, Any] = {}
    for name, members in reversed(BAGS.items()):
        bag = opened(fields.get(name))
        if isinstance(bag, dict):
            unpacked |= {member: bag[member] for member in members if bag.get(member) is not None}
    return CreateVideo.model_validate({**unpacked, **fields})


async def generation(context: Context, given: CreateVideo, owner: str) -> GenerationRequest:
    """Raises Refused, MediaError, DiskFull."""
    if given.input_reference is not None and given.image_reference is not None:
        raise Refused(400, "Send either 'input_reference' or 'image_reference'.", "image_reference", "invalid_value")
    models = context.jobs.models
    references = [(name, getattr(given, name)) for name in PICTURES if getattr(given, name) is not None]
    task = Task.I2V if references else Task.T2V
    _check_model(context, given.model, task)
    if task not in models:
        message = "No model served here makes videos from pictures." if references else ONLY_PICTURES
        raise Refused(400, message, references[0][0] if references else "input_reference", "model_not_found")
    own_rate = models[task].family.fps
    rate = given.fps or own_rate
    smooth = given.num_frames is None and rate > own_rate and context.jobs.rife_available
    size = given.size or (None if given.width or given.height else DEFAULT_SIZE)
    width, height = (int(side) for side in size.split("x")) if size else (given.width, given.height)
    image = None
    for name, reference in references:
        image = await _picture(context, reference, name, owner)
    return GenerationRequest(
        prompt=given.prompt,
        negative_prompt=given.negative_prompt,
        image=image,
        num_frames=given.num_frames,
        duration=given.seconds if given.num_frames is None else None,
        width=width,
        height=height,
        fit=given.fit or "auto",
        fps=rate,
        interpolate_fps=rate if smooth else None,
        num_inference_steps=given.num_inference_steps,
        guidance_scale=given.guidance_scale,
        seed=given.seed,
        extend=given.extend,
    )


def _check_model(context: Context, name: str | None, task: Task) -> None:
    """A served name stands for all that is served, as one name does at OpenAI: the picture decides which answers."""
    if name is None or answers.SORA.fullmatch(name):
        return
    served = context.jobs.models
    info = answers.named(served.values(), name)
    if info is None:
        names = ", ".join(f"'{one}'" for one in sorted({info.name for info in served.values()}))
        raise Refused(400, f"Invalid value: '{name[:100]}'. Supported values are: {names}.", "model", "invalid_value")
    if task is Task.T2V and task not in info.tasks:
        raise Refused(400, ONLY_PICTURES, "input_reference", "missing_required_parameter")


async def _picture(context: Context, reference: Any, field: str, owner: str) -> Media:
    if isinstance(reference, FileId):
        _, artifact = await run_in_threadpool(find, context, reference.id, owner, field)
        reference = await run_in_threadpool(context.artifacts.read, artifact)
    return await context.intake.picture(reference, field, owner=owner)
