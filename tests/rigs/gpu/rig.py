"""Provides the GPU tests with models on a device, engines with a model in memory or the tiny checkpoints, and plans.

Without imageio-ffmpeg, the videos are empty files. The helpers accept a device, so that they can be tested on a CPU.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipelines.engine.loader import Loader, Model
from pipelines.engine_port import EngineSpec, MemorySetting
from pipelines.errors import GenerationCancelled
from pipelines.plan import Plan, Source
from pipelines.request import GenerationRequest, Media, SchedulerName, Task
from pipelines.resolve import resolve
from tests.rigs import checkpoints

HAS_FFMPEG = importlib.util.find_spec("imageio_ffmpeg") is not None


class InMemory:
    """A loader that always returns the given model."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def load(self, folder: Path, name: str | None = None) -> Model:
        return self.model


class Counter:
    """Replaces `VideoWriter` without ffmpeg: accepts frames, leaves an empty file."""

    def __init__(self, path: Path, *_: Any) -> None:
        self.path = Path(path)

    def write(self, frames: NDArray[np.uint8]) -> None:
        assert frames.dtype == np.uint8

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(b"")


def generate_module(patch: pytest.MonkeyPatch, encoding: bool = HAS_FFMPEG) -> Any:
    """Returns the module `pipelines.engine.generate`; without `encoding`, its engine writes empty files as videos."""
    if not HAS_FFMPEG and "imageio_ffmpeg" not in sys.modules:
        sys.modules["imageio_ffmpeg"] = types.ModuleType("imageio_ffmpeg")  # only writing uses it
    module = importlib.import_module("pipelines.engine.generate")
    if not encoding:
        patch.setattr("pipelines.engine.deliver.VideoWriter", Counter)
    return module


def engine(module: Any, model: Model, device: torch.device, memory: MemorySetting = "auto") -> Any:
    made = module.Engine(EngineSpec({"it": Path("nowhere")}, str(device), memory))
    made.loader = InMemory(model)
    return made


def run(engine: Any, request: GenerationRequest, cancelled: Callable[[], bool] = lambda: False) -> list[Any]:
    return list(engine.run(request, "it", cancelled))


def in_own_dtypes(loader: Loader) -> Loader:
    """On a GPU, makes the loader use the published dtypes for tiny checkpoints, which it does by itself only for
    full-size ones."""

    def dtype_for(info: Any) -> torch.dtype:
        return torch.float16 if info.name.startswith("2b") else torch.bfloat16

    if loader.device.type != "cpu":
        loader.dtype_for = dtype_for  # type: ignore[method-assign]
    return loader


def served(
    module: Any, device: torch.device, kinds: Sequence[checkpoints.Kind], memory: MemorySetting = "auto", **options: Any
) -> Any:
    """An engine with the tiny checkpoints, in the published dtypes."""
    made = module.Engine(EngineSpec({kind: checkpoints.cached(kind) for kind in kinds}, str(device), memory, **options))
    in_own_dtypes(made.loader)
    return made


@dataclass(frozen=True)
class Made:
    """An engine's output: frames as uint8 [T, H, W, 3] before encoding, the latents of the last clip, the log messages,
    and the Finished event."""

    frames: NDArray[np.uint8]
    latents: torch.Tensor
    said: list[str]
    finished: Any


def made(module: Any, engine: Any, request: GenerationRequest, name: str) -> Made:
    from pipelines.engine.snapshot import load

    kept: list[NDArray[np.uint8]] = []

    class Keeper(Counter):
        def __init__(self, path: Path, *_: Any) -> None:
            super().__init__(path)
            kept.clear()  # after running out of memory, decoding starts again

        def write(self, frames: NDArray[np.uint8]) -> None:
            super().write(frames)
            kept.append(frames.copy())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.engine.deliver.VideoWriter", Keeper)
        events = list(engine.run(request, name))
    saved = [event.data for event in events if type(event).__name__ == "Snapshot"]
    said = [event.message for event in events if type(event).__name__ == "Log"]
    return Made(np.concatenate(kept), load(saved[-1]).sampling.latents, said, events[-1])


def plan_for(
    model: Model, task: Task, scheduler: SchedulerName | None = None, steps: int = 3, **more: Any
) -> tuple[Plan, NDArray[np.uint8] | None]:
    """A plan at the model's own size, and the source frames of its task, if any."""
    width, height = model.info.family.sizes.default
    media = Media("unused", "0")
    request = GenerationRequest(
        "a red circle moves left",
        negative_prompt="blurry",
        image=media if task is Task.I2V else None,
        video=media if task is Task.V2V else None,
        num_inference_steps=steps,
        scheduler=scheduler,
        seed=7,
        **more,
    )
    source = None if task is Task.T2V else Source(width, height, 21 if task is Task.V2V else 1, 8.0)
    plan = resolve(request, model.info, source=source)
    return plan, None if task is Task.T2V else moving_picture(plan.sampling.source_frames or 1, width, height)


def moving_picture(frames: int, width: int, height: int) -> NDArray[np.uint8]:
    """A uint8 clip [T, H, W, 3] of a bright square that moves right over a gradient."""
    clip = np.zeros((frames, height, width, 3), np.uint8)
    clip[..., 1] = np.linspace(0, 200, width, dtype=np.uint8)
    for i in range(frames):
        clip[i, 8:24, 4 + i : 20 + i, 0] = 255
    return clip


def cuda_bytes(device: torch.device) -> int:
    """Bytes allocated on the device after garbage collection."""
    gc.collect()
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device)


def cancel_after(steps: int, seen: list[int]) -> Callable[[], bool]:
    """A `cancelled` callback that returns True once `seen` holds `steps` steps."""
    return lambda: len(seen) >= steps


def until_cancelled(module: Any, engine: Any, request: GenerationRequest, steps: int) -> list[int]:
    """Cancels the run after `steps` steps; returns the steps reported before the run ended."""
    seen: list[int] = []
    events: Iterator[Any] = engine.run(request, "it", cancel_after(steps, seen))
    with pytest.raises(GenerationCancelled):
        for event in events:
            if type(event).__name__ == "Progress":
                seen.append(event.done)
    return seen
