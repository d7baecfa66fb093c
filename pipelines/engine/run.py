"""The state of one run: the clips of its video (most videos have a single clip) and their latents so far."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.engine.clock import Clock
from pipelines.engine.loader import Model
from pipelines.engine.memory import Rung
from pipelines.engine.provenance import manifest
from pipelines.engine.snapshot import Saved, Saver, Unusable, load
from pipelines.events import Event, Log
from pipelines.frames.upscaler import Upscaler
from pipelines.lora.adapters import Adapter
from pipelines.plan import Plan, SamplingPlan
from pipelines.progress import Meter
from pipelines.request import GenerationRequest, Lora


@dataclass(frozen=True)
class Clip:
    """One sampling: its model, its plan, and the adapters to attach."""

    number: int
    model: Model
    plan: SamplingPlan
    adapters: list[tuple[Lora, Adapter]]


@dataclass
class Run:
    """`interpolator` and `upscaler` are None if the plan does not need them. `keys` holds the keys of the clips begun
    so far. `latents` holds the latents of the clips sampled so far, on the CPU and without padding. `joint` is the last
    frame of the latest clip, uint8 [3, H, W]. `tiled`: whether a joint was decoded by tiles."""

    request: GenerationRequest
    plan: Plan
    clips: list[Clip]
    clock: Clock
    interpolator: Any
    upscaler: Upscaler | None
    saver: Saver
    meter: Meter
    saved: Saved | None = None
    keys: list[str] = field(default_factory=list)
    memory_note: str = ""  # the note that was logged last
    latents: list[torch.Tensor] = field(default_factory=list)
    joint: torch.Tensor | None = None
    tiled: bool = False
    decoded: int = 0  # calls of the VAE's decoder made to get the joints

    def read(self, resume: bytes | None) -> Generator[Event, None, None]:
        """Read an earlier run's snapshot; an unusable snapshot is logged and ignored."""
        if resume is not None:
            try:
                self.saved = load(resume)
            except Unusable as e:
                yield _unused(e)

    def resumed(self, number: int) -> Generator[Event, None, Saved | None]:
        """The saved snapshot if it holds latents of clip `number`, else None. The last entry of `keys` must be the key
        of that clip."""
        if self.saved is None or number >= len(self.saved.keys):
            return None
        try:
            self.saved.check(number, self.keys[-1])
        except Unusable as e:
            self.saved = None
            yield _unused(e)
            return None
        if number == len(self.saved.finished):
            steps = self.saved.steps
            done = number * steps + self.saved.sampling.step
            yield Log(f"resumed after step {done} of {len(self.clips) * steps}")
        return self.saved

    def manifest(self, device: torch.device, rung: Rung) -> dict[str, Any]:
        first, last = self.clips[0].model, self.clips[-1].model
        extender = None if last is first else last
        tiled = self.tiled or rung.tiling
        return manifest(self.request, self.plan, first, device, tiled, self.upscaler, extender, self.interpolator)


def _unused(error: Unusable) -> Log:
    return Log(f"the saved latents of this video are not used: {error}", "WARN")
