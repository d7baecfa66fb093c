"""Which tensors of a LoRA file belong to which layer of a transformer, in the words of every trainer. No torch.

Knows: the key layouts, the layers a CogVideoX transformer has by its config, what a LoRA's shapes must be.
Does not know: files, alpha, adapters. A file fits wholly or is refused: half a LoRA is another LoRA.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
Layers = Mapping[str, Shape]  # name of a layer that a LoRA can act on -> shape of its weight

PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "model.", "module.")
KOHYA = re.compile(r"lora_(?:unet|transformer)_+(?=\w)")
# `lora_A.weight`, with an adapter's name in between as raw PEFT dumps have it, or the down / up words of others
HALF = re.compile(r"(?P<module>.+)\.lora[_.](?P<half>A|B|down|up)(?P<dump>\.[^.]+)?\.weight")
ALPHA = re.compile(r"(?P<module>.+?)(?:\.lora)?\.alpha")
UNSUPPORTED = {
    "lora_magnitude_vector": "DoRA",
    "dora_scale": "DoRA",
    ".hada_": "LoHa",
    ".lokr_": "LoKr",
    ".lora_mid.": "LoCon with a middle layer",
    ".lora_embedding_": "an embedding LoRA",
}
WIDTHS = {1920: "CogVideoX-2B", 3072: "CogVideoX-5B or 1.5-5B"}
SHOWN = 4  # names in a message


class LoraError(ValueError):
    """The file cannot be used with this transformer; nothing was attached."""


@dataclass(frozen=True)
class Pair:
    """Keys in the file: `down` is A, [rank, in] (convolution: [rank, in, h, w]), `up` is B, [out, rank]."""

    down: str
    up: str
    rank: int


@dataclass(frozen=True)
class Match:
    """`layout` in words; pairs and keys of alpha tensors by the transformer's own names."""

    layout: str
    pairs: dict[str, Pair]
    alphas: dict[str, str] = field(default_factory=dict)

    @property
    def is_bare(self) -> bool:
        return self.layout.startswith("no prefix")


def match(shapes: Mapping[str, Shape], layers: Layers) -> Match:
    """Every tensor of the file under the transformer's names. LoraError unless all of them fit."""
    underscored = {name.replace(".", "_"): name for name in layers}
    halves: dict[str, dict[str, str]] = {}
    alphas: dict[str, str] = {}
    others: list[str] = []
    for key in shapes:
        for mark, kind in UNSUPPORTED.items():
            if mark in key:
                raise LoraError(f"it is {kind}, which is not supported")
        half, alpha = HALF.fullmatch(key), ALPHA.fullmatch(key)
        if half:
            module = _module(half["module"], underscored)
            which = "down" if half["half"] in ("A", "down") else "up"
            if which in halves.setdefault(module, {}):
                raise LoraError(f"it holds {module} twice")
            halves[module][which] = key
        elif alpha:
            alphas[_module(alpha["module"], underscored)] = key
        else:
            others.append(key)
    known = {m: h for m, h in halves.items() if m in layers}
    if lonely := [m for m, h in known.items() if len(h) != 2]:
        raise LoraError(f"it holds only half of {lonely[0]} ({len(lonely)} such)")
    pairs = {m: Pair(h["down"], h["up"], (shapes[h["down"]] or (0,))[0]) for m, h in known.items()}
    for module, pair in pairs.items():
        _check(module, shapes[pair.down], shapes[pair.up], layers[module])
    strange = [*(m for m in (*halves, *alphas) if m not in layers or m not in halves), *others]
    if not known or strange:
        raise LoraError(_expected(shapes, len(known), len(halves), strange, layers))
    return Match(_layout(next(k for k in shapes if HALF.fullmatch(k))), pairs, alphas)


