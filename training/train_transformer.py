"""Trains the demo's transformer together with its text encoder, on text with or without an image.

Knows: the architecture and the training step (v-prediction on the published noise schedule). Does not know: pixels; it
gets latents. One model is trained for both tasks. Its extra input channels take the image and are zero if there is no
image, so removing these channels gives the text-to-video model.

Sources: v-prediction, Salimans & Ho, arXiv 2202.00512; a schedule that ends in pure noise (`rescale_betas_zero_snr`),
Lin et al., arXiv 2305.08891; Muon, with the source given in `muon`, but PyTorch's own implementation.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from transformers import T5EncoderModel, T5TokenizerFast

from training import loop
from training.dataset import ANYWHERE, LENGTHS, PICTURE, Bucket, Clips, say
from training.text import MAX_TOKENS, WIDTH, build_encoder, build_tokenizer, token_ids

SEED = 3
LATENT_HEIGHT, LATENT_WIDTH, LATENT_FRAMES = 8, 12, 13
HEADS, HEAD_WIDTH, LAYERS, TIME_WIDTH = 6, 32, 6, 64
PUBLISHED_TOKENS = 226  # default padding of the stock pipelines

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": False,
    "snr_shift_scale": 1.0,
}


STEPS = 54_500
PEAK_RATE = 1.5e-3
DECAY = 4_000  # steps at the end, over which the learning rate falls to zero
BATCH_TOKENS = 2160  # text and video together
WITH_PICTURE = 0.4  # share of the clips with a given first frame
BEGUN = 0.25  # of the clips with a first frame, the share off the grid or in mid-motion
OBJECT_STRENGTH = 1.5
# (first timestep, end, share of the training steps) for four ranges of timesteps. A clip has so many numbers that noise
# hides its layout only at timesteps above 900 (signal to noise below 0.003), and its outlines only at timesteps above
# 700. At timesteps below 500 layout and outlines are already decided. The model learns an object's position in each
# frame only from the words. It learns this suddenly, after some hundred training steps on nearly pure noise, so
# training begins with mostly such steps.
EARLY_TIMES = ((0, 500, 0.1), (500, 800, 0.1), (800, 960, 0.2), (960, 1000, 0.6))
TIMES = ((0, 500, 0.15), (500, 800, 0.25), (800, 960, 0.35), (960, 1000, 0.25))
EARLY_STEPS = 9_000


@dataclass
class Model:
    """Everything that is trained together. `average` has the exponential moving average of every weight, with the names
    and shapes of `weights`; the exported models contain this average.
    """

    transformer: CogVideoXTransformer3DModel
    encoder: T5EncoderModel
    tokenizer: T5TokenizerFast
    average: dict[str, torch.Tensor]

    def weights(self) -> dict[str, torch.Tensor]:
        parts = (("transformer", self.transformer), ("encoder", self.encoder))
        return {f"{part}.{name}": value for part, module in parts for name, value in module.state_dict().items()}

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        for part, module in (("transformer.", self.transformer), ("encoder.", self.encoder)):
            module.load_state_dict({k.removeprefix(part): v for k, v in weights.items() if k.startswith(part)})

    def take_up(self, saved: dict[str, Any]) -> None:
        """Restore the content of a checkpoint."""
        self.load(saved["model"])
        self.average = saved["average"]

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Update the average: 0.997 of the old weights and 0.003 of the new ones, with more of the new ones in the
        first steps."""
        keep = min(0.997, (1 + step) / (10 + step))
        for name, value in self.weights().items():
            self.average[name].lerp_(value, 1 - keep)


def build_transformer(in_channels: int) -> CogVideoXTransformer3DModel:
    return CogVideoXTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        in_channels=in_channels,
        out_channels=16,
        time_embed_dim=TIME_WIDTH,
        text_embed_dim=WIDTH,
        num_layers=LAYERS,
        sample_width=LATENT_WIDTH,
        sample_height=LATENT_HEIGHT,
        sample_frames=4 * (LATENT_FRAMES - 1) + 1,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=MAX_TOKENS,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=False,
    )


def build(in_channels: int, start_from: dict[str, torch.Tensor] | None = None) -> Model:
    """A new model, optionally initialised from a trained one.

    Additional input channels start without effect; surplus input channels are removed.
    """
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model = Model(build_transformer(in_channels), build_encoder(len(tokenizer)), tokenizer, {})
    if start_from:
        name = "transformer.patch_embed.proj.weight"
        start = dict(start_from)
        old = start[name]
        start[name] = torch.zeros_like(model.weights()[name])
        common = min(in_channels, old.shape[1])
        start[name][:, :common] = old[:, :common]
        model.load(start)
    model.average = {name: value.clone() for name, value in model.weights().items()}
    return model


