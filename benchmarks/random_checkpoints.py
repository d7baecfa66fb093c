"""Models of the published shapes with random weights, created in memory.

Speed and memory depend on the shapes, not on the values of the weights. Weights are drawn from N(0, 0.02), and the
weights of norms around 1. They are not zeros, because a model of zeros would run faster than any real model. The videos
are noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel

from pipelines.engine.loader import Model
from pipelines.models import FAMILIES, Family, FrameRule, ModelInfo, SizeRule

Kind = Literal["2b", "5b", "5b-i2v", "1.5-5b"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Scale = Literal["true", "middle", "tiny"]

STD = 0.02
TEXT_TOKENS = 226
_ROPE = {"use_rotary_positional_embeddings": True}
_TRANSFORMER: dict[Kind, dict[str, Any]] = {
    "2b": {"num_attention_heads": 30, "num_layers": 30},
    "5b": _ROPE | {"num_attention_heads": 48, "num_layers": 42},
    "5b-i2v": _ROPE
    | {"num_attention_heads": 48, "num_layers": 42, "in_channels": 32, "use_learned_positional_embeddings": True},
    "1.5-5b": _ROPE
    | {"num_attention_heads": 48, "num_layers": 42, "patch_size_t": 2, "patch_bias": False}
    | {"sample_height": 300, "sample_width": 300, "sample_frames": 81},
}
_VAE: dict[str, Any] = {"block_out_channels": (128, 256, 256, 512), "layers_per_block": 3}
_TEXT: dict[str, Any] = {"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240}
_TEXT |= {"num_layers": 24, "num_heads": 64}

# scale -> (transformer, VAE, text encoder, width, height, frames); `middle` is big enough to see what offloading saves.
# NOTE: a VAE's sample size only sets the size of its tiles: each side of a tile is half of the sample's side. If a
# tile's height is not a multiple of 48 pixels or its width not a multiple of 40, the stock code returns images of a
# wrong size.
_SMALLER: dict[Scale, tuple[dict[str, Any], dict[str, Any], dict[str, Any], int, int, int]] = {
    "middle": (
        {"num_attention_heads": 12, "num_layers": 12, "text_embed_dim": 768},
        {"block_out_channels": (32, 64, 64, 64), "layers_per_block": 1, "norm_num_groups": 8}
        | {"sample_height": 192, "sample_width": 160},
        {"vocab_size": 512, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
        256,
        256,
        17,
    ),
    "tiny": (
        {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
        | {"time_embed_dim": 32, "text_embed_dim": 32},
        {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}
        | {"sample_height": 96, "sample_width": 80},
        {"vocab_size": 512, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        64,
        48,
        9,
    ),
}


class Words:
    """Replaces the T5 tokenizer: a word always has the same id, a sequence ends with 1, padding is 0."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __call__(self, prompt: str | list[str], **options: Any) -> Any:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        rows = [[2 + zlib.crc32(w.encode()) % (self.vocabulary - 2) for w in p.split()] + [1] for p in prompts]
        length = options.get("max_length") if options.get("padding") == "max_length" else None
        length = length or max(len(row) for row in rows)
        padded = [(row + [0] * length)[:length] for row in rows]
        return _Ids(torch.tensor(padded) if options.get("return_tensors") == "pt" else padded[0])

    def batch_decode(self, ids: Any) -> list[str]:
        return [" ".join(str(int(one)) for one in row) for row in ids]


class _Ids:
    def __init__(self, input_ids: Any) -> None:
        self.input_ids = input_ids


def build(kind: Kind, device: torch.device, scale: Scale = "true", seed: int = 0) -> Model:
    """A model like those from `Loader`, already on `device`. The same arguments give the same weights on the same kind
    of device.
    """
    family = next(f for f in FAMILIES if f.name == f"cogvideox-{kind}")
    dtype: torch.dtype = torch.float32 if device.type == "cpu" else getattr(torch, family.dtype)
    transformer = {"text_embed_dim": 4096, **_TRANSFORMER[kind]}
    second = "patch_size_t" in transformer
    vae, text = dict(_VAE), dict(_TEXT)
    if scale != "true":
        smaller, vae, text, width, height, frames = _SMALLER[scale]
        frames = 17 if second else frames
        transformer |= smaller | {"sample_width": width // 8, "sample_height": height // 8, "sample_frames": frames}
        family = _shrunk(family, width, height, frames)
    vae |= {"scaling_factor": 1.15258426 if kind == "2b" else 0.7, "invert_scale_latents": second}
    t5 = T5Config(feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False, **text)
    made_vae = _fill(AutoencoderKLCogVideoX, vae, dtype, device, seed + 1)
    made_text = _fill(T5EncoderModel, {"config": t5}, dtype, device, seed + 2)
    made_text.tie_weights()
    made = _fill(CogVideoXTransformer3DModel, transformer, dtype, device, seed)
    info = ModelInfo(
        name=f"{kind} ({scale} shape, random weights)",
        folder=Path("nowhere"),
        family=family,
        known=scale == "true",
        max_tokens=TEXT_TOKENS,
        latent_patch_frames=made.config.patch_size_t or 1,
        inner_dim=made.config.num_attention_heads * made.config.attention_head_dim,
        decoder_width=made_vae.config.block_out_channels[0],
        tile_pixels=made_vae.config.sample_height // 2 * (made_vae.config.sample_width // 2),
    )
    return Model(info, dtype, Words(t5.vocab_size), made_text, made, made_vae, _schedule(kind))


def _shrunk(family: Family, width: int, height: int, frames: int) -> Family:
    rule = FrameRule(family.frames.step, min(frames, family.frames.step + 1), frames, frames)
    return replace(family, sizes=SizeRule(((width, height),)), frames=rule)


def _schedule(kind: Kind) -> dict[str, Any]:
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "snr_shift_scale": 3.0 if kind == "2b" else 1.0,
        "timestep_spacing": "trailing",
    }


def _fill(cls: Any, config: Mapping[str, Any], dtype: torch.dtype, device: torch.device, seed: int) -> Any:
    """An instance whose parameters are drawn directly on `device`, one tensor at a time, so there is never a second
    copy.
    """
    with init_empty_weights(include_buffers=False):
        module = cls(**config)
    # modules that the libraries keep in float32 when they load float16
    kept = (getattr(cls, "_keep_in_fp32_modules", None) or []) if dtype is torch.float16 else []
    generator = (
        None if device.type == "meta" else torch.Generator(device).manual_seed(seed)
    )  # meta tensors have no values
    for prefix, part in module.named_modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is None:
                continue
            as_dtype = torch.float32 if set(kept) & set(prefix.split(".")) else dtype
            value = torch.empty(parameter.shape, dtype=as_dtype, device=device).normal_(0, STD, generator=generator)
            if parameter.ndim == 1 and name == "weight":  # a norm's
                value += 1
            setattr(part, name, torch.nn.Parameter(value, requires_grad=False))
        for name, buffer in list(part._buffers.items()):  # checkpoints store persistent buffers in `dtype`
            if buffer is not None and buffer.is_floating_point() and name not in part._non_persistent_buffers_set:
                part._buffers[name] = buffer.to(dtype)
    return module.to(device).eval()
