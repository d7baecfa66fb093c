"""Match the tensors of a LoRA file to the layers of a transformer, and check that they fit. No torch.

The file is refused unless every tensor for the transformer fits, because half a LoRA is another LoRA. Tensors for the
text encoder are counted and ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.lora import names as lora_names
from pipelines.lora.names import ALPHA, MAGNITUDE

Shape = tuple[int, ...]
Layers = Mapping[str, Shape]  # name of a layer that a LoRA can change -> shape of its weight
Kind = Literal["LoRA", "DoRA", "LoHa", "LoKr"]

WIDTHS = {1920: "CogVideoX-2B", 3072: "CogVideoX-5B or 1.5-5B"}
SHOWN = 4  # names in a message


class LoraError(ValueError):
    """The file cannot be used with this transformer; nothing was attached."""


@dataclass(frozen=True)
class Part:
    """A file's tensors for one layer. `keys` maps PEFT's name of a tensor to the tensor's key in the file.

    lora_A.weight [rank, in] (convolution: [rank, in, h, w]), lora_B.weight [out, rank], lora_B.bias [out] or none,
    lora_magnitude_vector [out] (DoRA). LoHa and LoKr have the names and shapes of PEFT. `rank` is 1 for a LoKr of whole
    matrices.
    """

    kind: Kind
    keys: dict[str, str]
    rank: int

    @property
    def is_whole(self) -> bool:
        """Whether the part has no rank, so that alpha does not apply."""
        return self.kind == "LoKr" and not any(name.endswith("_b") for name in self.keys)


@dataclass(frozen=True)
class Match:
    """`layout` is a description for messages. The keys of `parts` and `alphas` are the transformer's own names of
    layers. `text`: how many of the text encoder's layers the file contains."""

    layout: str
    parts: dict[str, Part]
    alphas: dict[str, str] = field(default_factory=dict)
    text: int = 0

    @property
    def is_bare(self) -> bool:
        """Whether the keys look like an export of the SAT trainer."""
        return self.layout.startswith("no prefix") and not self.layout.endswith("wrapped names")

    @property
    def text_layers(self) -> str:
        return _layers(self.text)

    @property
    def kinds(self) -> list[str]:
        return sorted({part.kind for part in self.parts.values()})


def match(shapes: Mapping[str, Shape], layers: Layers) -> Match:
    """Match every tensor of the file to the transformer's names. Raises LoraError unless all tensors for the
    transformer fit."""
    underscored = {name.replace(".", "_"): name for name in layers}
    found: dict[str, dict[str, str]] = {}
    alphas: dict[str, str] = {}
    others: list[str] = []
    text: set[str] = set()
    for key in shapes:
        if lora_names.is_of_text_encoder(key):
            named = lora_names.parsed(key, {})
            text.add(key if named is None else named[0])
            continue
        named = lora_names.parsed(key, underscored)
        if named is None:
            others.append(key)
            continue
        module, what = named
        if (what == ALPHA and module in alphas) or what in found.get(module, {}):
            raise LoraError(f"it holds {module} twice")
        if what == ALPHA:
            alphas[module] = key
        else:
            found.setdefault(module, {})[what] = key
    strange = [*(m for m in (*found, *alphas) if m not in layers or m not in found), *others]
    fit = {module: keys for module, keys in found.items() if module in layers}
    # this check comes before the check of the shapes, because the LoRA's own base model may have layers of the same
    # names
    if (model := lora_names.foreign(strange)) is not None:
        held = "it holds nothing for this transformer" if not fit else f"{len(fit)} of its modules have the same names"
        raise LoraError(f"it is for {model}, not for CogVideoX; {held}; it holds {_some(strange)}")
    kind = lora_names.unsupported(others)
    if kind is not None or not fit:
        known = "" if kind is None else f"it is {kind}, which is not supported; "
        raise LoraError(known + _expected(shapes, len(fit), len(found), strange, len(text), layers))
    parts = {module: _part(module, keys, shapes, layers[module]) for module, keys in fit.items()}
    if strange:
        raise LoraError(_expected(shapes, len(fit), len(found), strange, len(text), layers))
    first = next(iter(next(iter(parts.values())).keys.values()))
    return Match(lora_names.layout(first), parts, alphas, len(text))


