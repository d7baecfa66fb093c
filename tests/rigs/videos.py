"""Makes small clips, reads and describes video files, and returns the error codes of refusals."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.video import MediaUnreadable, VideoWriter, read_video
from pipelines.video.process import ffmpeg
from tests.rigs import pace

Format = Literal["mp4", "gif", "webm"]
FORMATS: tuple[Format, ...] = ("mp4", "gif", "webm")
Frames = NDArray[np.uint8]


def waves(count: int, height: int, width: int) -> Frames:
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    frames = [
        np.stack([127 + 100 * np.sin(x / 20 + k / 5), 127 + 100 * np.cos(y / 15), 127 + 90 * np.sin(x / 30 - k)], -1)
        for k in range(count)
    ]
    return np.stack(frames).astype(np.uint8)


def save(path: Path, frames: Frames, kind: Format = "mp4", fps: float | Fraction = 8, **manifest: Any) -> Path:
    with VideoWriter(path, frames.shape[2], frames.shape[1], fps, kind, manifest) as writer:
        writer.write(frames)
    return path


def psnr(a: Frames, b: Frames) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


def run_ffmpeg(*arguments: str | Path) -> str:
    """Runs ffmpeg and returns its stderr, which describes the file. The tests have no ffprobe."""
    done = subprocess.run(
        [ffmpeg(), "-hide_banner", "-y", *map(str, arguments)], capture_output=True, timeout=pace.seconds(60)
    )
    return done.stderr.decode()


def describe(path: Path) -> str:
    return run_ffmpeg("-i", path)


def read(path: Path, **limits: float) -> Any:
    return read_video(
        path,
        max_frames=int(limits.get("max_frames", 200)),
        max_pixels=int(limits.get("max_pixels", 1_000_000)),
        max_seconds=limits.get("max_seconds", 30),
    )


def code_of(action: Callable[[], Any]) -> str:
    with pytest.raises(MediaUnreadable) as e:
        action()
    assert str(e.value)
    return e.value.code
