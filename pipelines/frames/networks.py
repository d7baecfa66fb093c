"""The networks that frames may pass on their way to the file: RIFE between them, an upscaler for each.

They are loaded when needed and stay on the device: they are small.

Knows: when a plan needs which, and what to say when there is none or the file is no such network.
Does not know: what they compute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipelines.errors import GenerationError
from pipelines.frames import rife, upscaler
from pipelines.frames.finish import enlarges
from pipelines.frames.upscaler import Upscaler
from pipelines.plan import Plan
from pipelines.request import RequestError


class Finishers:
    """`rife_weights`, `upscaler`: their files, None where there is none."""

    def __init__(self, device: torch.device, rife_weights: Path | None = None, upscaler: Path | None = None) -> None:
        self._device = device
        self.rife_weights = rife_weights
        self._upscaler_file = upscaler
        self._net: Any = None
        self._upscaler: Upscaler | None = None

    def interpolator(self, plan: Plan) -> Any:
        """Raises RequestError when there is none, GenerationError when the file is none."""
        if plan.interpolate_fps is None:
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
        """None where the file wants no more pixels than the model makes, and where plain resizing has to do.

        Raises GenerationError when the file is no upscaler.
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