def rotary(bucket: Bucket, latent_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The positional embeddings of the stock 1.0 pipeline."""
    grid = (bucket.height // 16, bucket.width // 16)
    crop = get_resize_crop_region_for_grid(grid, LATENT_WIDTH // 2, LATENT_HEIGHT // 2)
    cos, sin = get_3d_rotary_pos_embed(
        embed_dim=HEAD_WIDTH, crops_coords=crop, grid_size=grid, temporal_size=latent_frames
    )
    return cos, sin


def object_weight(clean: torch.Tensor, strength: float) -> torch.Tensor:
    """[B, F, 1, h, w] the weight of each latent: a latent that differs from its clip's background has a higher
    weight."""
    background = clean.permute(0, 2, 1, 3, 4).flatten(2).median(dim=2).values[:, None, :, None, None]
    apart = (clean - background).square().mean(dim=2, keepdim=True)
    return 1 + strength * (apart - 0.3).clamp(0, 1)


def timesteps_for(rng: np.random.Generator, count: int, step: int) -> torch.Tensor:
    """[count] timesteps, drawn with the shares in TIMES."""
    times = EARLY_TIMES if step < EARLY_STEPS else TIMES
    ranges = [times[i] for i in rng.choice(len(times), size=count, p=[share for *_, share in times])]
    return torch.tensor([int(rng.integers(low, high)) for low, high, _ in ranges])


def plain_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **none: object) -> torch.Tensor:
    """Attention without mask or dropout, [B, heads, N, width]. A training step on a CPU takes 0.21 s with this
    function. It takes 0.37 s with torch's own attention, whose backward pass is slow on a CPU (12 clips of 17 frames,
    one core).
    """
    assert not any(none.values()), none
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return torch.softmax(scores, -1).to(value.dtype) @ value


def loss_of(
    model: Model, scheduler: CogVideoXDDIMScheduler, data: dict[Bucket, Clips], scale: float, step: int
) -> torch.Tensor:
    """One training batch. The step is the seed, so that a resumed run sees the same data."""
    rng = np.random.default_rng((SEED, step))
    torch.manual_seed(step)
    shares = np.array([b.share for b in data])
    bucket = list(data)[int(rng.choice(len(data), p=shares / shares.sum()))]
    clips = data[bucket]
    frames = int(rng.choice(list(LENGTHS), p=list(LENGTHS.values())))
    latent_frames = (frames - 1) // 4 + 1
    count = BATCH_TOKENS // (latent_frames * (bucket.height // 16) * (bucket.width // 16) + MAX_TOKENS)
    given = rng.random(count) < WITH_PICTURE
    # Clips that text alone cannot describe (images, and scenes that may start anywhere) are used only with their first
    # frame.
    plain = [i for i in range(len(clips.scenes)) if i % 10 not in (ANYWHERE, PICTURE)]
    begun = list(range(ANYWHERE, len(clips.scenes), 10)) or plain
    shown = np.where(rng.random(count) < BEGUN, rng.choice(begun, count), rng.integers(0, len(clips.scenes), count))
    picks = np.where(given, shown, rng.choice(plain, count))
    clean = clips.latents[picks, :latent_frames].float() * scale
    prompts = [say(clips.scenes[i], rng) for i in picks]
    timesteps = timesteps_for(rng, count, step)
    noise = torch.randn_like(clean)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    target = scheduler.get_velocity(clean, noise, timesteps)
    picture = torch.zeros_like(clean)
    picture[:, 0] = clips.first[picks].float() * scale * torch.from_numpy(given)[:, None, None, None]
    noisy = torch.cat([noisy, picture], dim=2)
    long = frames <= 17 and rng.random() < 0.08
    ids = token_ids(model.tokenizer, prompts, PUBLISHED_TOKENS if long else MAX_TOKENS)
    with torch.autocast("cpu", torch.bfloat16):
        text = model.encoder(ids)[0]
    plainly = patch.object(F, "scaled_dot_product_attention", plain_attention)
    with torch.autocast("cpu", torch.bfloat16), plainly:
        predicted: torch.Tensor = model.transformer(
            hidden_states=noisy,
            encoder_hidden_states=text,
            timestep=timesteps,
            image_rotary_emb=rotary(bucket, latent_frames),
            return_dict=False,
        )[0]
    error = (predicted.float() - target).square()
    return torch.mean(error * object_weight(clean, OBJECT_STRENGTH))


def optimizers(model: Model) -> list[torch.optim.Optimizer]:
    """The optimizers: Muon for the matrices inside the blocks, and AdamW for everything else."""
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = list(model.encoder.parameters())
    for name, parameter in model.transformer.named_parameters():
        inner = name.startswith("transformer_blocks") and parameter.ndim == 2 and ".norm" not in name
        (matrices if inner else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=1.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.99), weight_decay=0.01),
    ]


def learning_rate(step: int, steps: int) -> float:
    return PEAK_RATE * min(1, (step + 1) / 100, max(0.01, (steps - step) / DECAY))


def train(model: Model, data: dict[Bucket, Clips], scale: float, folder: Path, steps: int = STEPS) -> Model:
    """Train, or resume an earlier run. `folder` holds the checkpoint."""
    scheduler = CogVideoXDDIMScheduler(**SCHEDULE)

    def loss(step: int) -> tuple[torch.Tensor, float]:
        value = loss_of(model, scheduler, data, scale, step)
        return value, value.item()

    loop.run(
        "transformer",
        folder / "transformer.pt",
        steps,
        optimizers(model),
        lambda step: learning_rate(step, steps),
        loss,
        lambda: {"model": model.weights(), "average": model.average},
        model.take_up,
        [*model.transformer.parameters()],
        after=model.update_average,
    )
    return model
