"""Videos longer than a model makes: further clips, each continuing from the last frame of the one before.

Knows: which checkpoint can continue, how many clips there are and what is asked of each. Pure: no torch, no files.
Does not know: sampling, pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipelines.models import FrameRule, ModelInfo
from pipelines.request import MAX_SEED, GenerationRequest, RequestError, Task

if TYPE_CHECKING:
    from pipelines.plan import Plan


@dataclass(frozen=True)
class Extension:
    """Further clips: who makes them, the frames of each, and what is said of it: asked, used, why."""

    by: ModelInfo
    lengths: tuple[int, ...]
    told: tuple[str, str, str]


def extension_of(
    model: ModelInfo, task: Task, size: tuple[int, int], frames: tuple[int, int], others: Sequence[ModelInfo]
) -> Extension:
    """What follows a clip of `size` that `model` makes; `frames`: those wanted in all, and those the first clip has.

    Raises RequestError when nothing here can continue it.
    """
    by, (wanted, made) = _extender(model, task, size, others), frames
    lengths = further_lengths(wanted - made, by.family.frames)
    clips = (made, *lengths)
    return Extension(
        by,
        lengths,
        (
            f"{wanted} frames",
            f"{len(clips)} clips of {', '.join(map(str, clips))} frames",
            f"{model.family.title} makes at most {model.family.frames.maximum}; each goes on from the last frame of the"
            " one before, in its colours, and what moves may change its way there",
        ),
    )


def _extender(model: ModelInfo, task: Task, size: tuple[int, int], others: Sequence[ModelInfo]) -> ModelInfo:
    """The model itself, or the first of `others` that can."""
    title, fps = model.family.title, model.family.fps
    if task is Task.V2V:
        raise RequestError(
            "extend", f"a clip is remade up to {title}'s {model.family.frames.maximum} frames, not beyond"
        )
    if task is Task.I2V:
        return model
    able = [one for one in others if Task.I2V in one.tasks]
    for one in able:
        if one.family.fps == fps and one.family.sizes.accepts(*size):
            return one
    there = ", ".join(one.family.title for one in able)
    raise RequestError(
        "extend",
        f"a video of {title} is continued by an image-to-video checkpoint that makes {size[0]}x{size[1]} at {fps}"
        f" frames a second; {f'{there} does not' if there else 'none is served'}",
    )


def further_lengths(missing: int, rule: FrameRule) -> tuple[int, ...]:
    """Frames of each further clip, so that `missing` are added in all; the first of each shows the joint again and is
    left out. As few clips as can be, and as equal: one of few frames begins with a jump."""
    made: list[int] = []
    while missing > 0:
        clips = -(-missing // (rule.maximum - 1))
        made.append(rule.next_valid(-(-missing // clips) + 1))
        missing -= made[-1] - 1
    return tuple(made)


def clip_plan(plan: Plan, number: int, request: GenerationRequest, extender: ModelInfo) -> Plan:
    """What is done for the clip of that number; 0 is the plan's own."""
    if number == 0:
        return plan
    family = extender.family
    dynamic = family.dynamic_cfg if request.use_dynamic_cfg is None else request.use_dynamic_cfg
    return replace(
        plan,
        model=extender.name,
        task=Task.I2V,
        model_frames=plan.extension[number - 1],
        source_frames=None,
        use_dynamic_cfg=dynamic and plan.guidance_scale > 1,
        scheduler=request.scheduler or family.scheduler,
        seed=(plan.seed + number) % (MAX_SEED + 1),
        max_tokens=extender.max_tokens,
    )
