"""Between the model's frames and the file's: what goes in is fitted, what comes out is trimmed or repeated,
enlarged, interpolated, fitted.

Knows: a plan's two sizes and two lengths. Does not know: models, sampling, files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, repeat
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from pipelines.events import StageName
from pipelines.frames import rife
from pipelines.frames.fit import Mode, fit, fit_box, fit_picture
from pipelines.plan import Plan
from pipelines.request import Task
from pipelines.video import Clip, resample_indices

T = TypeVar("T")


class Over(Protocol):
    """`items` unchanged, while each is counted for the stage."""

    def __call__(self, stage: StageName, items: Iterable[T], /) -> Iterator[T]: ...


def uncounted(stage: StageName, items: Iterable[T], /) -> Iterator[T]:
    return iter(items)


def fit_mode(plan: Plan, width: int, height: int, to_width: int, to_height: int) -> Any:
    """How a `width` x `height` picture is brought to the model's size: the plan's way; by itself it pads rather than
    lose more than half."""
    if plan.fit != "auto":
        return plan.fit
    return "crop" if fit_box(width, height, to_width, to_height, "crop").lost <= 0.5 else "pad"


def source_frames(plan: Plan, picture: Image.Image | None, clip: Clip | None) -> np.ndarray | None:
    """uint8 [T, H, W, 3] of the model's size: the picture, or the clip resampled to the model's rate."""
    size = (plan.model_width, plan.model_height)
    if plan.task is Task.I2V and picture is not None:
        return np.asarray(fit_picture(picture, *size, fit_mode(plan, *picture.size, *size)))[None]
    if plan.task is Task.V2V and clip is not None:
        picks = resample_indices(len(clip.frames), clip.fps, plan.model_fps, plan.source_frames or plan.model_frames)
        mode = fit_mode(plan, clip.width, clip.height, *size)
        frames = [_fit_frame(clip.frames[i], *size, mode) for i in dict.fromkeys(picks)]
        return np.stack(frames)[_positions(picks)]
    return None


def _fit_frame(frame: np.ndarray, width: int, height: int, mode: Any) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1).unsqueeze(0)
    return fit(tensor, width, height, mode)[0].permute(1, 2, 0).contiguous().numpy()


def _positions(picks: list[int]) -> list[int]:
    order = {pick: i for i, pick in enumerate(dict.fromkeys(picks))}
    return [order[p] for p in picks]


def shown(plan: Plan) -> list[int]:
    """Which of the frames that are made follow each other in the file, before any interpolation."""
    made, wanted = plan.made, plan.num_frames
    if plan.pace is not None:
        return resample_indices(made, plan.pace, plan.fps, wanted)
    if wanted <= made:
        return list(range(wanted))
    return [round(k * (made - 1) / (wanted - 1)) for k in range(wanted)]


def pick(frames: Iterable[torch.Tensor], places: list[int]) -> Iterator[torch.Tensor]:
    """The frames at `places`, which ascend and may repeat. Asks for none behind the last."""
    times = Counter(places)
    for place, frame in enumerate(frames):
        yield from repeat(frame, times[place])
        if place == places[-1]:
            return


def enlarges(plan: Plan) -> bool:
    """Whether the file wants more pixels than the model makes."""
    box = fit_box(plan.model_width, plan.model_height, plan.width, plan.height, _mode(plan))
    return box.scaled_width > plan.model_width or box.scaled_height > plan.model_height


def finish(
    chunks: Iterable[torch.Tensor],
    plan: Plan,
    net: Any | None,
    upscaler: Callable[[torch.Tensor], torch.Tensor] | None = None,
    over: Over = uncounted,
) -> Iterator[np.ndarray]:
    """uint8 [T, 3, H, W] of the model's size -> uint8 [1, H, W, 3] of the file's, at the file's length and rate.

    Interpolation comes before plain resizing: it costs the less, and large files need no more memory. An upscaler comes
    before both, for it costs a hundred times what interpolation does and sees only the model's own frames; two of the
    file's size are then held to interpolate between.
    """
    frames: Iterator[torch.Tensor] = (frame for chunk in chunks for frame in chunk)
    interpolated = plan.interpolate_fps is not None and net is not None
    if not interpolated or plan.pace is None:
        frames = pick(frames, shown(plan))
    if upscaler is not None:
        frames = over("enlarge", _each_once(frames, lambda frame: _sized(upscaler(frame), plan)))
    if interpolated:
        frames = over("interpolate", _interpolated(frames, plan, net))
    if upscaler is None:
        frames = _each_once(frames, lambda frame: _sized(frame, plan))
    yield from _each_once(frames, lambda frame: frame[None].permute(0, 2, 3, 1).contiguous().cpu().numpy())


def frame_counts(plan: Plan, interpolated: bool, enlarged: bool) -> dict[StageName, int]:
    """How many frames each stage of `finish` makes, and how many the file holds ("write")."""
    source = len(shown(plan))
    if not interpolated:
        return {"write": source, **({"enlarge": source} if enlarged else {})}
    if plan.pace is not None:
        source = plan.made
    if plan.pace is not None:
        places = rife.plan(source, plan.pace, plan.interpolate_fps or plan.fps)[: plan.num_frames]
        source = min(source, places[-1][0] + (1 if places[-1][1] == 0 else 2))
    wanted = _interpolated_frames(plan)
    return {"interpolate": wanted, "write": wanted, **({"enlarge": source} if enlarged else {})}


def _interpolated_frames(plan: Plan) -> int:
    """How many frames there are at `interpolate_fps`: those of the duration that was asked, else as many as last as
    long as what is shown does at its own rate."""
    if plan.pace is not None:
        return plan.num_frames
    shown_frames, own, rate = len(shown(plan)), plan.model_fps, plan.interpolate_fps or plan.fps
    nearest = (2 * shown_frames * rate + own) // (2 * own)
    return max(nearest, len(rife.plan(shown_frames, own, rate)))


def _interpolated(frames: Iterator[torch.Tensor], plan: Plan, net: Any) -> Iterator[torch.Tensor]:
    """Nothing can be drawn after the last frame, which stays for as long as it does without interpolation."""
    singles = (frame.float() / 255 for frame in frames)
    drawn = rife.interpolate(net, singles, plan.pace or plan.model_fps, plan.interpolate_fps or plan.fps)
    wanted = _interpolated_frames(plan)
    new: torch.Tensor | None = None
    for made in islice(drawn, wanted):
        new, wanted = (made.clamp(0, 1) * 255).round().to(torch.uint8), wanted - 1
        yield new
    if new is not None:
        yield from repeat(new, wanted)


def _sized(frame: torch.Tensor, plan: Plan) -> torch.Tensor:
    return fit(frame[None], plan.width, plan.height, _mode(plan))[0]


def _mode(plan: Plan) -> Mode:
    return "crop" if plan.fit == "auto" else plan.fit


def _each_once(frames: Iterable[torch.Tensor], work: Callable[[torch.Tensor], T]) -> Iterator[T]:
    """`work` of each; a frame that is repeated is worked on once."""
    last: tuple[torch.Tensor, T] | None = None
    for frame in frames:
        if last is None or last[0] is not frame:
            last = frame, work(frame)
        yield last[1]
