"""Between the model's frames and the file's: what goes in is fitted, what comes out is trimmed, fitted, interpolated.

Knows: a plan's two sizes and two lengths. Does not know: models, sampling, files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines import rife
from pipelines.plan import Plan
from pipelines.request import Task
from pipelines.upscale import fit, fit_box, fit_picture
from pipelines.video import Clip, resample_indices


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


def retime(chunks: Iterable[torch.Tensor], made: int, wanted: int) -> Iterator[torch.Tensor]:
    """The first `wanted` of `made` frames; or, when that is too few, all of them spread evenly over `wanted`.

    Stops asking for chunks as soon as it has what it needs.
    """
    if wanted <= made:
        times = Counter(range(wanted))
    else:
        times = Counter(round(k * (made - 1) / (wanted - 1)) for k in range(wanted))
    position, sent = 0, 0
    for chunk in chunks:
        repeats = torch.tensor([times[position + i] for i in range(len(chunk))], device=chunk.device)
        position += len(chunk)
        kept = chunk.repeat_interleave(repeats, dim=0)
        sent += len(kept)
        if len(kept):
            yield kept
        if sent >= wanted:
            return


def finish(chunks: Iterable[torch.Tensor], plan: Plan, net: Any | None) -> Iterator[np.ndarray]:
    """uint8 [T, 3, H, W] of the model's size -> uint8 [T, H, W, 3] of the file's, at the file's length and rate."""
    made = plan.source_frames or plan.model_frames
    frames = (fit(c, plan.width, plan.height, "pad" if plan.fit == "pad" else "crop") for c in
              retime(chunks, made, plan.num_frames))  # fmt: skip
    if plan.interpolate_fps is not None and net is not None:
        singles = (frame.float() / 255 for chunk in frames for frame in chunk)
        frames = (
            (new.clamp(0, 1) * 255).round().to(torch.uint8).unsqueeze(0)
            for new in rife.interpolate(net, singles, plan.model_fps, plan.interpolate_fps)
        )
    for chunk in frames:
        yield chunk.permute(0, 2, 3, 1).contiguous().cpu().numpy()
