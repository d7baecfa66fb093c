"""LoRA files of any trainer -> adapters on the transformer, with the strength their trainer meant.

Knows: the key layouts and the places where alpha is kept; PEFT adapters through diffusers.
Does not know: where files come from, requests, other model families. A LoRA is never fused: in bfloat16 adding and
taking away again does not give the weights back.

    effect of one module:  W + scale x alpha / rank x B A      (arXiv 2106.09685, section 4.1)

diffusers' own loader takes one layout; with others it does nothing and says so only in the log.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

AlphaSource = Literal["metadata", "adapter_config.json", "alpha tensors", "rank"]

_PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "model.", "module.")
_KOHYA = re.compile(r"lora_(?:unet|transformer)_+(?=\w)")
# `lora_A.weight`, with an adapter's name in between as raw PEFT dumps have it, or the down / up words of others
_HALF = re.compile(r"(?P<module>.+)\.lora[_.](?P<half>A|B|down|up)(?:\.[^.]+)?\.weight")
_ALPHA = re.compile(r"(?P<module>.+?)(?:\.lora)?\.alpha")
_UNSUPPORTED = {
    "lora_magnitude_vector": "DoRA",
    "dora_scale": "DoRA",
    ".hada_": "LoHa",
    ".lokr_": "LoKr",
    ".lora_mid.": "LoCon with a middle layer",
    ".lora_embedding_": "an embedding LoRA",
}
_KNOWN_WIDTHS = {1920: "CogVideoX-2B", 3072: "CogVideoX-5B or 1.5-5B"}


class LoraError(ValueError):
    """The file cannot be used with this transformer; nothing was attached."""


@dataclass(frozen=True)
class LoadedLora:
    """What was attached. `rank` and `alpha` are None where modules differ; `ignored` are keys for other models' parts.

    `alpha_source`: where alpha was found; "rank" means nowhere, and alpha = rank (a factor of 1) was taken.
    """

    name: str
    scale: float
    modules: int
    rank: int | None
    alpha: float | None
    alpha_source: AlphaSource
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Pair:
    down: Tensor  # A, [rank, in] (convolution: [rank, in, h, w])
    up: Tensor  # B, [out, rank] (convolution: [out, rank, 1, 1])

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def load_lora(pipeline_or_transformer: Any, path: str | Path, scale: float, name: str) -> LoadedLora:
    """Attach the LoRA at `path` (.safetensors) as adapter `name`, beside those already there.

    Layouts: diffusers, PEFT, bare, `diffusion_model.`, kohya / VideoX-Fun. Alpha is taken from the first place that
    has it: the file's metadata, `adapter_config.json` beside it, alpha tensors, else alpha = rank. Give the pipeline
    rather than the transformer when its offloading is on. LoraError (a ValueError) for another file type, a torn file,
    a name in use, shapes of another base model, fused query-key-value projections, or nothing that fits.
    """
    pipeline, transformer = _parts(pipeline_or_transformer)
    path = Path(path)
    if not name or "." in name:
        raise LoraError(f"an adapter's name must be without dots, not {name!r}")
    if name in getattr(transformer, "peft_config", {}):
        raise LoraError(f"an adapter {name!r} is loaded already")
    if not math.isfinite(scale):
        raise LoraError(f"the scale must be a number, not {scale}")
    if any(getattr(m, "fused_projections", False) for m in transformer.modules()):
        raise LoraError("query, key and value are fused; a LoRA would act on nothing. Call unfuse_qkv_projections()")

    tensors, metadata = _read(path)
    layers = dict(_base_layers(transformer))
    pairs, alphas, ignored = _pairs(tensors, layers, path.name)
    for module, pair in pairs.items():
        _check_shapes(module, pair, layers[module])
    source, alpha = _resolve_alpha(path, metadata, alphas, pairs)

    first = not getattr(transformer, "peft_config", {})
    try:
        _attach(pipeline, transformer, name, pairs, alpha)
        _activate(transformer, name, scale, set(pairs))
    except Exception as e:
        if first:
            unload(transformer)
        elif name in transformer.peft_config:
            _drop(transformer, name)
        raise LoraError(f"{path.name} could not be attached: {e}") from e
    ranks, values = {p.rank for p in pairs.values()}, set(alpha.values())
    return LoadedLora(
        name=name,
        scale=scale,
        modules=len(pairs),
        rank=ranks.pop() if len(ranks) == 1 else None,
        alpha=values.pop() if len(values) == 1 else None,
        alpha_source=source,
        ignored=tuple(ignored),
    )


def unload(pipeline_or_transformer: Any) -> None:
    """Take all adapters off; the plain layers come back with the weights they had, bit for bit."""
    _, transformer = _parts(pipeline_or_transformer)
    if hasattr(transformer, "peft_config"):
        transformer.unload_lora()


def _parts(pipeline_or_transformer: Any) -> tuple[Any, Any]:
    if isinstance(pipeline_or_transformer, nn.Module):
        return None, pipeline_or_transformer
    return pipeline_or_transformer, pipeline_or_transformer.transformer


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix.lower() != ".safetensors":
        raise LoraError(f"{path.name}: a LoRA must be a .safetensors file; other kinds can run code when they are read")
    try:
        with safe_open(path, framework="pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as e:
        raise LoraError(f"{path.name} cannot be read: {e}") from e


def _base_layers(transformer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers a LoRA can act on, under the names they have without adapters."""
    wrapped: list[str] = []
    for name, module in transformer.named_modules():
        if any(name.startswith(f"{w}.") for w in wrapped):
            continue
        if isinstance(module, BaseTunerLayer):
            wrapped.append(name)
            yield name, module.get_base_layer()
        elif isinstance(module, nn.Linear | nn.Conv2d):
            yield name, module


