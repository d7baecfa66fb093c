"""The contact sheet in the README: `python -m training.sheet docs/demo.png`."""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pipelines.engine.generate import Engine
from pipelines.engine_port import EngineSpec
from pipelines.events import Finished
from pipelines.request import GenerationRequest, Media
from pipelines.video import read_video
from training.shapes import Scene, render

PROMPTS = (
    "a red circle moves left on a blue background",
    "a big yellow star spins on a purple background",
    "a white square bounces on a green background",
    "a small black triangle rises on an orange background",
    "a purple square grows on a yellow background",
    "an orange circle moves in a circle on a black background",
    "a green star moves right behind a white square on a blue background",
    "A golden retriever runs through a meadow",
)
PICTURE = Scene("triangle", "yellow", "red", "right", "medium", 49, 0, 0)
PICTURE_PROMPT = "a yellow triangle moves right on a red background"
SHOWN, MARGIN, LINE = 8, 2, 12  # frames per clip; pixels; pixels


def film(engine: Engine, folder: Path, prompt: str, picture: Path | None = None) -> np.ndarray:
    """A clip, uint8 [T, H, W, 3], at the demo's native size, with seed 0 and default settings."""
    request = GenerationRequest(prompt, image=Media.of(picture) if picture else None, seed=0)
    *_, last = engine.run(request, "demo-i2v" if picture else "demo")
    if not isinstance(last, Finished):
        raise RuntimeError(f"{prompt!r} did not produce a video: {last}")
    (folder / "clip.mp4").write_bytes(last.video)
    return read_video(folder / "clip.mp4", max_frames=200, max_pixels=10**6, max_seconds=60).frames


def row(clip: np.ndarray, text: str) -> Image.Image:
    """The prompt above some of the clip's frames [T, H, W, 3], including the first and the last."""
    picks = np.linspace(0, len(clip) - 1, SHOWN).round().astype(int)
    height, width = clip.shape[1], clip.shape[2]
    canvas = Image.new("RGB", (SHOWN * (width + MARGIN) - MARGIN, height + LINE + 2 * MARGIN), "white")
    ImageDraw.Draw(canvas).text((0, 0), text, fill="black")
    for place, pick in enumerate(picks):
        canvas.paste(Image.fromarray(clip[pick]), (place * (width + MARGIN), LINE + MARGIN))
    return canvas


def main(target: Path) -> None:
    weights = Path(__file__).parent.parent / "weights"
    engine = Engine(EngineSpec({name: weights / name for name in ("demo", "demo-i2v")}, "cpu"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [row(film(engine, folder, prompt), prompt) for prompt in PROMPTS]
        Image.fromarray(render(PICTURE, 64, 96)[0]).save(folder / "first.png")
        moved = film(engine, folder, PICTURE_PROMPT, folder / "first.png")
        rows.append(row(moved, f"{PICTURE_PROMPT} (from a picture)"))
    whole = Image.new("RGB", (rows[0].width, sum(one.height for one in rows)), "white")
    for place, one in enumerate(rows):
        whole.paste(one, (0, place * one.height))
    whole.save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