def layers_of(config: Mapping[str, Any]) -> dict[str, Shape]:
    """The layers of a transformer with this config.json."""
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


def _part(module: str, keys: dict[str, str], shapes: Mapping[str, Shape], weight: Shape) -> Part:
    """`weight`: the shape of the layer's weight. Raises LoraError unless the tensors are a complete adapter for the
    layer."""
    got = {name: shapes[key] for name, key in keys.items()}
    families = {name.partition("_")[0] for name in got}
    if families == {"lora"}:
        return _lora(module, keys, got, weight)
    if MAGNITUDE in got:
        raise LoraError(f"{module}: it is DoRA on {'LoHa' if 'hada' in families else 'LoKr'}, which is not supported")
    if len(families) > 1:
        raise LoraError(f"{module}: it holds adapters of two kinds for one layer")
    return _loha(module, keys, got, weight) if families == {"hada"} else _lokr(module, keys, got, weight)


def _lora(module: str, keys: dict[str, str], got: Mapping[str, Shape], weight: Shape) -> Part:
    if missing := {"lora_A.weight", "lora_B.weight"} - got.keys():
        raise LoraError(f"it holds only half of {module}: {missing.pop()} is missing")
    down, up = got["lora_A.weight"], got["lora_B.weight"]
    if min(len(down), len(up)) < 2:
        raise LoraError(f"{module}: its tensors are not matrices")
    if down[0] < 1 or up[1] != down[0]:
        raise LoraError(f"{module}: its halves differ in rank, {down[0]} and {up[1]}")
    ones = (1,) * (len(weight) - 2)
    if down[1:] != weight[1:] or up[0] != weight[0]:
        raise LoraError(f"{module}: {_sizes(module, (up[0], *down[1:]), weight)}")
    if up[2:] != ones:
        raise LoraError(f"{module}: its second half is {list(up)}, {[weight[0], down[0], *ones]} is expected")
    if "lora_A.bias" in got or got.get("lora_B.bias", weight[:1]) != weight[:1]:
        raise LoraError(f"{module}: its bias does not fit; the layer has {weight[0]} outputs")
    if (norm := got.get(MAGNITUDE)) is None:
        return Part("LoRA", keys, down[0])
    if "lora_B.bias" in got:
        raise LoraError(f"{module}: it is DoRA with a bias (lora_bias), which is not supported")
    of_peft = (1, weight[0], *ones) if ones else weight[:1]  # else LyCORIS's
    if norm not in (weight[:1], of_peft, (weight[0], 1, *ones)):
        raise LoraError(
            f"{module}: it holds DoRA magnitudes of shape {list(norm)}, not one for each of {weight[0]} outputs; those"
            " for each input (wd_on_out=false) are not supported"
        )
    return Part("DoRA", keys, down[0])


def _loha(module: str, keys: dict[str, str], got: Mapping[str, Shape], weight: Shape) -> Part:
    tucker = "hada_t1" in got or "hada_t2" in got
    wanted = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} | ({"hada_t1", "hada_t2"} if tucker else set())
    if wanted != got.keys():
        raise LoraError(f"{module}: it is half a LoHa; {', '.join(sorted(wanted - got.keys()))} missing")
    rank = (got["hada_w1_b"] or (0,))[0]
    for n in "12":
        made = _product(got[f"hada_w{n}_a"], got[f"hada_w{n}_b"], got.get(f"hada_t{n}"), rank)
        _check_made(module, "LoHa", made, weight)
    return Part("LoHa", keys, rank)


