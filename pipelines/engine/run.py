"""A video while it is made: its clips, one for most videos, and what there is of them so far.

Knows: what was saved of an earlier run, and how far it reaches. Does not know: how clips are sampled or decoded.
"""

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
from pipelines.plan import Plan
from pipelines.progress import Meter
from pipelines.request import GenerationRequest, Lora


@dataclass(frozen=True)
class Clip:
    """One sampling: who makes it, what is asked, and which adapters it takes."""

    number: int
    model: Model
    plan: Plan
    adapters: list[tuple[Lora, Adapter]]


@dataclass
class Film:
    """`keys`: of the clips that were begun, `latents`: of those that are clean, on the CPU and without padding,
    `joint`: the last frame of the latest, uint8 [3, H, W]. `net` interpolates, `tiled`: a
    joint was decoded by tiles."""

    request: GenerationRequest
    plan: Plan
    clips: list[Clip]
    clock: Clock
    net: Any
    upscaler: Upscaler | None
    saver: Saver
    meter: Meter
    saved: Saved | None = None
    keys: list[str] = field(default_factory=list)
    memory_said: str = ""  # the latest note on memory
    latents: list[torch.Tensor] = field(default_factory=list)
    joint: torch.Tensor | None = None
    tiled: bool = False
    decoded: int = 0  # calls of the VAE's decoder that led to `joint`

    def read(self, resume: bytes | None) -> Generator[Event, None, None]:
        """To go on with an earlier run's Checkpoint."""
        if resume is not None:
            try:
                self.saved = load(resume)
            except Unusable as e:
                yield _unused(e)

    def taken_up(self, number: int) -> Generator[Event, None, Saved | None]:
        """What there is of the clip of that number, whose key is the latest; None: it begins anew."""
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
        return manifest(self.request, self.plan, first, device, tiled, self.upscaler, extender, self.net)


def _unused(error: Unusable) -> Log:
    return Log(f"what was saved of this video is not used: {error}", "WARN")
