"""LoRA files of any trainer -> adapters on the transformer, with the strength their trainer meant.

Knows: PEFT adapters through diffusers, where they compute. Does not know: key layouts (`lora_layout`), where alpha is
kept (`lora_file`), where files come from, requests. A LoRA is never fused: in bfloat16 adding and taking away again
does not give the weights back.

diffusers' own loader takes one layout; with others it does nothing and says so only in the log.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipelines import lora_file
from pipelines.lora_file import Alpha, AlphaSource, LoraFile
from pipelines.lora_layout import LoraError, Match, Shape

__all__ = ["Adapter", "LoadedLora", "LoraError", "attach", "load_lora", "read_adapter", "unload"]


@dataclass(frozen=True)
class LoadedLora:
    """What was attached. `rank` and `alpha` are None where modules differ."""

    name: str
    scale: float
    modules: int
    rank: int | None
    alpha: float | None
    alpha_source: AlphaSource
    layout: str


@dataclass(frozen=True)
class Adapter:
    """A LoRA that fits a transformer: (A, B) by module, in main memory and in the dtype it computes in."""

    file: LoraFile
    match: Match
    sha256: str
    pairs: dict[str, tuple[Tensor, Tensor]]

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for pair in self.pairs.values() for t in pair)

    def alpha(self, asked: float | None = None) -> Alpha:
        """As it stands now: the owner may change a sidecar while the tensors are kept."""
        return lora_file.alpha_of(self.file, self.match, asked)


def load_lora(
    pipeline_or_transformer: Any, path: str | Path, scale: float, name: str, alpha: float | None = None
) -> LoadedLora:
    """`read_adapter`, then `attach`."""
    _, transformer = _parts(pipeline_or_transformer)
    return attach(pipeline_or_transformer, read_adapter(transformer, Path(path)), scale, name, alpha)


def read_adapter(transformer: nn.Module, path: Path) -> Adapter:
    """LoraError (a ValueError) for another file type, a torn file, shapes of another base model, or a file of which
    not all fits."""
    layers = dict(_base_layers(transformer))
    file = lora_file.read(path)
    found = lora_file.matched(file, {name: _shape(name, layer) for name, layer in layers.items()})
    pairs = {}
    try:
        with safe_open(path, framework="pt") as tensors:
            for module, pair in found.pairs.items():
                dtype = _computes_in(layers[module])
                halves = (tensors.get_tensor(pair.down), tensors.get_tensor(pair.up))
                # copies: what safetensors gives is the file itself, which its owner may overwrite
                down, up = (half.to(dtype or half.dtype, copy=True) for half in halves)
                pairs[module] = (down, up)
    except (SafetensorError, OSError) as e:
        raise LoraError(f"cannot be read: {e}") from e
    return Adapter(file, found, lora_file.digest(path), pairs)


def attach(
    pipeline_or_transformer: Any, adapter: Adapter, scale: float, name: str, alpha: float | None = None
) -> LoadedLora:
    """Let `adapter` act under `name` with `scale`, beside those already there; `alpha` counts where the file has none.

    Give the pipeline rather than the transformer when its offloading is on. LoraError for a name in use, a scale or an
    alpha that is no number, or fused query-key-value projections; nothing is attached then.
    """
    pipeline, transformer = _parts(pipeline_or_transformer)
    if not name or "." in name:
        raise LoraError(f"an adapter's name must be without dots, not {name!r}")
    if name in getattr(transformer, "peft_config", {}):
        raise LoraError(f"an adapter {name!r} is loaded already")
    if not math.isfinite(scale):
        raise LoraError(f"the scale must be a number, not {scale}")
    if any(getattr(m, "fused_projections", False) for m in transformer.modules()):
        raise LoraError("query, key and value are fused; a LoRA would act on nothing. Call unfuse_qkv_projections()")
    strength = adapter.alpha(alpha)
    first = not getattr(transformer, "peft_config", {})
    try:
        _attach(pipeline, transformer, name, adapter.pairs, strength.values)
        _activate(transformer, name, scale, set(adapter.pairs))
    except Exception as e:
        if first:
            unload(transformer)
        elif name in transformer.peft_config:
            _drop(transformer, name)
        if isinstance(e, torch.OutOfMemoryError):
            raise
        raise LoraError(f"could not be attached: {e}") from e
    ranks = {pair.rank for pair in adapter.match.pairs.values()}
    return LoadedLora(
        name=name,
        scale=scale,
        modules=len(adapter.pairs),
        rank=ranks.pop() if len(ranks) == 1 else None,
        alpha=strength.common,
        alpha_source=strength.source,
        layout=adapter.match.layout,
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


def _shape(name: str, layer: nn.Module) -> Shape:
    weight = layer.weight
    if not isinstance(weight, Tensor):
        raise LoraError(f"{name} has no weight to act on")
    return tuple(weight.shape)


def _computes_in(layer: nn.Module) -> torch.dtype | None:
    """None where the layer stores 8 bits: then the adapter's own will do."""
    dtype = next(layer.parameters()).dtype
    return dtype if dtype in (torch.float32, torch.bfloat16, torch.float16) else None


def _attach(
    pipeline: Any,
    transformer: Any,
    name: str,
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    alpha: Mapping[str, float],
) -> None:
    layers = dict(_base_layers(transformer))
    state_dict = {}
    for module, halves in pairs.items():
        for key, half in zip(("lora_A", "lora_B"), halves, strict=True):
            state_dict[f"{module}.{key}.weight"] = half.to(**_like(layers[module]), copy=True)
    ranks = {module: down.shape[0] for module, (down, _) in pairs.items()}
    rank, usual = (Counter(v).most_common(1)[0][0] for v in (ranks.values(), alpha.values()))
    # Given as metadata, the configuration is taken as it is; left out, diffusers would guess it from the tensors.
    config = {
        "r": rank,
        "lora_alpha": usual,
        "rank_pattern": {f"^{m}": r for m, r in ranks.items() if r != rank},
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
    weight, dtype = next(layer.parameters()), _computes_in(layer)
    device = torch.device("cpu") if weight.device.type == "meta" else weight.device
    return {"device": device, "dtype": dtype} if dtype else {"device": device}


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
