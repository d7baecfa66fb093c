"""Videos longer than a model's longest clip. Each further clip continues from the last frame of the clip before.

Pure: no torch, no files. Knows which checkpoint can continue a video, how many further clips the video needs, and how
long each clip is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.models import FrameRule, ModelInfo
from pipelines.request import RequestError, Task


@dataclass(frozen=True)
class Extension:
    """The further clips of a video. `by` is the checkpoint that generates these clips, `lengths` the number of frames
    of each clip. `note`: asked, used, reason."""

    by: ModelInfo
    lengths: tuple[int, ...]
    note: tuple[str, str, str]


def extension_of(
    model: ModelInfo, task: Task, size: tuple[int, int], frames: tuple[int, int], others: Sequence[ModelInfo]
) -> Extension:
    """How to extend a clip of `size` that `model` generates. `frames`: the number of frames wanted in total, and the
    number of frames in the first clip.

    Raises RequestError if neither the model nor one of `others` can continue the clip.
    """
    by, (wanted, first) = _extender(model, task, size, others), frames
    lengths = further_lengths(wanted - first, by.family.frames)
    clips = (first, *lengths)
    return Extension(
        by,
        lengths,
        (
            f"{wanted} frames",
            f"{len(clips)} clips of {', '.join(map(str, clips))} frames",
            f"{model.family.title} makes at most {model.family.frames.maximum}; each further clip continues from the"
            " last frame of the one before and keeps its colours, motion may change direction at the joint",
        ),
    )


def _extender(model: ModelInfo, task: Task, size: tuple[int, int], others: Sequence[ModelInfo]) -> ModelInfo:
    """The checkpoint for the further clips: the model itself, or the first of `others` that can continue the model's
    clip."""
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
    unfit = ", ".join(one.family.title for one in able)
    raise RequestError(
        "extend",
        f"a video of {title} is continued by an image-to-video checkpoint that makes {size[0]}x{size[1]} at {fps}"
        f" frames a second; {f'{unfit} does not' if unfit else 'none is served'}",
    )


def further_lengths(missing: int, rule: FrameRule) -> tuple[int, ...]:
    """The number of frames of each further clip. Together the further clips add at least `missing` frames. The first
    frame of each clip repeats the joint and is dropped. The clips are as few as possible and nearly equal in length,
    because a very short clip starts with a jump."""
    lengths: list[int] = []
    while missing > 0:
        clips = -(-missing // (rule.maximum - 1))
        lengths.append(rule.next_valid(-(-missing // clips) + 1))
        missing -= lengths[-1] - 1
    return tuple(lengths)
