"""Clips that continue each other -> one run of frames.

Knows: that a clip's first frame is the joint, the last frame of the clip before, made once more. Does not know: how
clips are sampled, which checkpoint made them.

The VAE gives the joint back a little brighter or darker, and a picture is never quite what a text made. So each clip is
shifted and stretched, channel by channel, until the mean and the spread of its first frame are the joint's. That takes
away the jump and the drift over many clips; what moves may still change its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from pipelines.frames.decode import decode

MOST = 1.25  # no clip's contrast is changed by more than this, or its inverse


def clip_frames(vae: Any, latents: torch.Tensor, joint: torch.Tensor | None) -> Iterator[torch.Tensor]:
    """uint8 frames [T, 3, H, W] of one clip; `joint` (uint8 [3, H, W], None for the first clip) itself is left out."""
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
    """What gives `shown` the mean and spread of `wanted`, both uint8 [3, H, W], and others the same change."""
    have, want = _spread(shown), _spread(wanted.to(shown.device))
    flat = have[1] < 1  # of 255: there is no contrast that could be judged
    gain = torch.where(flat, 1.0, want[1] / have[1].clamp(min=1)).clamp(1 / MOST, MOST)
    return lambda frames: ((frames.float() - have[0]) * gain + want[0]).round().clamp(0, 255).to(torch.uint8)


def _spread(frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values = frame.float()
    return values.mean((1, 2), keepdim=True), values.std((1, 2), keepdim=True)
