"""Trains the autoencoder's decoder a second time, on the transformer's output.

The encoder stays the same, so that latents keep their meaning. Half of the latents are noisy. The other half are the
transformer's predictions from a noisy clip (one denoising step). These predictions are blurred like the transformer's
videos, and the decoder learns to draw the intended outline.
"""

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler

from training import loop, train_transformer, train_vae
from training.dataset import BUCKETS
from training.shapes import COLORS, Scene, coverage, render, sample_scene
from training.text import token_ids
from training.words import caption

SEED = 7
STEPS = 1200
PEAK_RATE = 8e-4
NOISE = 0.3  # maximum noise, in latents of unit deviation
TIMES = (100, 700)  # timesteps of the transformer's predictions
FRAMES = 17
WEIGHT_OF_RIM = 3.0  # weight of pixels within two units of the outline, relative to other pixels
BUCKET = BUCKETS[0]


def drawn(rng: np.random.Generator) -> tuple[Scene, np.ndarray, np.ndarray]:
    """A scene, its first frames [T, H, W, 3], and the weight of each pixel [T, H, W]; the mean of the weights is 1."""
    scene = sample_scene(rng, FRAMES, anywhere=bool(rng.random() < 0.2), two=0.2)
    clip = render(scene, BUCKET.height, BUCKET.width)
    inside = np.abs(clip.astype(np.float32) - COLORS[scene.background]).max(-1) > 8
    share = float(np.clip(inside.mean(), 0.02, 0.98))
    weight = 0.5 * inside / share + 0.5 * (1 - inside) / (1 - share)
    weight *= 1 + (WEIGHT_OF_RIM - 1) * (coverage(scene, BUCKET.height, BUCKET.width, outline=4.0) > 0)
    return scene, clip, weight / weight.mean()


@torch.no_grad()
def blurred(
    model: train_transformer.Model,
    scheduler: CogVideoXDDIMScheduler,
    latents: torch.Tensor,
    scene: Scene,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Add noise to [1, F, 16, h, w] latents of unit deviation, and return the transformer's prediction of the
    latents."""
    at = torch.tensor([int(rng.integers(*TIMES))])
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, at)
    ids = token_ids(model.tokenizer, [caption(scene, rng)])
    with torch.autocast("cpu", torch.bfloat16):
        velocity: torch.Tensor = model.transformer(
            hidden_states=torch.cat([noisy, torch.zeros_like(noisy)], dim=2),
            encoder_hidden_states=model.encoder(ids)[0],
            timestep=at,
            image_rotary_emb=train_transformer.rotary(BUCKET, latents.shape[1]),
            return_dict=False,
        )[0]
    alpha = scheduler.alphas_cumprod[at].float().view(-1, 1, 1, 1, 1)
    clean: torch.Tensor = alpha.sqrt() * noisy - (1 - alpha).sqrt() * velocity.float()
    return clean


def loss_of(
    vae: AutoencoderKLCogVideoX,
    model: train_transformer.Model,
    scheduler: CogVideoXDDIMScheduler,
    scale: float,
    step: int,
) -> tuple[torch.Tensor, float]:
    """One video. The step is the seed, so that resuming is exact."""
    rng = np.random.default_rng((SEED, step))
    torch.manual_seed(step)
    scene, film, weight = drawn(rng)
    clip, weights = train_vae.to_tensor(film)[None], torch.from_numpy(weight.astype(np.float32))[None, None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        latents = vae.encode(clip).latent_dist.mean.float() * scale
    if step % 2:
        latents = blurred(model, scheduler, latents.transpose(1, 2), scene, rng).transpose(1, 2)
    else:
        latents = latents + float(rng.uniform(0, NOISE)) * torch.randn_like(latents)
    with torch.autocast("cpu", torch.bfloat16):
        decoded = vae.decode(latents / scale).sample
    error = decoded.float() - clip
    plain = (weights * (error.abs() + 2 * error.square())).mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return plain + edges, error.abs().mean().item()


def train(
    vae: AutoencoderKLCogVideoX, model: train_transformer.Model, scale: float, folder: Path, steps: int = STEPS
) -> AutoencoderKLCogVideoX:
    """Train, or resume an earlier run with the same two models. `folder` holds the checkpoint."""
    vae = copy.deepcopy(vae)
    vae.encoder.requires_grad_(False)
    scheduler = CogVideoXDDIMScheduler(**train_transformer.SCHEDULE)

    loop.run(
        "decoder",
        folder / "decoder.pt",
        steps,
        train_vae.optimizers(vae.decoder),
        lambda step: PEAK_RATE * min(1, (step + 1) / 50, max(0.01, 1.5 * (1 - step / steps))),
        lambda step: loss_of(vae, model, scheduler, scale, step),
        lambda: {"model": vae.decoder.state_dict()},
        lambda saved: vae.decoder.load_state_dict(saved["model"]),
        [*vae.decoder.parameters()],
        basis=loop.digest(*vae.state_dict().values(), *model.weights().values()),
    )
    return vae.eval()
