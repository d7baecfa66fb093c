"""Clips as latents, encoded once: what the transformer is trained on.

Knows: which lengths and sizes there are and how many clips of each. Does not know: the transformer or the text encoder.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX

from weights.training.pictures import drift
from weights.training.shapes import COLORS, MOTIONS, SHAPES, Frames, Scene, render, sample_scene
from weights.training.train_vae import to_tensor
from weights.training.words import caption, loose_caption

SEED = 2
NAMES = tuple(COLORS)


@dataclass(frozen=True)
class Bucket:
    """Clips of one length and size. `share` is how often a training step takes this bucket."""

    frames: int
    height: int
    width: int
    count: int
    batch: int
    share: float


BUCKETS = (
    Bucket(49, 64, 96, 1000, 6, 0.26),
    Bucket(33, 64, 96, 200, 8, 0.06),
    Bucket(25, 64, 96, 200, 10, 0.07),
    Bucket(17, 64, 96, 1000, 14, 0.26),
    Bucket(9, 64, 96, 600, 20, 0.140),
    Bucket(49, 96, 64, 200, 6, 0.03),
    Bucket(17, 96, 64, 300, 14, 0.06),
    Bucket(49, 64, 64, 200, 8, 0.03),
    Bucket(17, 64, 64, 300, 16, 0.06),
    Bucket(17, 80, 80, 150, 14, 0.03),
)


@dataclass
class Clips:
    """Latents of one bucket: [N, F, 16, h, w], those of the first frame alone [N, 16, h, w], and the scenes.

    A scene of None is a clip of a picture; only the image-to-video model is trained on those.
    """

    latents: torch.Tensor
    first: torch.Tensor
    scenes: list[Scene | None]


def held_out(scene: Scene) -> bool:
    """One combination in eleven is never drawn in training, so that the model can be measured on it."""
    places = SHAPES.index(scene.shape), NAMES.index(scene.color), NAMES.index(scene.background)
    return (places[0] + 3 * places[1] + 5 * places[2] + 7 * MOTIONS.index(scene.motion)) % 11 == 0


def draw(bucket: Bucket, index: int) -> tuple[Frames, Scene | None]:
    """Of eight clips five are scenes around the middle, two are scenes anywhere, one is a picture."""
    rng = np.random.default_rng((SEED, bucket.frames, bucket.height, bucket.width, index))
    if index % 8 == 7:
        still = bool(rng.random() < 0.6)
        return drift(rng, bucket.frames, bucket.height, bucket.width, still=still), None
    scene = sample_scene(rng, bucket.frames, anywhere=index % 8 in (5, 6))
    while held_out(scene):
        scene = sample_scene(rng, bucket.frames, anywhere=index % 8 in (5, 6))
    return render(scene, bucket.frames, bucket.height, bucket.width), scene


@torch.no_grad()
def encode(vae: AutoencoderKLCogVideoX, bucket: Bucket) -> Clips:
    latents, first, scenes = [], [], []
    for start in range(0, bucket.count, 4):
        drawn = [draw(bucket, index) for index in range(start, min(start + 4, bucket.count))]
        videos = torch.stack([to_tensor(clip) for clip, _ in drawn])
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(videos).latent_dist.mean.permute(0, 2, 1, 3, 4).half())
            first.append(vae.encode(videos[:, :, :1]).latent_dist.mean[:, :, 0].half())
        scenes += [scene for _, scene in drawn]
    return Clips(torch.cat(latents), torch.cat(first), scenes)


def load(vae: AutoencoderKLCogVideoX, folder: Path) -> dict[Bucket, Clips]:
    """All buckets, encoded now or read from an earlier run."""
    loaded = {}
    for bucket in BUCKETS:
        file = folder / f"latents-{bucket.frames}x{bucket.height}x{bucket.width}.pt"
        if not file.exists():
            clips = encode(vae, bucket)
            torch.save(clips, file.with_suffix(".tmp"))
            file.with_suffix(".tmp").rename(file)
            print(f"encoded {bucket}", flush=True)
        loaded[bucket] = torch.load(file, weights_only=False)
    return loaded


def say(scene: Scene | None, rng: np.random.Generator) -> str:
    """What a training step calls the clip: mostly its caption, sometimes a loose one, one time in ten nothing."""
    kind = rng.random()
    if kind < 0.1:
        return ""
    if scene is None:
        return loose_caption(sample_scene(rng, 49), rng)
    return loose_caption(scene, rng) if kind < 0.24 else caption(scene, rng)