def _pairs(
    tensors: Mapping[str, Tensor], layers: Mapping[str, nn.Module], file: str
) -> tuple[dict[str, _Pair], dict[str, float], list[str]]:
    """The file's tensors under the transformer's names: pairs, alpha tensors' values, keys that fit no layer."""
    underscored = {name.replace(".", "_"): name for name in layers}
    halves: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    ignored: list[str] = []
    for key, tensor in tensors.items():
        for mark, kind in _UNSUPPORTED.items():
            if mark in key:
                raise LoraError(f"{file} is {kind}, which is not supported")
        half, alpha = _HALF.fullmatch(key), _ALPHA.fullmatch(key)
        match = half or alpha
        module = _module_name(match["module"], underscored) if match else ""
        if module not in layers:
            ignored.append(key)
        elif half:
            which = "down" if half["half"] in ("A", "down") else "up"
            if which in halves.setdefault(module, {}):
                raise LoraError(f"{file} holds {module} twice")
            halves[module][which] = tensor
        else:
            alphas[module] = float(tensor)
    if lonely := [m for m, h in halves.items() if len(h) != 2]:
        raise LoraError(f"{file} holds only half of {lonely[0]} ({len(lonely)} such)")
    if not halves:
        seen = ", ".join(list(tensors)[:3]) or "nothing"
        raise LoraError(f"{file} holds nothing for this transformer; it holds {seen} ...")
    return {m: _Pair(h["down"], h["up"]) for m, h in halves.items()}, alphas, ignored


def _module_name(name: str, underscored: Mapping[str, str]) -> str:
    if kohya := _KOHYA.match(name):
        return underscored.get(name[kohya.end() :], "")
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name


def _check_shapes(module: str, pair: _Pair, layer: nn.Module) -> None:
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise LoraError(f"{module} has no weight to act on")
    down, up = pair.down, pair.up
    if min(down.ndim, up.ndim) < 2 or not (down.is_floating_point() and up.is_floating_point()):
        raise LoraError(f"{module}: the LoRA's tensors are no matrices of floating numbers")
    if pair.rank < 1 or up.shape[1] != pair.rank:
        raise LoraError(f"{module}: the LoRA's halves differ in rank, {pair.rank} and {up.shape[1]}")
    if down.shape[1:] == weight.shape[1:] and up.shape[0] == weight.shape[0] and up.ndim == weight.ndim:
        return
    raise LoraError(
        f"{module}: the LoRA is for {_describe(down.shape[1], up.shape[0])}, "
        f"the transformer has {_describe(weight.shape[1], weight.shape[0])}"
    )


def _describe(inputs: int, outputs: int) -> str:
    model = _KNOWN_WIDTHS.get(inputs) or _KNOWN_WIDTHS.get(outputs)
    return f"{inputs} -> {outputs} channels" + (f" ({model})" if model else "")


