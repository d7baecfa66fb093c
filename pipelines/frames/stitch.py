"""Join clips that continue each other into one sequence of frames.

The first frame of a further clip repeats the joint, which is the last frame of the clip before. The VAE decodes that
first frame a little brighter or darker than the joint, so the values of each clip are shifted and scaled, channel by
channel, until its first frame has the mean and spread of the joint. This removes the jump between clips and the drift
over many clips. Motion may still change direction at the joint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from pipelines.frames.decode import decode

MOST = 1.25  # the largest factor by which a clip's contrast is raised or lowered


def clip_frames(vae: Any, latents: torch.Tensor, joint: torch.Tensor | None) -> Iterator[torch.Tensor]:
    """uint8 frames [T, 3, H, W] of one clip without the repeated `joint` (uint8 [3, H, W], None for the first clip)."""
    match: Callable[[torch.Tensor], torch.Tensor] | None = None
    for chunk in decode(vae, latents):
        frames = chunk
        if joint is not None:
            if match is None:
                match, frames = matching(chunk[0], joint), chunk[1:]
            frames = match(frames)
        if len(frames):
            yield frames


def matching(shown: torch.Tensor, wanted: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that changes frames: it gives the frame `shown` the mean and spread of the frame `wanted`. `shown` and
    `wanted` are uint8 [3, H, W]."""
    have, want = _spread(shown), _spread(wanted.to(shown.device))
    flat = have[1] < 1  # of 255; a frame with less contrast is not scaled
    gain = torch.where(flat, 1.0, want[1] / have[1].clamp(min=1)).clamp(1 / MOST, MOST)
    return lambda frames: ((frames.float() - have[0]) * gain + want[0]).round().clamp(0, 255).to(torch.uint8)


def _spread(frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values = frame.float()
    return values.mean((1, 2), keepdim=True), values.std((1, 2), keepdim=True)
