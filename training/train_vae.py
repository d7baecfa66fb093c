"""Trains the demo's autoencoder. It uses the classes of the published VAE, and like that VAE it has 16 channels and
reduces the number of positions by a factor of 8 x 8 x 4.

Knows: its architecture, data and loss. Does not know: text, diffusion, or where the result is exported.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX

from training import loop
from training.muon import Muon
from training.pictures import drift, picture
from training.shapes import COLORS, render, sample_scene

SEED = 1
STEPS = 4000
IMAGE_STEPS = 700  # the first steps learn colours and outlines from single frames; motion comes later
PEAK_RATE = 1.6e-3
LATENT_NOISE = 0.08  # in latents of unit deviation; teaches the decoder to tolerate the diffusion model's errors
SIZES = ((64, 96), (64, 96), (64, 64), (96, 64))  # height, width


def build() -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        block_out_channels=(16, 32, 48, 64),
        latent_channels=16,
        layers_per_block=1,
        norm_num_groups=8,
        sample_height=64,
        sample_width=96,
        scaling_factor=1.0,
    )


def to_tensor(clip: np.ndarray) -> torch.Tensor:
    """uint8 [T, H, W, 3] -> float [3, T, H, W] in -1..1."""
    return torch.from_numpy(clip).permute(3, 0, 1, 2).float() / 127.5 - 1


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, 3, T, H, W] clips and [B, 1, T, H, W] pixel weights of mean 1. The step is the seed, so that resuming is
    exact.
    """
    rng = np.random.default_rng((SEED, step))
    height, width = SIZES[step % len(SIZES)]
    if step < IMAGE_STEPS:
        count, frames = 8, 1
    else:
        count, frames = (8, 1) if step % 8 == 7 else (1, 17) if step % 8 == 3 else (2, 9)
    clips, weights = [], []
    for _ in range(count):
        weight = np.ones((frames, height, width), np.float32)
        if rng.random() < 0.3:
            clip = picture(rng, height, width) if frames == 1 else drift(rng, frames, height, width)
        else:
            # The training clip is a part from anywhere in the video, more often from near the beginning.
            last = max(frames, int(rng.choice([9, 17, 25, 49]))) - frames
            begin = int(rng.integers(0, last + 1))
            scene = sample_scene(rng, frames, anywhere=bool(rng.random() < 0.4), two=0.3)
            clip = render(replace(scene, begin=begin), height, width)
            mask = np.abs(clip.astype(np.float32) - COLORS[scene.background]).max(-1) > 8
            # Object and background have equal weight, because a plain mean would sacrifice small objects.
            share = float(np.clip(mask.mean(), 0.02, 0.98))
            weight = 0.5 * mask / share + 0.5 * (1 - mask) / (1 - share)
        clips.append(to_tensor(clip))
        weights.append(torch.from_numpy(weight)[None])
    return torch.stack(clips), torch.stack(weights)


def loss_of(vae: AutoencoderKLCogVideoX, clips: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    with torch.autocast("cpu", torch.bfloat16):
        mean = vae.encode(clips).latent_dist.mean
        noisy = mean + LATENT_NOISE * torch.randn_like(mean)
        decoded = vae.decode(noisy).sample
    error = decoded.float() - clips
    plain = (weights * (error.abs() + 2 * error.square())).mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    mean = mean.float()
    channels = mean.transpose(0, 1).flatten(1)
    unit = channels.mean(1).square().mean() + (channels.std(1) - 1).square().mean()
    return plain + edges + 0.02 * unit, error.abs().mean().item()


def optimizers(vae: AutoencoderKLCogVideoX) -> list[torch.optim.Optimizer]:
    """The optimizers: Muon for the inner kernels, and AdamW for the last layer, norms and biases."""
    kernels = [p for p in vae.parameters() if p.ndim >= 4 and p.shape[0] > 3]
    chosen = {id(p) for p in kernels}
    rest = [p for p in vae.parameters() if id(p) not in chosen]
    return [Muon(kernels, lr=1.0), torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.99), weight_decay=0.01)]


def learning_rate(step: int, steps: int) -> float:
    return PEAK_RATE * min(1, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def train(folder: Path, steps: int = STEPS) -> AutoencoderKLCogVideoX:
    """Train, or resume an earlier run. `folder` holds the checkpoint."""
    torch.manual_seed(SEED)
    vae = build()

    def loss(step: int) -> tuple[torch.Tensor, float]:
        torch.manual_seed(step)
        return loss_of(vae, *batch(step))

    loop.run(
        "autoencoder",
        folder / "vae.pt",
        steps,
        optimizers(vae),
        lambda step: learning_rate(step, steps),
        loss,
        lambda: {"model": vae.state_dict()},
        lambda saved: vae.load_state_dict(saved["model"]),
        [*vae.parameters()],
    )
    return vae.eval()


def trained(folder: Path) -> AutoencoderKLCogVideoX:
    """Load the result of an earlier run, finished or not."""
    vae = build()
    vae.load_state_dict(torch.load(folder / "vae.pt")["model"])
    return vae.eval()
