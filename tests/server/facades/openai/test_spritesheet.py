"""OpenAI's spritesheet shows the video's frames in their own colours."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.video import VideoWriter
from server.facades.openai.spritesheet import spritesheet
from server.media.inspectors import Inspectors


@pytest.mark.parametrize("colour", [(220, 30, 40), (30, 200, 60), (40, 60, 210), (128, 128, 128), (250, 250, 250)])
def test_colours_are_the_films(colour: tuple[int, int, int], tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    frames = np.full((9, 64, 96, 3), colour, np.uint8)
    with VideoWriter(path, 96, 64, 8, "mp4", {}) as writer:
        writer.write(frames)
    sheet = np.asarray(
        Image.open(io.BytesIO(asyncio.run(spritesheet(path, 9, Inspectors())))).convert("RGB"), np.float32
    )
    tile = sheet[8:56, 8:88].mean((0, 1))
    assert np.abs(tile - colour).max() < 6, f"{tile} instead of {colour}"
