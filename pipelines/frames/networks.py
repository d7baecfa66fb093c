"""The networks that finish frames: RIFE interpolates between frames, and an upscaler enlarges each frame.

The networks are loaded when a plan first needs them. They stay on the device because they are small.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipelines.errors import GenerationError
from pipelines.frames import rife, upscaler
from pipelines.frames.finish import enlarges
from pipelines.frames.upscaler import Upscaler
from pipelines.plan import Note, Plan
from pipelines.request import RequestError
from weights.interpolation import SHIPPED


class Networks:
    """`rife_weights` and `upscaler` are the files to load, or None."""

    def __init__(self, device: torch.device, rife_weights: Path | None = None, upscaler: Path | None = None) -> None:
        self._device = device
        self.rife_weights = rife_weights
        self._upscaler_file = upscaler
        self._net: Any = None
        self._upscaler: Upscaler | None = None

    def interpolator(self, plan: Plan) -> Any:
        """The network that interpolates, or None for a plan without interpolation. Raises RequestError if no file is
        set, and GenerationError if the file is not usable."""
        if plan.video.interpolate_fps is None:
            return None
        if self.rife_weights is None:
            raise RequestError("interpolate_fps", "frame interpolation needs RIFE weights, and none are installed")
        if self._net is None:
            try:
                self._net = rife.load(self.rife_weights, self._device)
            except (OSError, ValueError, RuntimeError) as e:
                raise GenerationError("model_error", f"RIFE weights {self.rife_weights.name}: {e}") from e
        return self._net

    def upscaler(self, plan: Plan) -> Upscaler | None:
        """The upscaler, or None if the video is not larger than the model's frames or no upscaler is set. Without an
        upscaler, frames are only resized.

        Raises GenerationError when the file is not an upscaler.
        """
        if self._upscaler_file is None or not enlarges(plan):
            return None
        if self._upscaler is None:
            try:
                self._upscaler = upscaler.load(self._upscaler_file, self._device)
            except OSError as e:
                what = f"{self._upscaler_file.name} cannot be read: {e.strerror or e}"
                raise GenerationError("model_error", f"upscaler: {what}") from e
            except (ValueError, RuntimeError) as e:
                raise GenerationError("model_error", f"upscaler: {e}") from e
        return self._upscaler

    def notes(self, plan: Plan) -> tuple[Note, ...]:
        """A note if the small network that ships with this project draws frames of this video."""
        own, rate = plan.video.pace or plan.sampling.model_fps, plan.video.interpolate_fps
        if rate is None or self.rife_weights != SHIPPED or not rife.draws(own, rate):
            return ()
        return (
            Note(
                "interpolate_fps",
                rate,
                "frames drawn by the small network that ships with this project",
                "RIFE's own network gives better results: import its flownet file with `cogvideox weights import`",
            ),
        )
