"""The demo model means what it says: judged on what its clips show, through the same engine as every other model.

The thresholds lie below the figures of its model card, because another CPU rounds differently.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.generate import Engine
from pipelines.models import describe
from pipelines.request import GenerationRequest, Media, Task
from pipelines.video import read_video
from tests.pipelines.engines import finished
from weights.catalog import find
from weights.training.evaluate import scenes
from weights.training.judge import look
from weights.training.shapes import COLORS, MOTIONS, render
from weights.verify import verify

FRAMES, STEPS = 17, 20
DEMOS = ("demo", "demo-i2v")


def folder(name: str) -> Path:
    found = find(name, Path("nowhere"))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine({name: folder(name) for name in DEMOS}, device="cpu")


def clip(engine: Engine, prompt: str, where: Path, picture: np.ndarray | None = None, **options: object) -> np.ndarray:
    """uint8 [T, H, W, 3], as a player shows it."""
    given: dict[str, object] = {"num_frames": FRAMES, "num_inference_steps": STEPS, "seed": 0, **options}
    if picture is not None:
        Image.fromarray(picture).save(where / "picture.png")
        given["image"] = Media.of(where / "picture.png")
    request = GenerationRequest(prompt, **given)  # type: ignore[arg-type]
    (where / "clip.mp4").write_bytes(finished(engine.run(request, DEMOS[picture is not None])).video)
    return read_video(where / "clip.mp4", max_frames=99, max_pixels=10**6, max_seconds=99).frames


@pytest.mark.parametrize("name", DEMOS)
def test_lies_there_as_published_checkpoints_do(name: str) -> None:
    assert verify(folder(name)).ok
    info = describe(folder(name), name)
    assert info.is_demo
    assert info.tasks == ({Task.I2V} if name.endswith("i2v") else {Task.T2V, Task.V2V})
    assert (info.family.sizes.default, info.family.frames.default, info.family.fps) == ((96, 64), 49, 8)


def test_the_judge_is_right_about_drawn_scenes() -> None:
    for scene, prompt in scenes(24, FRAMES):
        seen = look(render(scene, FRAMES, 64, 96))
        assert (seen.color, seen.background, seen.motion) == (scene.color, scene.background, scene.motion), prompt


def test_colours_follow_the_prompt(engine: Engine, tmp_path: Path) -> None:
    asked = scenes(10, FRAMES)
    seen = [look(clip(engine, prompt, tmp_path, seed=seed)) for seed, (_, prompt) in enumerate(asked)]
    right = [
        (s.color == scene.color, s.background == scene.background) for s, (scene, _) in zip(seen, asked, strict=True)
    ]
    colour, background = np.sum(right, axis=0)
    assert colour >= 6, f"{colour} of 10 objects have their colour; chance is 1 in {len(COLORS)}"
    assert background >= 8, f"{background} of 10 backgrounds have their colour"


def test_a_picture_stays_the_first_frame_and_the_prompt_moves_it(engine: Engine, tmp_path: Path) -> None:
    asked = scenes(10, FRAMES)
    errors, moved = [], 0
    for seed, (scene, prompt) in enumerate(asked):
        first = render(scene, FRAMES, 64, 96)[0]
        frames = clip(engine, prompt, tmp_path, picture=first, seed=seed)
        errors.append(np.abs(frames[0].astype(float) - first).mean())
        moved += look(frames).motion == scene.motion
    assert np.mean(errors) < 14, f"first frames are off by {np.mean(errors):.1f} of 255"
    assert moved >= 5, f"{moved} of 10 objects go the asked way; chance is 1 in {len(MOTIONS)}"


def test_everything_that_is_asked_matters(engine: Engine, tmp_path: Path) -> None:
    prompt = "a big white circle moves left on a blue background"
    base = clip(engine, prompt, tmp_path)
    np.testing.assert_array_equal(base, clip(engine, prompt, tmp_path))
    others = {
        "seed": clip(engine, prompt, tmp_path, seed=1),
        "prompt": clip(engine, "a big white circle moves left on a red background", tmp_path),
        "guidance": clip(engine, prompt, tmp_path, guidance_scale=1.5),
        "steps": clip(engine, prompt, tmp_path, num_inference_steps=6),
        "negative prompt": clip(engine, prompt, tmp_path, negative_prompt="a red square"),
    }
    for what, other in others.items():
        assert np.abs(base.astype(float) - other).mean() > 0.5, f"{what} changes nothing to be seen"
    assert look(base).background == "blue"
    assert look(others["prompt"]).background == "red"


@pytest.mark.parametrize(("width", "height"), [(64, 96), (80, 80), (720, 480)])
def test_shapes_of_frames(engine: Engine, width: int, height: int, tmp_path: Path) -> None:
    frames = clip(engine, "a white square on a green background", tmp_path, width=width, height=height, num_frames=9)
    assert frames.shape == (9, height, width, 3)
    assert look(frames).background == "green"


def test_video_to_video_at_low_strength_keeps_the_clip(engine: Engine, tmp_path: Path) -> None:
    source = clip(engine, "a white circle on a blue background", tmp_path)
    (tmp_path / "clip.mp4").rename(tmp_path / "source.mp4")
    request = GenerationRequest(
        "a white circle on a red background", video=Media.of(tmp_path / "source.mp4"), num_inference_steps=STEPS, seed=0
    )
    far = {}
    for strength in (0.2, 1.0):
        result = finished(engine.run(replace(request, strength=strength), "demo"))
        (tmp_path / "remade.mp4").write_bytes(result.video)
        remade = read_video(tmp_path / "remade.mp4", max_frames=99, max_pixels=10**6, max_seconds=99).frames
        assert remade.shape == source.shape
        far[strength] = np.abs(remade.astype(float) - source).mean()
    assert far[0.2] < 0.5 * far[1.0], far
    assert look(remade).background == "red"


def test_no_two_scenes_are_one() -> None:
    """The list the figures are made on holds different prompts."""
    prompts = [prompt for _, prompt in scenes(20, FRAMES)]
    assert all(a != b for a, b in itertools.combinations(prompts, 2))
