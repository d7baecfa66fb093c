"""A tiny transformer, random LoRAs for it in every layout there is, and their effect by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
MODULES = [f"transformer_blocks.{i}.attn1.{m}" for i in range(2) for m in ATTENTION]
RANK = 4


def tiny(heads: int = 2) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CogVideoXTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=8,
            num_layers=2,
            sample_width=8,
            sample_height=8,
            sample_frames=9,
            max_text_seq_length=6,
        ).eval()


def run(transformer: Any) -> Tensor:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        out: Tensor = transformer(
            hidden_states=torch.randn(1, 3, 4, 8, 8, generator=g),
            encoder_hidden_states=torch.randn(1, 6, 8, generator=g),
            timestep=torch.tensor([500]),
        ).sample
    return out


Pairs = dict[str, tuple[Tensor, Tensor]]


def draw(transformer: Any, modules: list[str] | None = None, seed: int = 2, ranks: tuple[int, ...] = (RANK,)) -> Pairs:
    g, out = torch.Generator().manual_seed(seed), {}
    for k, name in enumerate(modules or MODULES):
        weight, rank = transformer.get_submodule(name).weight, ranks[k % len(ranks)]
        down = torch.randn(rank, *weight.shape[1:], generator=g) * 0.2
        ones = (1,) * (weight.ndim - 2)
        out[name] = (down, torch.randn(weight.shape[0], rank, *ones, generator=g) * 0.2)
    return out


def by_hand(transformer: Any, pairs: Pairs, factor: float | Callable[[str], float]) -> Tensor:
    changed = copy.deepcopy(transformer)
    with torch.no_grad():
        for name, (down, up) in pairs.items():
            weight = changed.get_submodule(name).weight
            delta = (up.flatten(1) @ down.flatten(1)).view(weight.shape)
            weight += (factor(name) if callable(factor) else factor) * delta
    return run(changed)


def kohya(name: str, prefix: str = "lora_unet__") -> str:
    return prefix + name.replace(".", "_")


LAYOUTS: dict[str, Callable[[str], tuple[str, str]]] = {
    "diffusers": lambda m: (f"transformer.{m}.lora_A.weight", f"transformer.{m}.lora_B.weight"),
    "bare": lambda m: (f"{m}.lora_A.weight", f"{m}.lora_B.weight"),
    "diffusion_model": lambda m: (f"diffusion_model.{m}.lora_A.weight", f"diffusion_model.{m}.lora_B.weight"),
    "peft": lambda m: (f"base_model.model.{m}.lora_A.weight", f"base_model.model.{m}.lora_B.weight"),
    "peft dump": lambda m: (f"transformer.{m}.lora_A.default.weight", f"transformer.{m}.lora_B.default.weight"),
    "peft of a pipeline": lambda m: (
        f"base_model.model.transformer.{m}.lora_A.my_run.weight",
        f"base_model.model.transformer.{m}.lora_B.my_run.weight",
    ),
    "down up": lambda m: (f"transformer.{m}.lora_down.weight", f"transformer.{m}.lora_up.weight"),
    "dotted down up": lambda m: (f"transformer.{m}.lora.down.weight", f"transformer.{m}.lora.up.weight"),
    "VideoX-Fun": lambda m: (f"{kohya(m)}.lora_down.weight", f"{kohya(m)}.lora_up.weight"),
    "kohya": lambda m: (f"{kohya(m, 'lora_unet_')}.lora_down.weight", f"{kohya(m, 'lora_unet_')}.lora_up.weight"),
}


def write(
    path: Path, pairs: Pairs, layout: str = "diffusers", extra: dict[str, Tensor] | None = None, **meta: str
) -> Path:
    tensors = dict(extra or {})
    for name, (down, up) in pairs.items():
        a, b = LAYOUTS[layout](name)
        tensors |= {a: down.contiguous(), b: up.contiguous()}
    save_file(tensors, path, metadata={"format": "pt", **meta})
    return path


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-5, rtol=1e-4)
