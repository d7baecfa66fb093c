"""Turn the model's frames into the file's frames: trim or repeat, upscale, interpolate, resize."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, repeat
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from pipelines.events import StageName
from pipelines.frames import rife
from pipelines.frames.fit import Mode, fit, fit_box
from pipelines.plan import Plan, VideoPlan
from pipelines.video import resample_indices

T = TypeVar("T")


class Over(Protocol):
    """Yields `items` unchanged and counts each for the stage."""

    def __call__(self, stage: StageName, items: Iterable[T], /) -> Iterator[T]: ...


def uncounted(stage: StageName, items: Iterable[T], /) -> Iterator[T]:
    return iter(items)


def shown(plan: Plan) -> list[int]:
    """Indices of the generated frames that the file shows, in order, before any interpolation."""
    made, wanted = plan.sampling.total_frames, plan.video.num_frames
    if plan.video.pace is not None:
        return resample_indices(made, plan.video.pace, plan.video.fps, wanted)
    if wanted <= made:
        return list(range(wanted))
    return [round(k * (made - 1) / (wanted - 1)) for k in range(wanted)]


def pick(frames: Iterable[torch.Tensor], places: list[int]) -> Iterator[torch.Tensor]:
    """Yield the frames at `places`, which ascend and may repeat. Frames after the last place are not read."""
    times = Counter(places)
    for place, frame in enumerate(frames):
        yield from repeat(frame, times[place])
        if place == places[-1]:
            return


def enlarges(plan: Plan) -> bool:
    """Whether the video is larger than the model's frames."""
    width, height = plan.sampling.model_width, plan.sampling.model_height
    box = fit_box(width, height, plan.video.width, plan.video.height, _mode(plan.video))
    return box.scaled_width > width or box.scaled_height > height


def finish(
    chunks: Iterable[torch.Tensor],
    plan: Plan,
    net: Any | None,
    upscaler: Callable[[torch.Tensor], torch.Tensor] | None = None,
    over: Over = uncounted,
) -> Iterator[np.ndarray]:
    """Turn frames of the model's size (uint8 [T, 3, H, W]) into frames of the file's size, number and rate (uint8 [1,
    H, W, 3]).

    Without an upscaler, interpolation comes before resizing, because interpolation then costs less and a large video
    needs no more memory. An upscaler comes before interpolation, because it costs a hundred times as much and should
    see only the model's own frames. In that case interpolation holds two frames of the file's size in memory.
    """
    frames: Iterator[torch.Tensor] = (frame for chunk in chunks for frame in chunk)
    interpolated = plan.video.interpolate_fps is not None and net is not None
    if not interpolated or plan.video.pace is None:
        frames = pick(frames, shown(plan))
    if upscaler is not None:
        frames = over("enlarge", _each_once(frames, lambda frame: _sized(upscaler(frame), plan.video)))
    if interpolated:
        frames = over("interpolate", _interpolated(frames, plan, net))
    if upscaler is None:
        frames = _each_once(frames, lambda frame: _sized(frame, plan.video))
    yield from _each_once(frames, lambda frame: frame[None].permute(0, 2, 3, 1).contiguous().cpu().numpy())


def frame_counts(plan: Plan, interpolated: bool, enlarged: bool) -> dict[StageName, int]:
    """For each stage of `finish`, the number of frames that the stage outputs; for "write", the number of frames in the
    file."""
    source = len(shown(plan))
    if not interpolated:
        return {"write": source, **({"enlarge": source} if enlarged else {})}
    if plan.video.pace is not None:
        source = plan.sampling.total_frames
        places = rife.plan(source, plan.video.pace, plan.video.rate)[: plan.video.num_frames]
        source = min(source, places[-1][0] + (1 if places[-1][1] == 0 else 2))
    wanted = _interpolated_frames(plan)
    return {"interpolate": wanted, "write": wanted, **({"enlarge": source} if enlarged else {})}


def _interpolated_frames(plan: Plan) -> int:
    """The number of frames at `interpolate_fps`: enough for the requested duration or, without one, for the time that
    the frames last at their own rate."""
    if plan.video.pace is not None:
        return plan.video.num_frames
    shown_frames, own, rate = len(shown(plan)), plan.sampling.model_fps, plan.video.rate
    nearest = (2 * shown_frames * rate + own) // (2 * own)
    return max(nearest, len(rife.plan(shown_frames, own, rate)))


def _interpolated(frames: Iterator[torch.Tensor], plan: Plan, net: Any) -> Iterator[torch.Tensor]:
    """Interpolate the frames. The last frame is repeated for its own duration, because no frame follows it."""
    singles = (frame.float() / 255 for frame in frames)
    drawn = rife.interpolate(net, singles, plan.video.pace or plan.sampling.model_fps, plan.video.rate)
    wanted = _interpolated_frames(plan)
    new: torch.Tensor | None = None
    for made in islice(drawn, wanted):
        new, wanted = (made.clamp(0, 1) * 255).round().to(torch.uint8), wanted - 1
        yield new
    if new is not None:
        yield from repeat(new, wanted)


def _sized(frame: torch.Tensor, video: VideoPlan) -> torch.Tensor:
    return fit(frame[None], video.width, video.height, _mode(video))[0]


def _mode(video: VideoPlan) -> Mode:
    return "crop" if video.fit == "auto" else video.fit


def _each_once(frames: Iterable[torch.Tensor], work: Callable[[torch.Tensor], T]) -> Iterator[T]:
    """Yield `work(frame)` for each frame; a repeated frame is processed once."""
    last: tuple[torch.Tensor, T] | None = None
    for frame in frames:
        if last is None or last[0] is not frame:
            last = frame, work(frame)
        yield last[1]