def _resolve_alpha(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, float], pairs: Mapping[str, _Pair]
) -> tuple[AlphaSource, dict[str, float]]:
    if adapter := metadata.get("lora_adapter_metadata"):
        found = _from_config(adapter, f"{path.name}'s metadata", pairs)
        if found:
            return "metadata", found
    if network := metadata.get("ss_network_alpha"):
        try:
            return "metadata", dict.fromkeys(pairs, float(network))
        except ValueError as e:
            raise LoraError(f"{path.name}: ss_network_alpha is {network!r}, not a number") from e
    beside = path.with_name("adapter_config.json")
    if beside.is_file():
        found = _from_config(beside.read_text("utf-8", "replace"), beside.name, pairs)
        if found:
            return "adapter_config.json", found
    if tensors:  # a module without one has the factor 1, as in kohya's own loader
        return "alpha tensors", {m: tensors.get(m, float(p.rank)) for m, p in pairs.items()}
    return "rank", {m: float(p.rank) for m, p in pairs.items()}


def _from_config(text: str, where: str, pairs: Mapping[str, _Pair]) -> dict[str, float]:
    """Alpha per module from a PEFT configuration (JSON); empty if it has none. Keys may carry `transformer.`."""
    try:
        raw = json.loads(text)
        config = {k.removeprefix("transformer."): v for k, v in raw.items()}
        if config.get("lora_alpha") is None:
            return {}
        alpha = float(config["lora_alpha"])
        # Suffixes are compared as text: a file's regular expressions are not for running.
        patterns = {k.lstrip("^"): float(v) for k, v in (config.get("alpha_pattern") or {}).items()}
    except (ValueError, TypeError, AttributeError) as e:
        raise LoraError(f"{where} is no PEFT configuration: {e}") from e
    out = {}
    for module, pair in pairs.items():
        own = next((v for k, v in patterns.items() if module == k or module.endswith(f".{k}")), alpha)
        # rank-stabilised LoRA divides by the root of the rank, arXiv 2312.03732
        out[module] = own * math.sqrt(pair.rank) if config.get("use_rslora") else own
    return out


def _attach(pipeline: Any, transformer: Any, name: str, pairs: Mapping[str, _Pair], alpha: Mapping[str, float]) -> None:
    layers = dict(_base_layers(transformer))
    state_dict = {}
    for module, pair in pairs.items():
        like = _like(layers[module])
        state_dict[f"{module}.lora_A.weight"] = pair.down.to(**like)
        state_dict[f"{module}.lora_B.weight"] = pair.up.to(**like)
    rank, usual = (Counter(v).most_common(1)[0][0] for v in ((p.rank for p in pairs.values()), alpha.values()))
    # Given as metadata, the configuration is taken as it is; left out, diffusers would guess it from the tensors.
    config = {
        "r": rank,
        "lora_alpha": usual,
        "rank_pattern": {f"^{m}": p.rank for m, p in pairs.items() if p.rank != rank},
        "alpha_pattern": {f"^{m}": a for m, a in alpha.items() if a != usual},
        "target_modules": list(pairs),
    }
    with warnings.catch_warnings():
        # A second adapter is what was asked for. The worker has one thread that touches models, so this is safe.
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        transformer.load_lora_adapter(
            state_dict, prefix=None, adapter_name=name, metadata=config, low_cpu_mem_usage=True, _pipeline=pipeline
        )


def _like(layer: nn.Module) -> dict[str, Any]:
    """Where and as what the adapter computes: as its layer, unless that stores 8 bits or its weights are elsewhere."""
    weight = next(layer.parameters())
    device = torch.device("cpu") if weight.device.type == "meta" else weight.device
    computes = weight.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return {"device": device, "dtype": weight.dtype} if computes else {"device": device}


def _activate(transformer: nn.Module, name: str, scale: float, wanted: set[str]) -> None:
    """Set `name`'s strength and let all adapters act; the others keep theirs. LoraError if a layer lacks it."""
    attached = set()
    for module, layer in transformer.named_modules():
        if isinstance(layer, BaseTunerLayer):
            if name in layer.scaling:
                layer.set_scale(name, scale)
                attached.add(module)
            layer.set_adapter(list(layer.scaling))
    if attached != wanted:
        raise LoraError(f"only {len(attached & wanted)} of {len(wanted)} modules took the adapter")


def _drop(transformer: Any, name: str) -> None:
    for layer in transformer.modules():
        if isinstance(layer, BaseTunerLayer):  # PEFT warns when an active adapter goes
            layer.set_adapter([n for n in layer.scaling if n != name])
    transformer.delete_adapters(name)