def _lokr(module: str, keys: dict[str, str], got: Mapping[str, Shape], weight: Shape) -> Part:
    """LoKr is the Kronecker product of w1 and w2. Each of w1 and w2 is stored as one tensor or as two halves. The
    halves of w2 may have a core (Tucker) between them."""
    ranks, sides = set(), []
    for n in "12":
        whole, halves = got.get(f"lokr_w{n}"), [got.get(f"lokr_w{n}_{half}") for half in "ab"]
        core = got.get("lokr_t2") if n == "2" else None
        if (whole is None) == (None in halves) or (whole is not None and (halves != [None, None] or core)):
            raise LoraError(f"{module}: it is half a LoKr; it needs lokr_w{n}, or lokr_w{n}_a and lokr_w{n}_b")
        if whole is not None:
            sides.append(whole if len(whole) > 1 else None)
            continue
        a, b = halves
        rank = (b or (0,))[0]
        ranks.add(rank)
        sides.append(_product(a or (), b or (), core, rank))
    one, two = sides
    made = None
    if one is not None and two is not None and len(one) == 2:
        made = (one[0] * two[0], one[1] * two[1], *two[2:])
    _check_made(module, "LoKr", made if len(ranks) < 2 else None, weight)
    return Part("LoKr", keys, ranks.pop() if ranks else 1)


def _product(a: Shape, b: Shape, core: Shape | None, rank: int) -> Shape | None:
    """The shape of a @ b, where a is [out, rank] and b is [rank, in]. With a core [rank, rank, ...], a is [rank,
    out]."""
    if len(a) != 2 or len(b) != 2 or rank < 1 or b[0] != rank:
        return None
    if core is None:
        return (a[0], b[1]) if a[1] == rank else None
    return (a[1], b[1], *core[2:]) if a[0] == rank and core[:2] == (rank, rank) else None


def _check_made(module: str, kind: Kind, made: Shape | None, weight: Shape) -> None:
    if made is None:
        raise LoraError(f"{module}: the shapes of its {kind} contradict each other")
    if made[0] != weight[0] or math.prod(made) != math.prod(weight) or made[2:] not in ((), weight[2:]):
        raise LoraError(f"{module}: {_sizes(module, made, weight)}")


def _sizes(module: str, made: Shape, weight: Shape) -> str:
    if made[:2] == weight[:2]:
        return f"it is for a weight of {list(made)}, the transformer has {list(weight)}"
    first = module == "patch_embed.proj" and made[0] == weight[0]
    if first and len(made) != len(weight):
        models = ("CogVideoX 1.5", "an older CogVideoX") if len(made) == 2 else ("an older CogVideoX", "1.5's")
        return f"it is for {models[0]}, {list(made)}, the transformer is {models[1]}, {list(weight)}"
    sizes = [_channels(shape[1], shape[0]) for shape in (made, weight)]
    if first and made[1] in (2 * weight[1], weight[1] / 2):
        names = ("image-to-video", "text-to-video") if made[1] > weight[1] else ("text-to-video", "image-to-video")
        sizes = [f"{words} ({name})" for words, name in zip(sizes, names, strict=True)]
    return f"it is for {sizes[0]}, the transformer has {sizes[1]}"


def _channels(inputs: int, outputs: int) -> str:
    model = WIDTHS.get(inputs) or WIDTHS.get(outputs)
    return f"{inputs} -> {outputs} channels" + (f" ({model})" if model else "")


def _expected(keys: Iterable[str], fit: int, count: int, strange: list[str], text: int, layers: Layers) -> str:
    if not fit and not strange and text:
        return f"it is for the text encoder only ({_layers(text)} of it), to which LoRAs are not applied here"
    if fit == count and fit:
        what = f"all of its {fit} modules fit, but it holds more, not of this transformer: {_some(strange)}"
    elif fit:
        what = f"only {fit} of {count} modules fit; not of this transformer: {_some(strange)}"
    else:
        what = f"it holds nothing for this transformer; it holds {_some(list(keys)) or 'nothing'}"
    blocks = [name for name in layers if name.startswith("transformer_blocks.")]
    first = [name for name in blocks if name.startswith("transformer_blocks.0.")]
    count = len({name.split(".")[1] for name in blocks})
    also = [name for name in layers if name not in blocks]
    return (
        f"{what}. Expected: lora_A and lora_B, lora_down and lora_up, or the tensors of DoRA, LoHa or LoKr, of"
        f" {', '.join(first)}, the same up to block {count - 1}, {', '.join(also)}; under transformer.,"
        " diffusion_model., base_model.model., lora_unet_, lycoris_ or without a prefix"
    )


def _layers(count: int) -> str:
    return f"{count} layer{'s' * (count != 1)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name[:100] for name in names[:SHOWN]) + more
