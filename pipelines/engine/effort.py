"""The amount of work in each stage of a run, and estimates of a stage's time until that time is measured.

Knows: the architecture of transformer and VAE decoder, counted in multiplications. Does not know: clocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.run import Clip, Run
from pipelines.events import StageName
from pipelines.frames.decode import decoder_calls
from pipelines.frames.finish import frame_counts
from pipelines.plan import SamplingPlan, VideoPlan
from pipelines.request import Task

CONVOLUTION = 6.0  # how many times longer a multiplication takes in the VAE's 3D convolutions than in a transformer
# Estimates before the first measurement: how many pixels ffmpeg accepts per second (TAKEN), and how many pixels it
# encodes per second while the file is closed (ENCODED)
TAKEN = {"mp4": 4e7, "webm": 2e7, "gif": 3e6}
ENCODED = {"mp4": 4e7, "webm": 8e6, "gif": 1e6}
ENCODING = ("write", "finish")  # the stages that depend on the format
HELD_BACK = 50  # frames that an encoder may keep until the file is closed; the GIF encoder keeps all frames
LATENT = 8  # pixels of the video on a side of a latent pixel
LATENT_FRAMES = 4  # frames of the video in a latent frame


@dataclass
class Speeds:
    """For each stage, the seconds per pixel of a unit, as measured in the latest run on this device."""

    _known: dict[tuple[str, str], float] = field(default_factory=dict)

    def learn(
        self, model: str, measured: Mapping[StageName, float], sizes: Mapping[StageName, float], kind: str = "mp4"
    ) -> None:
        """`kind`: the output format."""
        for stage, seconds in measured.items():
            if sizes.get(stage):
                self._known[model, _of_kind(stage, kind)] = seconds / sizes[stage]

    def usual(self, model: str, sizes: Mapping[StageName, float], kind: str = "mp4") -> dict[str, float]:
        known = {stage: self._known.get((model, _of_kind(stage, kind))) for stage in sizes}
        return {stage: known_one * sizes[stage] for stage, known_one in known.items() if known_one is not None}


def _of_kind(stage: str, kind: str) -> str:
    return f"{stage} {kind}" if stage in ENCODING else stage


def prepare(run: Run, speeds: Speeds) -> None:
    """Give the meter the expected work, and the time that each unit took in earlier runs."""
    plan = run.plan
    run.meter.expect("denoise", _steps(plan.sampling) * len(run.clips))
    begin_delivery(run)
    pixels, kind = plan.video.width * plan.video.height, plan.video.output_format
    run.meter.usual = {
        "write": pixels / TAKEN[kind],
        "finish": pixels / ENCODED[kind],
        **speeds.usual(plan.sampling.model, sizes(run), kind),
    }
    run.meter.in_steps = _in_steps(run)


def learn(run: Run, speeds: Speeds) -> None:
    speeds.learn(run.plan.sampling.model, run.meter.measured(), sizes(run), run.plan.video.output_format)


def begin_decoding(run: Run) -> None:
    """Tell the meter how many calls of the decoder to expect. This is repeated after each change of the rung, because
    decoding by tiles needs more calls."""
    if run.latents:
        run.meter.reach("denoise", len(run.latents) / len(run.clips))
    run.meter.expect("decode", decodings(run.clips), run.decoded)


def begin_delivery(run: Run) -> None:
    """Tell the meter all the work that follows sampling. This is repeated when that work restarts after an OOM."""
    run.meter.expect("decode", decodings(run.clips), run.decoded)
    frames = frame_counts(run.plan, run.interpolator is not None, run.upscaler is not None)
    for stage, count in frames.items():
        run.meter.expect(stage, count)
    left = frames["write"] if run.plan.video.output_format == "gif" else min(frames["write"], HELD_BACK)
    run.meter.expect("finish", left + before_encoding(run.plan.video, left))


def before_encoding(video: VideoPlan, frames: int) -> int:
    """The work on a GIF's palette, expressed as a number of encoded frames. The palette is made before the first frame
    is encoded."""
    return frames // 2 if video.output_format == "gif" else 0


def sizes(run: Run) -> dict[StageName, float]:
    """The size of a unit of each stage, in pixels. If a unit covers several frames, the pixels of all these frames
    count."""
    plan, video = run.plan.sampling, run.plan.video
    model_pixels, file_pixels = plan.model_width * plan.model_height, video.width * video.height
    frames = plan.model_frames
    return {
        "denoise": float(model_pixels * frames * (2 if plan.guidance_scale > 1 else 1)),
        "decode": model_pixels * frames / calls(run.clips[0]),
        "enlarge": float(model_pixels),
        "interpolate": float(file_pixels if run.upscaler is not None else model_pixels),
        "write": float(file_pixels),
        "finish": float(file_pixels),
    }


def decodings(clips: Sequence[Clip]) -> int:
    """The number of calls of the VAE's decoder. Each clip except the last is first decoded for its last frame, from
    which the next clip continues. At the end, every clip is decoded for the file."""
    return sum(map(calls, clips)) + sum(map(calls, clips[:-1]))


def calls(clip: Clip) -> int:
    height, width = clip.plan.model_height // LATENT, clip.plan.model_width // LATENT
    return decoder_calls(clip.model.vae, _latent_frames(clip.plan), height, width)


def _latent_frames(plan: SamplingPlan) -> int:
    return ((plan.source_frames or plan.model_frames) - 1) // LATENT_FRAMES + 1


def _steps(plan: SamplingPlan) -> int:
    if plan.task is Task.V2V and plan.strength is not None:
        return max(1, min(plan.num_inference_steps, int(plan.num_inference_steps * plan.strength)))
    return plan.num_inference_steps


def _in_steps(run: Run) -> dict[str, float]:
    """The time of a unit of each stage after sampling, as a multiple of the time of a sampling step."""
    clip, plan = run.clips[0], run.plan.sampling
    step = _step_work(clip.model.transformer, plan)
    latents = _latent_frames(plan) * (plan.model_height // LATENT) * (plan.model_width // LATENT)
    decode = latents * _decoder_work(clip.model.vae) / calls(clip)
    units = {"decode": decode * CONVOLUTION / step}
    if run.upscaler is not None:
        units["enlarge"] = run.upscaler.weights * plan.model_width * plan.model_height * CONVOLUTION / step
    if run.interpolator is not None:
        # most of RIFE works at an eighth of the size or less
        pixels = sizes(run)["interpolate"] / 16
        units["interpolate"] = sum(p.numel() for p in run.interpolator.parameters()) * pixels * CONVOLUTION / step
    return units


def _step_work(transformer: Any, plan: SamplingPlan) -> float:
    """Multiplications of a sampling step."""
    config = transformer.config
    patch = config.patch_size
    tokens = plan.max_tokens + _latent_frames(plan) / (config.patch_size_t or 1) * (
        plan.model_height // LATENT // patch
    ) * (plan.model_width // LATENT // patch)
    weights = sum(p.numel() for p in transformer.transformer_blocks.parameters())
    width = config.num_attention_heads * config.attention_head_dim
    once: float = tokens * weights + 2 * tokens**2 * width * config.num_layers
    return once * (2 if plan.guidance_scale > 1 else 1)


def _decoder_work(vae: Any) -> float:
    """Multiplications of the VAE's decoder for each latent pixel of each latent frame."""
    blocks = len(vae.decoder.up_blocks)
    doublings = int(math.log2(vae.config.temporal_compression_ratio))
    work = 0.0
    for name, weight in vae.decoder.named_parameters():
        if weight.ndim < 4:
            continue
        parts = name.split(".")
        level = int(parts[1]) if parts[0] == "up_blocks" else blocks - 1 if "_out" in parts[0] else 0
        work += weight.numel() * 4**level * 2 ** min(level, doublings)
    return work
