"""Encodes clips as latents, once, to train the transformer.

Knows: the lengths and sizes of the clips, and the number of videos of each size. Does not know: the transformer or the
text encoder. The autoencoder is causal, so the first latents of a whole video equal the latents of the video's first
frames alone. Short clips therefore need no encoding of their own.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX

from training import loop
from training.pictures import drift
from training.shapes import COLORS, FILM, MOTIONS, SHAPES, Frames, Scene, render, sample_scene
from training.train_vae import to_tensor
from training.words import caption, empty_caption, loose_caption, reserved

SEED = 2
NAMES = tuple(COLORS)
TWO, ANYWHERE, PICTURE = 7, 8, 9  # positions of the special clips in each group of ten clips


@dataclass(frozen=True)
class Bucket:
    """Videos of one size. `share` is the share of training steps that use this bucket."""

    height: int
    width: int
    count: int
    share: float


BUCKETS = (
    Bucket(64, 96, 4000, 0.85),
    Bucket(96, 64, 300, 0.06),
    Bucket(64, 64, 300, 0.06),
    Bucket(80, 80, 120, 0.03),
)
LENGTHS = {49: 0.45, 33: 0.08, 25: 0.08, 17: 0.30, 9: 0.09}  # frames -> share of training steps with this length


@dataclass
class Clips:
    """One bucket's videos: their latents [N, 13, 16, h, w], the latents of only the first frame [N, 16, h, w], and the
    scenes.

    If a scene is None, the clip shows an image; only the image-to-video model is trained on such clips.
    """

    latents: torch.Tensor
    first: torch.Tensor
    scenes: list[Scene | None]

    def with_more(self, more: "Clips") -> "Clips":
        return Clips(
            torch.cat([self.latents, more.latents]), torch.cat([self.first, more.first]), self.scenes + more.scenes
        )


def held_out(scene: Scene) -> bool:
    """Whether this combination (one in eleven) is never used in training, so that the model can be tested with it."""
    places = SHAPES.index(scene.shape), NAMES.index(scene.color), NAMES.index(scene.background)
    return (places[0] + 3 * places[1] + 5 * places[2] + 7 * MOTIONS.index(scene.motion)) % 11 == 0


def draw(bucket: Bucket, index: int) -> tuple[Frames, Scene | None]:
    """Of ten clips, seven are scenes on the grid, one has two objects, and one is an image. The remaining clip has its
    object anywhere in the frame or begins in the middle of the motion, like the second part of a longer video.
    """
    rng = np.random.default_rng((SEED, FILM, bucket.height, bucket.width, index))
    kind = index % 10
    if kind == PICTURE:
        still = bool(rng.random() < 0.6)
        return drift(rng, FILM, bucket.height, bucket.width, still=still), None
    begin = int(rng.integers(FILM)) if kind == ANYWHERE and rng.random() < 0.6 else 0
    anywhere = kind == ANYWHERE and bool(rng.random() < 0.6)
    while True:
        scene = replace(sample_scene(rng, FILM, anywhere=anywhere, two=float(kind == TWO)), begin=begin)
        if not held_out(scene):
            return render(scene, bucket.height, bucket.width), scene


@torch.no_grad()
def encode(vae: AutoencoderKLCogVideoX, drawn: Iterable[tuple[Frames, Scene | None]]) -> Clips:
    """Videos of one size [T, H, W, 3], with T a multiple of 4 plus one, as latents: the unscaled mean from the encoder,
    in float16.
    """
    latents, firsts, scenes = [], [], []
    films = iter(drawn)
    while part := list(itertools.islice(films, 4)):
        videos = torch.stack([to_tensor(clip) for clip, _ in part])
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(videos).latent_dist.mean.permute(0, 2, 1, 3, 4).half())
            firsts.append(vae.encode(videos[:, :, :1]).latent_dist.mean[:, :, 0].half())
        scenes += [scene for _, scene in part]
    return Clips(torch.cat(latents), torch.cat(firsts), scenes)


def basis_of(vae: AutoencoderKLCogVideoX, films: Iterable[Frames]) -> str:
    """Digest of everything the latents depend on: the autoencoder, and the first video of every kind of `draw`."""
    return loop.digest(*vae.state_dict().values(), *(torch.from_numpy(film) for film in films))


def read(file: Path, basis: str) -> Clips | None:
    """The clips of an earlier run, if they were made from the same autoencoder and videos. Older files contain only
    clips."""
    if not file.exists() or not loop.fits(saved := torch.load(file, weights_only=False), basis, file):
        return None
    clips: Clips = saved["clips"] if isinstance(saved, dict) else saved
    return clips


def load(vae: AutoencoderKLCogVideoX, folder: Path) -> dict[Bucket, Clips]:
    """All buckets. The clips come from an earlier run with the same autoencoder and videos, or are encoded now."""
    loaded = {}
    for bucket in BUCKETS:
        file = folder / f"latents-{bucket.height}x{bucket.width}.pt"
        basis = basis_of(vae, (draw(bucket, index)[0] for index in range(10)))
        clips = read(file, basis)
        there = len(clips.scenes) if clips else 0
        if clips is None or there < bucket.count:
            more = encode(vae, (draw(bucket, index) for index in range(there, bucket.count)))
            clips = more if clips is None else clips.with_more(more)
            loop.keep({"basis": basis, "clips": clips}, file)
            print(f"encoded {bucket}", flush=True)
        loaded[bucket] = clips
    return loaded


def say(scene: Scene | None, rng: np.random.Generator) -> str:
    """The caption of a clip in a training step: loose in one of five steps, without information in one of eight, full
    otherwise."""
    kind = rng.random()
    if kind < 0.12:
        return empty_caption(rng)
    while True:
        if scene is None:
            text = loose_caption(sample_scene(rng, FILM), rng)
        elif kind < 0.32:
            text = loose_caption(scene, rng)
        else:
            text = caption(scene, rng)
        if not reserved(text):
            return text
