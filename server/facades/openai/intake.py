"""Converts OpenAI's fields to a GenerationRequest: fetches images and LoRAs, checks model names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool

from pipelines.ranges import MAX_FPS, MIN_SECONDS
from pipelines.request import GenerationRequest, Lora, Media, Task
from server.context import Context
from server.facades.kit.fields import unknown
from server.facades.openai import answers
from server.facades.openai.errors import Refused
from server.facades.openai.files import find
from server.facades.openai.models import DEFAULT_SIZE, IGNORED, CreateVideo, FileId, opened
from weights.catalog import published

BAGS = {  # vLLM-Omni's nested objects -> the fields to use; a field at the top level wins over a nested field
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
        "lora",
        "enable_frame_interpolation",
        "frame_interpolation_exp",
    ),
}
ONLY_PICTURES = "This model makes videos from pictures only: send 'input_reference'."
PICTURES = ("input_reference", "image_reference")
DRAWN = "enable_frame_interpolation"


def validated(fields: dict[str, Any]) -> CreateVideo:
    """Raises pydantic's ValidationError and Refused."""
    unpacked: dict[str, Any] = {}
    for name, members in reversed(BAGS.items()):
        bag = opened(fields.get(name))
        if isinstance(bag, dict):
            unpacked |= {member: bag[member] for member in members if bag.get(member) is not None}
    return CreateVideo.model_validate({**unpacked, **fields})


def notes(context: Context, fields: dict[str, Any], given: CreateVideo) -> list[str]:
    """Returns a note for each field of the request that has no effect, with the reason."""
    sent = dict(fields)
    for bag, members in BAGS.items():
        held = opened(fields.get(bag))
        if isinstance(held, dict):
            sent |= {f"{bag}.{name}": value for name, value in held.items() if name not in members}
    said = []
    for name, value in sent.items():
        usual, why = IGNORED.get(name.rpartition(".")[2], (None, ""))
        plain = str(value).lower() if isinstance(value, bool | int | float | str) else value
        if why and value is not None and plain != str(usual).lower():
            said.append(f"{name}: ignored ({why})")
    if given.enable_frame_interpolation and not context.served.rife_available:
        said.append(f"{DRAWN}: ignored (no network that draws frames is installed)")
    said += [f"{name}: ignored ({why})" for name, why in _overruled(given)]
    others = [name for name in sent if name.rpartition(".")[2] not in IGNORED]
    return [*said, *unknown(others, CreateVideo.model_fields)]


def _overruled(given: CreateVideo) -> Iterator[tuple[str, str]]:
    """Fields of the request that another field overrides, each with a reason."""
    set_here = given.model_fields_set
    for name, side in zip(("width", "height"), given.size.split("x") if given.size else (), strict=False):
        if getattr(given, name) not in (None, int(side)):
            yield name, "size says it"
    if given.num_frames is not None and "seconds" in set_here:
        yield "seconds", "num_frames says it"
    if not given.enable_frame_interpolation and "frame_interpolation_exp" in set_here:
        yield "frame_interpolation_exp", f"{DRAWN} is not true"


async def generation(context: Context, given: CreateVideo, owner: str) -> GenerationRequest:
    """Raises Refused, MediaError, RequestError, DiskFull."""
    if given.input_reference is not None and given.image_reference is not None:
        raise Refused(400, "Send either 'input_reference' or 'image_reference'.", "image_reference", "invalid_value")
    models = context.served.by_task
    references = [(name, getattr(given, name)) for name in PICTURES if getattr(given, name) is not None]
    task = Task.I2V if references else Task.T2V
    _check_model(context, given.model, task)
    if task not in models:
        message = "No model served here makes videos from pictures." if references else ONLY_PICTURES
        raise Refused(400, message, references[0][0] if references else "input_reference", "model_not_found")
    own_rate = models[task].family.fps
    rate = given.fps or own_rate
    frames, seconds = given.num_frames, float(given.seconds) if given.num_frames is None else None
    drawn_rate = rate if frames is None and rate > own_rate and context.served.rife_available else None
    if given.enable_frame_interpolation and context.served.rife_available:
        drawn_rate = rate * 2**given.frame_interpolation_exp
        if drawn_rate > MAX_FPS:
            message = f"{rate} frames a second become {drawn_rate}, at most {MAX_FPS} are possible"
            raise Refused(400, f"Invalid '{DRAWN}': {message}", DRAWN, "invalid_value")
        if frames is not None and rate != own_rate:  # the video keeps the duration that it has without interpolation
            seconds = max(MIN_SECONDS, frames / rate)
            frames = None
    size = given.size or (None if given.width or given.height else DEFAULT_SIZE)
    width, height = (int(side) for side in size.split("x")) if size else (given.width, given.height)
    image = None
    for name, reference in references:
        image = await _picture(context, reference, name, owner)
    return GenerationRequest(
        prompt=given.prompt,
        negative_prompt=given.negative_prompt,
        image=image,
        num_frames=frames,
        duration=seconds,
        width=width,
        height=height,
        fit=given.fit or "auto",
        fps=rate,
        interpolate_fps=drawn_rate,
        num_inference_steps=given.num_inference_steps,
        guidance_scale=given.guidance_scale,
        seed=given.seed,
        loras=await _loras(context, given, task, owner),
        extend=given.extend,
    )


async def _loras(context: Context, given: CreateVideo, task: Task, owner: str) -> tuple[Lora, ...]:
    if given.lora is None:
        return ()
    return (await context.loras.take(given.lora.path, given.lora.scale, task, field="lora", owner=owner),)


def _check_model(context: Context, name: str | None, task: Task) -> None:
    """Accepts any served model and any published checkpoint. As at OpenAI, each name covers text-to-video and
    image-to-video. Which served model is used depends on whether the request has an image."""
    if name is None or answers.SORA.fullmatch(name):
        return
    served = context.served.by_task
    info, checkpoint = answers.named(served.values(), name), published(name)
    if info is None and checkpoint is None:
        known = (*sorted({info.name for info in served.values()}), *answers.LISTED_SORA[:2])
        names = ", ".join(f"'{one}'" for one in known)
        text = f"Invalid value: '{name[:100]}'. Supported values are: {names}, and the names of all CogVideoX models."
        raise Refused(400, text, "model", "invalid_value")
    tasks = info.tasks if info is not None else checkpoint.tasks if checkpoint is not None else ()
    if task is Task.T2V and task not in tasks:
        raise Refused(400, ONLY_PICTURES, "input_reference", "missing_required_parameter")


async def _picture(context: Context, reference: Any, field: str, owner: str) -> Media:
    if isinstance(reference, FileId):
        _, artifact = await run_in_threadpool(find, context, reference.id, owner, field)
        reference = await run_in_threadpool(context.artifacts.read, artifact)
    return await context.intake.picture(reference, field, owner=owner)
