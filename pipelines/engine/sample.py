"""From a plan to finished latents, one step at a time.

This is the sampling of the three stock CogVideoX pipelines, split so that it can be stopped, watched and resumed: all
that changes between steps is in `Sampling`. The stock pipelines prepare embeddings, latents and rotary positions; the
loop follows the stock loop. Tests check that the results equal those of the stock pipelines to the bit.

Shapes: B batch (2 with guidance: negative, then positive), F latent frames, C latent channels (16), H and W in latent
pixels (1/8 of the video's).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXDPMScheduler

from pipelines.engine.loader import Model
from pipelines.engine.memory import Placement
from pipelines.plan import SamplingPlan
from pipelines.request import Task

OFS = 2.0  # the value that the 1.5 image-to-video pipeline passes to its ofs embedding


@dataclass
class Sampling:
    """The state that changes from step to step. A run that resumes from this state makes the same video."""

    step: int
    latents: torch.Tensor  # [1, F, C, H, W]
    old_pred_original_sample: torch.Tensor | None  # the DPM scheduler's state from the step before
    generator: torch.Generator

    def to(self, device: torch.device) -> Sampling:
        old = self.old_pred_original_sample
        moved = None if old is None else old.to(device)
        return replace(self, latents=self.latents.to(device), old_pred_original_sample=moved)


@dataclass(frozen=True)
class Conditions:
    """The inputs that stay the same in all steps: prompt embeddings [B, tokens, dim], the image's latents, rotary
    positions, timesteps."""

    prompt_embeds: torch.Tensor
    image_latents: torch.Tensor | None  # [1, F, C, H, W]
    rotary: tuple[torch.Tensor, torch.Tensor] | None
    ofs: torch.Tensor | None
    timesteps: torch.Tensor
    num_inference_steps: int
    padding: int  # latent frames put in front for the 1.5 temporal patch, dropped before decoding


class Sampler:
    """Samples one plan with one model."""

    def __init__(self, model: Model, plan: SamplingPlan, placement: Placement) -> None:
        self.model = model
        self.plan = plan
        self.placement = placement
        self.device = placement.device
        self.pipe = model.pipeline(plan.task, plan.scheduler)
        self.guided = plan.guidance_scale > 1.0

    @torch.no_grad()
    def encode(self) -> torch.Tensor:
        """Prompt embeddings [B, tokens, dim]: negative first, when guidance is on."""
        with self.placement.on_device("text_encoder"):
            positive, negative = self.pipe.encode_prompt(
                self.plan.prompt,
                self.plan.negative_prompt,
                self.guided,
                max_sequence_length=self.plan.max_tokens,
                device=self.device,
            )
        embeds = torch.cat([negative, positive]) if self.guided else positive
        return embeds.to(self.model.dtype)

    @torch.no_grad()
    def prepare(self, prompt_embeds: torch.Tensor, source: np.ndarray | None) -> tuple[Conditions, Sampling]:
        """The conditions and the first latents. `source`: uint8 RGB frames [T, H, W, 3] of the plan's model size; for
        an image, a single frame. The random generator is on the CPU, so that a seed draws the same noise on every
        device. The noise still depends on the dtype: bfloat16 noise differs from float32 noise."""
        pipe, plan, dtype = self.pipe, self.plan, self.model.dtype
        generator = torch.Generator().manual_seed(plan.seed)
        pipe.scheduler.set_timesteps(plan.num_inference_steps, device=self.device)
        timesteps, steps = pipe.scheduler.timesteps, plan.num_inference_steps
        channels = self.model.vae.config.latent_channels
        size = (plan.model_height, plan.model_width)
        frames, padding = plan.model_frames, 0
        patch = self.model.info.latent_patch_frames
        if patch > 1 and plan.task is not Task.V2V:
            padding = -((frames - 1) // 4 + 1) % patch
            frames += 4 * padding
        image_latents = None
        if plan.task is Task.T2V:
            latents = pipe.prepare_latents(1, channels, frames, *size, dtype, self.device, generator)
        elif source is None:
            raise ValueError(f"{plan.task} needs its source frames")
        elif plan.task is Task.I2V:
            image = _to_model_range(source[0]).unsqueeze(0).to(self.device, dtype)
            with self.placement.on_device("vae"):
                latents, image_latents = pipe.prepare_latents(
                    image, 1, channels, frames, *size, dtype, self.device, generator
                )
        else:
            if plan.strength is None:
                raise ValueError("video-to-video needs a strength")
            timesteps, steps = pipe.get_timesteps(steps, timesteps, plan.strength, self.device)
            video = torch.stack([_to_model_range(f) for f in source], dim=1).unsqueeze(0).to(self.device, dtype)
            with self.placement.on_device("vae"):
                latents = pipe.prepare_latents(
                    video, 1, channels, *size, dtype, self.device, generator, timestep=timesteps[:1]
                )
        config = self.model.transformer.config
        rotary = None
        if config.use_rotary_positional_embeddings:
            rotary = pipe._prepare_rotary_positional_embeddings(*size, latents.size(1), self.device)
        ofs = None if config.ofs_embed_dim is None else latents.new_full((1,), fill_value=OFS)
        conditions = Conditions(prompt_embeds, image_latents, rotary, ofs, timesteps, steps, padding)
        return conditions, Sampling(0, latents, None, generator)

    @torch.no_grad()
    def step(self, transformer: Any, c: Conditions, s: Sampling) -> None:
        """One denoising step. If it raises an exception, `s` is unchanged and the step can be repeated."""
        t = c.timesteps[s.step]
        scheduler = self.pipe.scheduler
        rewind = s.generator.get_state()
        try:
            x = scheduler.scale_model_input(self._doubled(s.latents), t)
            if c.image_latents is not None:
                x = torch.cat([x, self._doubled(c.image_latents)], dim=2)
            extra = {} if c.ofs is None else {"ofs": c.ofs}
            predicted = transformer(
                hidden_states=x,
                encoder_hidden_states=c.prompt_embeds,
                timestep=t.expand(x.shape[0]),
                image_rotary_emb=c.rotary,
                return_dict=False,
                **extra,
            )[0].float()
            if self.guided:
                negative, positive = predicted.chunk(2)
                predicted = negative + self.guidance_at(float(t), c.num_inference_steps) * (positive - negative)
            options = self.pipe.prepare_extra_step_kwargs(s.generator, 0.0)
            old = s.old_pred_original_sample
            if isinstance(scheduler, CogVideoXDPMScheduler):
                before = c.timesteps[s.step - 1] if s.step > 0 else None
                latents, old = scheduler.step(predicted, old, t, before, s.latents, **options, return_dict=False)
            else:
                latents = scheduler.step(predicted, t, s.latents, **options, return_dict=False)[0]
        except BaseException:
            s.generator.set_state(rewind)
            raise
        s.latents, s.old_pred_original_sample = latents.to(c.prompt_embeds.dtype), old
        s.step += 1

    def guidance_at(self, timestep: float, steps: int) -> float:
        """The guidance scale at a timestep (0..999).

        The dynamic formula is diffusers' own. The formula was written for a step index but is given the timestep, so
        the scale oscillates instead of falling (huggingface/diffusers#9641). Published seeds and recipes depend on this
        behaviour, so it is kept.
        """
        scale = self.plan.guidance_scale
        if not self.plan.use_dynamic_cfg:
            return scale
        return 1 + scale * (1 - math.cos(math.pi * ((steps - timestep) / steps) ** 5.0)) / 2

    def _doubled(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x] * 2) if self.guided else x


def _to_model_range(frame: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] -> float32 [3, H, W] in -1..1, with the same arithmetic as diffusers' VaeImageProcessor."""
    scaled = torch.from_numpy(frame.astype(np.float32) / 255.0).permute(2, 0, 1)
    return 2.0 * scaled - 1.0
