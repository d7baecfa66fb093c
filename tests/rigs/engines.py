"""Engines with the tiny checkpoints, requests for them, input files, and reading of results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.engine.generate import Engine
from pipelines.engine_port import EngineSpec
from pipelines.events import Event, Finished
from pipelines.request import GenerationRequest, Media
from pipelines.video import VideoWriter, read_video
from tests.rigs import checkpoints


def new_engine(**options: Any) -> Engine:
    return Engine(EngineSpec({k: checkpoints.cached(k) for k in checkpoints.KINDS}, "cpu", **options))


def ask(**values: Any) -> GenerationRequest:
    return GenerationRequest(
        **{"prompt": "a red circle", "num_frames": 9, "num_inference_steps": 3, "seed": 5, **values}
    )


def finished(events: Iterator[Event] | list[Event]) -> Finished:
    last = list(events)[-1]
    assert isinstance(last, Finished)
    return last


def frames_of(result: Finished, folder: Path) -> np.ndarray:
    path = folder / f"read.{result.media_type.split('/')[1]}"
    path.write_bytes(result.video)
    return read_video(path, max_frames=500, max_pixels=10**7, max_seconds=100).frames


def clip_file(folder: Path, frames: int = 21, fps: int = 8) -> Media:
    """A clip of 80x48: a square that moves right over a gradient."""
    path = folder / "source.mp4"
    picture = np.zeros((frames, 48, 80, 3), np.uint8)
    picture[..., 2] = np.linspace(0, 255, 80, dtype=np.uint8)
    for i in range(frames):
        picture[i, 10:30, 2 * i : 2 * i + 20] = (255, 40, 0)
    with VideoWriter(path, 80, 48, fps, "mp4", {}) as writer:
        writer.write(picture)
    return Media.of(path)


def picture_file(folder: Path) -> Media:
    path = folder / "picture.png"
    Image.linear_gradient("L").convert("RGB").resize((90, 60)).save(path)
    return Media.of(path)


class Bomb:
    """Makes a module's `forward` raise OutOfMemoryError at the calls with the given numbers."""

    def __init__(self, module: torch.nn.Module, calls: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        forward = module.forward

        def exploding(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls in calls:
                raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
            return forward(*args, **kwargs)

        monkeypatch.setattr(module, "forward", exploding)
