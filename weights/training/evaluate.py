"""Measure an exported demo model with the stock pipelines, on scenes the transformer was never trained on.

Knows: how to ask, and the judge. Does not know: how the model was trained. `python -m weights.training.evaluate`
prints the figures of the model card and writes contact sheets.
"""

import sys
import time
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from PIL import Image

from weights.training.dataset import held_out
from weights.training.judge import look
from weights.training.shapes import FPS, Frames, Scene, render, sample_scene
from weights.training.words import caption

SEED = 4
Pipeline: TypeAlias = Any  # one of diffusers' two, which carry no types


def load(folder: Path, kind: Any) -> Pipeline:
    pipeline = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def scenes(count: int, frames: int) -> list[tuple[Scene, str]]:
    """Held-out scenes with their captions."""
    rng = np.random.default_rng(SEED)
    chosen: list[tuple[Scene, str]] = []
    while len(chosen) < count:
        scene = sample_scene(rng, frames)
        if held_out(scene):
            chosen.append((scene, caption(scene, rng)))
    return chosen


def generate(
    pipeline: Pipeline,
    prompt: str,
    *,
    seed: int = 0,
    frames: int = 49,
    steps: int = 45,
    guidance: float = 6.0,
    size: tuple[int, int] = (64, 96),
    picture: Image.Image | None = None,
) -> Frames:
    """[T, H, W, 3] one clip."""
    extra = {"image": picture} if picture is not None else {}
    video = pipeline(
        prompt=prompt,
        height=size[0],
        width=size[1],
        num_frames=frames,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
        max_sequence_length=pipeline.transformer.config.max_text_seq_length,
        output_type="np",
        **extra,
    ).frames[0]
    return np.asarray(np.round(video * 255), np.uint8)


def sheet(clips: list[Frames], path: Path, columns: int = 9) -> None:
    """One row a clip, `columns` frames of it."""
    rows = []
    for clip in clips:
        picks = np.linspace(0, len(clip) - 1, min(columns, len(clip))).round().astype(int)
        rows.append(np.concatenate([np.pad(clip[i], ((1, 1), (1, 1), (0, 0))) for i in picks], axis=1))
    width = max(row.shape[1] for row in rows)
    Image.fromarray(np.concatenate([np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0))) for r in rows])).save(path)


def measure(folder: Path, count: int, frames: int, with_picture: bool, out: Path, **how: Any) -> str:
    """A line of figures for `count` held-out prompts; `out` gets the contact sheet."""
    pipeline = load(folder, CogVideoXImageToVideoPipeline if with_picture else CogVideoXPipeline)
    hits, kept, clips, began = np.zeros(3, int), [], [], time.time()
    for seed, (scene, prompt) in enumerate(scenes(count, frames)):
        truth = render(scene, frames, 64, 96)
        picture = Image.fromarray(truth[0]) if with_picture else None
        clip = generate(pipeline, prompt, seed=seed, frames=frames, picture=picture, **how)
        seen = look(clip)
        right = (seen.color == scene.color, seen.background == scene.background, seen.motion == scene.motion)
        hits += right
        clips.append(clip)
        kept.append(np.abs(clip[0].astype(float) - truth[0]).mean())
        print(f"  {prompt!r}: {seen.color} on {seen.background}, {seen.motion} {seen.dx:+.2f} {seen.dy:+.2f} {right}")
    sheet(clips, out)
    color, background, motion = hits
    line = f"{folder.name} {frames} frames {how}: colour {color}/{count}, background {background}/{count}"
    line += f", motion {motion}/{count}, {(time.time() - began) / count:.1f} s a clip of {frames / FPS:.1f} s"
    return line + (f", first frame off by {np.mean(kept):.1f}/255" if with_picture else "")


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/demo-training")
    weights = Path(__file__).parent.parent
    for frames in (17, 49):
        print(measure(weights / "demo", 20, frames, False, out / f"t2v-{frames}.png"), flush=True)
        print(measure(weights / "demo-i2v", 20, frames, True, out / f"i2v-{frames}.png"), flush=True)
