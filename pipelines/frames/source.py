"""Bring the input image or clip to the size and rate that the model samples at."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from pipelines.frames.fit import Mode, fit, fit_box, fit_picture
from pipelines.plan import SamplingPlan
from pipelines.request import Task
from pipelines.resolve import CROP_LIMIT
from pipelines.video import Clip, resample_indices


def source_frames(plan: SamplingPlan, picture: Image.Image | None, clip: Clip | None) -> np.ndarray | None:
    """uint8 [T, H, W, 3] of the model's size: the image, or the clip resampled to the model's rate."""
    size = (plan.model_width, plan.model_height)
    if plan.task is Task.I2V and picture is not None:
        return np.asarray(fit_picture(picture, *size, _mode(plan, *picture.size)))[None]
    if plan.task is Task.V2V and clip is not None:
        picks = resample_indices(len(clip.frames), clip.fps, plan.model_fps, plan.source_frames or plan.model_frames)
        mode = _mode(plan, clip.width, clip.height)
        once = {pick: place for place, pick in enumerate(dict.fromkeys(picks))}  # a repeated frame is resized once
        frames = np.stack([_fitted(clip.frames[pick], *size, mode) for pick in once])
        return frames[[once[pick] for pick in picks]]
    return None


def _mode(plan: SamplingPlan, width: int, height: int) -> Mode:
    """How to fit a `width` x `height` image to the model's size."""
    if plan.source_fit is not None and plan.source_fit != "auto":
        return plan.source_fit
    lost = fit_box(width, height, plan.model_width, plan.model_height, "crop").lost
    return "crop" if lost <= CROP_LIMIT else "pad"


def _fitted(frame: np.ndarray, width: int, height: int, mode: Mode) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1).unsqueeze(0)
    return fit(tensor, width, height, mode)[0].permute(1, 2, 0).contiguous().numpy()