def layers_of(config: Mapping[str, Any]) -> dict[str, Shape]:
    """The layers of the transformer of that config.json."""
    given = {k: v for k, v in config.items() if v is not None}
    width = given.get("num_attention_heads", 30) * given.get("attention_head_dim", 64)
    time, patch, depth = given.get("time_embed_dim", 512), given.get("patch_size", 2), given.get("patch_size_t")
    channels, out = given.get("in_channels", 16), given.get("out_channels", 16)
    flat = patch * patch * (depth or 1)
    layers: dict[str, Shape] = {
        "patch_embed.proj": (width, channels * flat) if depth else (width, channels, patch, patch),
        "patch_embed.text_proj": (width, given.get("text_embed_dim", 4096)),
        "time_embedding.linear_1": (time, width),
        "time_embedding.linear_2": (time, time),
    }
    if ofs := given.get("ofs_embed_dim"):
        layers |= {"ofs_embedding.linear_1": (ofs, ofs), "ofs_embedding.linear_2": (ofs, ofs)}
    for n in range(given.get("num_layers", 30)):
        attention = {f"attn1.{one}": (width, width) for one in ("to_q", "to_k", "to_v", "to_out.0")}
        modulation = {f"{norm}.linear": (6 * width, time) for norm in ("norm1", "norm2")}
        feed = {"ff.net.0.proj": (4 * width, width), "ff.net.2": (width, 4 * width)}
        layers |= {f"transformer_blocks.{n}.{k}": v for k, v in (attention | modulation | feed).items()}
    return layers | {"norm_out.linear": (2 * width, time), "proj_out": (out * flat, width)}


def base_of(layers: Layers) -> str:
    """The family of a transformer in words, by its width."""
    width = next((shape[0] for name, shape in layers.items() if name.endswith(".attn1.to_q")), 0)
    return WIDTHS.get(width, f"a transformer of width {width}")


def _module(name: str, underscored: Mapping[str, str]) -> str:
    if kohya := KOHYA.match(name):
        return underscored.get(name[kohya.end() :], name)
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name


def _check(module: str, down: Shape, up: Shape, weight: Shape) -> None:
    if min(len(down), len(up)) < 2:
        raise LoraError(f"{module}: its tensors are no matrices")
    if down[0] < 1 or up[1] != down[0]:
        raise LoraError(f"{module}: its halves differ in rank, {down[0]} and {up[1]}")
    if down[1:] == weight[1:] and up[0] == weight[0] and len(up) == len(weight):
        return
    raise LoraError(
        f"{module}: it is for {_channels(down[1], up[0])}, the transformer has {_channels(weight[1], weight[0])}"
    )


def _channels(inputs: int, outputs: int) -> str:
    model = WIDTHS.get(inputs) or WIDTHS.get(outputs)
    return f"{inputs} -> {outputs} channels" + (f" ({model})" if model else "")


def _expected(keys: Iterable[str], fit: int, count: int, strange: list[str], layers: Layers) -> str:
    if fit:
        what = f"only {fit} of {count} modules fit; not of this transformer: {_some(strange)}"
    else:
        what = f"it holds nothing for this transformer; it holds {_some(list(keys)) or 'nothing'}"
    blocks = [name for name in layers if name.startswith("transformer_blocks.")]
    first = [name for name in blocks if name.startswith("transformer_blocks.0.")]
    count = len({name.split(".")[1] for name in blocks})
    also = [name for name in layers if name not in blocks]
    return (
        f"{what}. Expected: lora_A and lora_B, or lora_down and lora_up, of {', '.join(first)}, the same up to block"
        f" {count - 1}, {', '.join(also)}; under transformer., diffusion_model., base_model.model., lora_unet_ or"
        " without a prefix"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name[:100] for name in names[:SHOWN]) + more


def _layout(key: str) -> str:
    found = HALF.fullmatch(key)
    assert found is not None
    words = "lora_A/lora_B" if found["half"] in ("A", "B") else "lora_down/lora_up"
    if found["dump"]:
        return f"raw PEFT dump, {words}"
    if kohya := KOHYA.match(key):
        return f"{kohya[0]}, {words} (kohya, VideoX-Fun)"
    prefix = next((one for one in PREFIXES if key.startswith(one)), "no prefix")
    return f"{prefix}, {words}"
