"""A tiny transformer, random LoRAs for it in every supported layout, and their effect computed by hand."""

from __future__ import annotations

import copy
import re
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


def run(transformer: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        out: Tensor = transformer(
            hidden_states=torch.randn(1, 3, 4, 8, 8, generator=g).to(dtype),
            encoder_hidden_states=torch.randn(1, 6, 8, generator=g).to(dtype),
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


Tensors = dict[str, Tensor]
Made = tuple[Tensors, Tensor]  # tensors with PEFT's names, and the resulting change of the weight


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * 0.3


def loha(weight: Tensor, rank: int = 3) -> Made:
    out, rest = weight.shape[0], weight[0].numel()
    w1a, w1b, w2a, w2b = (drawn(*s, seed=n) for n, s in enumerate(((out, rank), (rank, rest)) * 2))
    named = {"hada_w1_a": w1a, "hada_w1_b": w1b, "hada_w2_a": w2a, "hada_w2_b": w2b}
    return named, ((w1a @ w1b) * (w2a @ w2b)).reshape(weight.shape)


def loha_with_cores(weight: Tensor, rank: int = 3) -> Made:
    out, rest, *kernel = weight.shape
    named: Tensors = {}
    made = torch.ones(weight.shape)
    for n in (1, 2):
        core, a, b = drawn(rank, rank, *kernel, seed=n), drawn(rank, out, seed=n), drawn(rank, rest, seed=n)
        named |= {f"hada_t{n}": core, f"hada_w{n}_a": a, f"hada_w{n}_b": b}
        made = made * torch.einsum("ijkl,io,jc->ockl", core, a, b)
    return named, made


def lokr(weight: Tensor, rank: int | None, both: bool = False, factor: int = 4) -> Made:
    """If `rank` is None, both factors are full matrices."""
    out, rest, *kernel = weight.shape
    named: Tensors = {}
    one = drawn(factor, 2)
    if both and rank:
        named |= {"lokr_w1_a": drawn(factor, rank), "lokr_w1_b": drawn(rank, 2)}
        one = named["lokr_w1_a"] @ named["lokr_w1_b"]
    else:
        named["lokr_w1"] = one
    two = drawn(out // factor, rest // 2, *kernel)
    if rank:
        named |= {"lokr_w2_a": drawn(out // factor, rank), "lokr_w2_b": drawn(rank, two[0].numel())}
        two = (named["lokr_w2_a"] @ named["lokr_w2_b"]).reshape(two.shape)
    else:
        named["lokr_w2"] = two
    return named, torch.kron(one.reshape(*one.shape, *(1 for _ in kernel)), two)


def of_kinds(transformer: Any, path: Path) -> Path:
    """DoRA, LoHa and LoKr on three layers of one block, strong enough for a visible effect."""
    first, second, third = MODULES[:3]
    weight = transformer.get_submodule(second).weight.float()
    down, up = draw(transformer, [first])[first]
    norm = drawn(weight.shape[0]) + 1
    tensors = {f"{first}.lora_A.weight": down, f"{first}.lora_B.weight": up, f"{first}.lora_magnitude_vector": norm}
    tensors |= {f"{second}.{what}": t for what, t in loha(weight)[0].items()}
    tensors |= {f"{third}.{what}": t for what, t in lokr(weight, 2)[0].items()}
    save_file({f"transformer.{name}": tensor * 3 for name, tensor in tensors.items()}, path)
    return path


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
    "compiled": lambda m: (f"transformer._orig_mod.{m}.lora_A.weight", f"transformer._orig_mod.{m}.lora_B.weight"),
    "sharded dump": lambda m: (
        f"module._fsdp_wrapped_module.base_model.model._orig_mod.{checkpointed(m)}.lora_A.default.weight",
        f"module._fsdp_wrapped_module.base_model.model._orig_mod.{checkpointed(m)}.lora_B.default.weight",
    ),
    "kohya of a compiled network": lambda m: (
        f"{kohya('_orig_mod.' + checkpointed(m))}.lora_down.weight",
        f"{kohya('_orig_mod.' + checkpointed(m))}.lora_up.weight",
    ),
}


def checkpointed(name: str) -> str:
    """The name that the module `name` has in a compiled block with activation checkpointing."""
    return re.sub(r"(transformer_blocks\.\d+)\.", r"\1._checkpoint_wrapped_module._orig_mod.", name)


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
