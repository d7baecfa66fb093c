"""resolve(request, model) -> Plan: adapt a request to the model, with a note for each change.

Pure: no torch, no files, no clock. Knows the model's table, but no devices, weights or vendors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.extend import extension_of
from pipelines.models import ModelInfo
from pipelines.plan import Extender, Note, Plan, SamplingPlan, Source, VideoPlan
from pipelines.ranges import MAX_FRAMES, MAX_SIDE, MIN_SIDE, check_ranges, spoken
from pipelines.request import Fit, GenerationRequest, RequestError, Task

GIF_MAX_FPS = 50  # GIF delays are hundredths of a second
FITTED = {"crop": "centre-cropped to fit", "pad": "padded with black to fit", "stretch": "stretched to fit"}
CROP_LIMIT = 0.5  # `fit="auto"` pads if cropping would remove more than this share of the image


def _even(side: float) -> int:
    return max(MIN_SIDE, round(side / 2) * 2)


def _too_large(name: str, side: int, other: str, follows: int) -> RequestError:
    return RequestError(name, f"{side} makes the {other} {follows} in this shape; it must be {spoken(other)}")


def _size(
    request: GenerationRequest, model: ModelInfo, source: Source | None, note: Callable[..., None]
) -> tuple[int, int, int, int, Fit]:
    """Width and height of the file, width and height of the model's frames, and how to fit these frames to the file's
    size."""
    rule = model.family.sizes
    shape_w, shape_h = (source.width, source.height) if source else rule.default
    match request.width, request.height:
        case None, None:
            asked_w, asked_h = rule.nearest(shape_w, shape_h)
        case None, int(asked_h):
            asked_w = _even(asked_h * shape_w / shape_h)
            if asked_w > MAX_SIDE:
                raise _too_large("height", asked_h, "width", asked_w)
        case int(asked_w), None:
            asked_h = _even(asked_w * shape_h / shape_w)
            if asked_h > MAX_SIDE:
                raise _too_large("width", asked_w, "height", asked_h)
        case int(asked_w), int(asked_h):
            pass
        case _:
            raise RequestError("width", "width and height must be integers")
    if request.output_format == "mp4" and (asked_w % 2 or asked_h % 2):
        even = (asked_w + asked_w % 2, asked_h + asked_h % 2)
        note(
            "size",
            f"{asked_w}x{asked_h}",
            f"{even[0]}x{even[1]}",
            f"MP4 needs an even width and height, such as {even[0]}x{even[1]}; WebM and GIF can have odd sizes",
        )
        asked_w, asked_h = even
    if rule.accepts(asked_w, asked_h):
        return asked_w, asked_h, asked_w, asked_h, request.fit
    model_w, model_h = rule.nearest(asked_w, asked_h)
    fit = request.fit
    ratio = (asked_w / asked_h) / (model_w / model_h)
    lost = 1 - min(ratio, 1 / ratio)
    if fit == "auto":
        fit = "crop" if lost <= CROP_LIMIT else "pad"
    how = "resized" if lost < 0.01 else FITTED[fit]
    note(
        "size",
        f"{asked_w}x{asked_h}",
        f"{model_w}x{model_h}, {how}",
        f"{model.family.title} makes {', '.join(f'{w}x{h}' for w, h in rule.native)}"
        + (f" and short side {rule.short_side}, long side up to {rule.long_side}" if rule.short_side else ""),
    )
    return asked_w, asked_h, model_w, model_h, fit


def _timing(
    seconds: float, rate: int, interpolated: bool, extend: bool, model: ModelInfo, note: Callable[..., None]
) -> tuple[int, int, float]:
    """For a file that lasts `seconds`: the number of its frames, the number of the model's frames that it shows, and
    how many of the model's frames pass in one second of the file."""
    family = model.family
    length = max(1, round(seconds * rate))
    if length > MAX_FRAMES:
        raise RequestError(
            "duration",
            f"{seconds:g} s at {rate} frames a second are {length} frames, at most {MAX_FRAMES} are possible",
        )
    shown = -(-(length - 1) * family.fps // rate) + 1
    pace = float(family.fps)
    most = family.frames.maximum
    if shown > most and not extend:
        note(
            "duration",
            f"{seconds:g} s",
            f"{most / family.fps:.3g} s of motion, slowed down to fill it",
            f"{family.title} makes at most {most} frames, {family.fps} a second",
        )
        shown, pace = most, (most - 1) / (length - 1) * rate
    if rate != family.fps and not interpolated:
        note(
            "fps",
            rate,
            f"the model's frames, {'some repeated' if rate > family.fps else 'some left out'}",
            f"{family.title} makes {family.fps} a second and no frames between them are drawn",
        )
    return length, shown, pace


def _frames(
    request: GenerationRequest, model: ModelInfo, source: Source | None, shown: int | None, note: Callable[..., None]
) -> tuple[int, int, int | None]:
    """The number of frames in the file, the number that the model generates, and the number taken from the source clip
    (video-to-video).

    `shown`: how many of the model's frames a file of the requested duration shows.
    """
    rule = model.family.frames
    asked = request.num_frames if shown is None else shown
    if asked is None and request.task is Task.V2V and source is not None and source.fps:
        in_model_time = max(1, math.floor((source.frames - 1) * model.family.fps / source.fps + 1e-6) + 1)
        asked = min(in_model_time, rule.maximum)
        if in_model_time > rule.maximum:
            note("num_frames", in_model_time, asked, f"{model.family.title} makes at most {rule.maximum} frames")
    wanted = rule.default if asked is None else asked
    makes = rule.next_valid(wanted)
    if shown is None and makes != wanted and not (request.extend and wanted > makes):
        note(
            "num_frames",
            wanted,
            f"{makes} made, the first {wanted} kept" if makes > wanted else f"{makes} made, some repeated",
            f"{model.family.title} makes {rule.step}k+1 frames"
            if makes > wanted
            else f"{model.family.title} makes at most {rule.maximum}",
        )
    if request.task is not Task.V2V:
        return wanted, makes, None
    if model.latent_patch_frames == 1:
        return wanted, makes, makes
    # NOTE: the 1.5 pipelines take only videos with an even number of latent frames, which means 8k+5 frames
    return wanted, makes, max(1, math.ceil((min(wanted, makes) - 5) / 8)) * 8 + 5


def resolve(
    request: GenerationRequest,
    model: ModelInfo,
    *,
    source: Source | None = None,
    count_tokens: Callable[[str], int] | None = None,
    others: Sequence[ModelInfo] = (),
) -> Plan:
    """The plan for `request` on `model`. The request must have a seed (`draw_seed`).

    `source` describes the input image or clip; without `source` the plan is preliminary, because the plan depends on
    the size and length of the image or clip. `others`: the other models that are served, which might extend this
    model's clip. Raises RequestError for a value outside the limits and for a task that the model does not support. If
    `request.strict` is set, the first change that the request needs also raises RequestError.
    """
    check_ranges(request)
    family = model.family
    if request.task not in model.tasks:
        can = " and ".join(sorted(model.tasks))
        raise RequestError("model", f"{family.title} does {can}, not {request.task}")
    if request.seed is None:
        raise RequestError("seed", "must be drawn before planning")
    notes: list[Note] = []

    def note(name: str, asked: Any, used: Any, reason: str) -> None:
        if request.strict:
            raise RequestError(name, f"{asked} is not possible as asked: {reason}")
        notes.append(Note(name, asked, used, reason))

    if request.prompt_note is not None:
        if request.asked_prompt is not None:
            notes.append(Note("prompt", request.asked_prompt, request.prompt, request.prompt_note))
        else:
            notes.append(Note("prompt_help", "asked for", "the prompt as it was", request.prompt_note))
    notes += source.notes if source is not None else ()
    width, height, model_width, model_height, fit = _size(request, model, source, note)
    interpolate = request.interpolate_fps if request.interpolate_fps != family.fps else None
    fps = family.fps if request.interpolate_fps else request.fps or family.fps
    rate = interpolate or fps
    length = shown = pace = None
    if request.duration is not None:
        length, shown, pace = _timing(
            request.duration, rate, interpolate is not None, bool(request.extend), model, note
        )
    num_frames, model_frames, source_frames = _frames(request, model, source, shown, note)
    further = None
    if request.extend and num_frames > model_frames:
        further = extension_of(model, request.task, (model_width, model_height), (num_frames, model_frames), others)
        notes.append(Note("extend", *further.note))
    steps = request.num_inference_steps or family.steps
    strength = None
    if request.task is Task.V2V:
        strength = 0.8 if request.strength is None else request.strength
        if int(steps * strength) < 1:
            note("strength", strength, round(1 / steps, 4), f"strength x {steps} steps must leave at least one step")
            strength = math.nextafter(1 / steps, 1.0)
    tokens = None
    if count_tokens is not None:
        tokens = count_tokens(request.prompt)
        if tokens > model.max_tokens:
            note("prompt", f"{tokens} tokens", f"the first {model.max_tokens}", "the text encoder reads no more")
    guidance = family.guidance_scale if request.guidance_scale is None else request.guidance_scale
    if guidance <= 1 and request.negative_prompt.strip():
        note("negative_prompt", "given", "ignored", "guidance_scale of 1 or less switches guidance off")
    if request.output_format == "gif" and rate > GIF_MAX_FPS:
        raise RequestError("fps", f"a GIF plays at most {GIF_MAX_FPS} frames a second, got {rate}")
    extender = None if further is None else further.by
    return Plan(
        SamplingPlan(
            model=model.name,
            task=request.task,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            model_frames=model_frames,
            model_width=model_width,
            model_height=model_height,
            model_fps=family.fps,
            source=media.sha256 if (media := request.image or request.video) else None,
            source_fit=fit if media else None,
            source_frames=source_frames,
            num_inference_steps=steps,
            guidance_scale=guidance,
            use_dynamic_cfg=_dynamic_cfg(request, model, guidance),
            scheduler=request.scheduler or family.scheduler,
            strength=strength,
            seed=request.seed,
            max_tokens=model.max_tokens,
            loras=request.loras,
            extender=None if extender is None else _extender(request, extender, guidance),
            extension=() if further is None else further.lengths,
        ),
        VideoPlan(
            num_frames=num_frames if length is None else length,
            width=width,
            height=height,
            fit=fit,
            fps=fps,
            interpolate_fps=interpolate,
            output_format=request.output_format,
            pace=pace,
        ),
        tuple(notes),
        tokens,
    )


def _extender(request: GenerationRequest, model: ModelInfo, guidance: float) -> Extender:
    dynamic = _dynamic_cfg(request, model, guidance)
    return Extender(model.name, dynamic, request.scheduler or model.family.scheduler, model.max_tokens)


def _dynamic_cfg(request: GenerationRequest, model: ModelInfo, guidance: float) -> bool:
    asked = request.use_dynamic_cfg
    return guidance > 1 and (model.family.dynamic_cfg if asked is None else asked)
