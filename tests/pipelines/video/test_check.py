"""The check for broken output refuses black or constant clips, and accepts dark, plain and fading clips."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.video import BadOutput, FrameCheck
from tests.rigs.videos import Frames, waves


def checked(frames: Frames, step: int = 4) -> None:
    check = FrameCheck()
    for k in range(0, len(frames), step):
        check.update(frames[k : k + step])
    check.finish()


@pytest.mark.parametrize(
    ("frames", "cause"),
    [
        (np.zeros((9, 8, 8, 3), np.uint8), "all-black"),
        (np.full((9, 8, 8, 3), 127, np.uint8), "constant"),
        (np.tile(np.array([255, 0, 9], np.uint8), (9, 8, 8, 1)), "constant"),
        (np.random.default_rng(0).integers(0, 4, (9, 8, 8, 3), np.uint8), "all-black"),
    ],
)
def test_broken_clips_are_named(frames: Frames, cause: str) -> None:
    with pytest.raises(BadOutput) as e:
        checked(frames)
    assert e.value.cause == cause


def test_plain_clips_pass() -> None:
    checked(waves(9, 16, 16))
    night = np.zeros((9, 8, 8, 3), np.uint8)
    night[8, 3, 3] = 30
    checked(night)
    fade = np.repeat(np.arange(0, 90, 10, dtype=np.uint8), 8 * 8 * 3).reshape(9, 8, 8, 3)
    checked(fade, step=1)
    wall = np.random.default_rng(0).integers(248, 256, (9, 8, 8, 3)).astype(np.uint8)
    checked(wall)
    with pytest.raises(ValueError, match="no frame"):
        FrameCheck().finish()
