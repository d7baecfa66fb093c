"""fal's own client sends a LoRA to each of fal's three endpoints, and the videos show the LoRA's effect."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import fal_client
import numpy as np
import pytest
from PIL import Image

from pipelines.video import read_video
from tests.rigs.clients.running import fetch, run_script, running_server
from training.shapes import FILM, Scene, coverage, render

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OUTLINE = Path(__file__).parents[2] / "weights" / "demo-lora" / "outline.safetensors"
SCENE = Scene("circle", "red", "blue", "still", "big", FILM, 0, 0)
# levels of 255 by which the rim gets whiter; fewer if the request has an input, because the input has no outline
WHITER = {"text": 60, "image": 15, "video": 40}


def last_frame(url: str, folder: Path) -> np.ndarray:
    (folder / "film.mp4").write_bytes(fetch(url).content)
    return read_video(folder / "film.mp4", max_frames=FILM, max_pixels=10**6, max_seconds=99).frames[-1]


def test_every_endpoint_draws_the_outline(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    shutil.copy(OUTLINE, tmp_path / "loras")
    picture = io.BytesIO()
    Image.fromarray(render(replace(SCENE, frames=1), 64, 96)[0]).save(picture, "PNG")
    filled = {"PICTURE": fal_client.encode(picture.getvalue(), "image/png")}
    with running_server(tmp_path, loras_dir=str(tmp_path / "loras"), allow_private_urls="true") as address:
        films = json.loads(run_script("fal_loras.py", tmp_path, {"SERVER": address} | filled).splitlines()[-1])
        shown = {name: {way: last_frame(url, tmp_path) for way, url in urls.items()} for name, urls in films.items()}
    rim = coverage(replace(SCENE, frames=1), 64, 96, outline=3.0)[0] > 0.5
    for way, least in WHITER.items():
        plain, outlined = (float(shown[name][way][rim].min(axis=-1).mean()) for name in ("plain", "outlined"))
        assert outlined > plain + least, f"{way}: white on the rim {plain:.0f}, with the LoRA {outlined:.0f}"
