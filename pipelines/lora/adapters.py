"""Attach a LoRA file of any trainer to the transformer, with the strength that the trainer intended.

PEFT makes the adapters. `pipelines.lora.layout` finds the keys in the file, `pipelines.lora.file` finds the alpha. A
LoRA is never fused: in bfloat16, adding and subtracting it does not restore the weights.

diffusers' own loader understands one layout; with other layouts it attaches nothing and only logs that.
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
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipelines.lora import file as lora_file
from pipelines.lora.file import Alpha, AlphaSource, LoraFile
from pipelines.lora.layout import LoraError, Match, Part, Shape
from pipelines.lora.names import MAGNITUDE

__all__ = ["Adapter", "LoadedLora", "LoraError", "attach", "load_lora", "read_adapter", "unload"]


@dataclass(frozen=True)
class LoadedLora:
    """An attached LoRA. `rank` and `alpha` are None if they differ between modules."""

    name: str
    scale: float
    modules: int
    rank: int | None
    alpha: float | None
    alpha_source: AlphaSource
    layout: str


@dataclass(frozen=True)
class Adapter:
    """A LoRA that fits a transformer: `tensors` maps a module and PEFT's name of a tensor to the tensor, in main memory
    and in the dtype of the computation."""

    file: LoraFile
    match: Match
    sha256: str
    tensors: dict[str, dict[str, Tensor]]

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for part in self.tensors.values() for t in part.values())

    def alpha(self, asked: float | None = None) -> Alpha:
        """The alpha is read again each time, because the owner may change a sidecar while the tensors are cached."""
        return lora_file.alpha_of(self.file, self.match, asked)


def load_lora(
    pipeline_or_transformer: Any, path: str | Path, scale: float, name: str, alpha: float | None = None
) -> LoadedLora:
    """`read_adapter`, then `attach`."""
    transformer = _transformer(pipeline_or_transformer)
    return attach(pipeline_or_transformer, read_adapter(transformer, Path(path)), scale, name, alpha)


def read_adapter(transformer: nn.Module, path: Path) -> Adapter:
    """Raises LoraError (a ValueError) for another file type, a damaged file, shapes of another base model, or a file
    that fits only in part."""
    layers = dict(_base_layers(transformer))
    file = lora_file.read(path)
    found = lora_file.matched(file, {name: _shape(name, layer) for name, layer in layers.items()})
    tensors = {}
    try:
        with safe_open(path, framework="pt") as opened:
            for module, part in found.parts.items():
                dtype = _computes_in(layers[module])
                tensors[module] = {name: _read(opened, key, dtype) for name, key in part.keys.items()}
    except (SafetensorError, OSError) as e:
        raise LoraError(f"cannot be read: {e}") from e
    return Adapter(file, found, lora_file.digest(path), tensors)


def _read(opened: Any, key: str, dtype: torch.dtype | None) -> Tensor:
    """Raises LoraError for NaN and infinite numbers, in the file or after conversion to `dtype`."""
    stored: Tensor = opened.get_tensor(key)
    # a copy, because safetensors maps the file into memory and the file's owner may overwrite it
    tensor = stored.to(dtype or stored.dtype, copy=True)
    if not torch.isfinite(tensor.float()).all():
        if torch.isfinite(stored.float()).all():
            raise LoraError(f"{key}: it holds numbers too large for {str(dtype).removeprefix('torch.')}")
        raise LoraError(f"{key}: it holds NaN or infinite numbers")
    return tensor


def attach(
    pipeline_or_transformer: Any, adapter: Adapter, scale: float, name: str, alpha: float | None = None
) -> LoadedLora:
    """Attach `adapter` as `name` with `scale`. Other attached adapters stay. `alpha` is used if the file states no
    alpha.

    Offloading must be off. With a scale of 0 nothing is attached, because a DoRA acts even with scale 0. Raises
    LoraError for a name in use, for a scale or an alpha that is not a number, and for fused query-key-value
    projections; nothing is attached then.
    """
    transformer = _transformer(pipeline_or_transformer)
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
        if scale:
            _attach(transformer, name, adapter, strength.values)
            _activate(transformer, name, scale, set(adapter.tensors))
    except Exception as e:
        if first:
            unload(transformer)
        elif name in getattr(transformer, "peft_config", {}):
            _drop(transformer, name)
        if isinstance(e, torch.OutOfMemoryError):
            raise
        raise LoraError(f"could not be attached: {e}") from e
    ranks = {part.rank for part in adapter.match.parts.values()}
    return LoadedLora(
        name=name,
        scale=scale,
        modules=len(adapter.tensors),
        rank=ranks.pop() if len(ranks) == 1 else None,
        alpha=strength.common,
        alpha_source=strength.source,
        layout=adapter.match.layout,
    )


def unload(pipeline_or_transformer: Any) -> None:
    """Remove all adapters; the plain layers have the same weights as before, to the bit."""
    transformer = _transformer(pipeline_or_transformer)
    if hasattr(transformer, "peft_config"):
        transformer.unload_lora()


def _transformer(pipeline_or_transformer: Any) -> Any:
    is_module = isinstance(pipeline_or_transformer, nn.Module)
    return pipeline_or_transformer if is_module else pipeline_or_transformer.transformer


def _base_layers(transformer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers that a LoRA can change, under the names that they have without adapters."""
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
    """The dtype in which the layer computes; None for a layer of 8 bits, whose adapter keeps its own dtype."""
    dtype = next(layer.parameters()).dtype
    return dtype if dtype in (torch.float32, torch.bfloat16, torch.float16) else None


def _attach(transformer: Any, name: str, adapter: Adapter, alpha: Mapping[str, float]) -> None:
    layers = dict(_base_layers(transformer))
    groups: dict[tuple[str, bool], dict[str, Part]] = {}
    for module, part in adapter.match.parts.items():
        groups.setdefault((part.kind, "lora_B.bias" in part.keys), {})[module] = part
    for (kind, has_bias), parts in groups.items():
        tensors = {
            module: {key: t.to(**_like(layers[module]), copy=True) for key, t in adapter.tensors[module].items()}
            for module in parts
        }
        with warnings.catch_warnings():
            # A second adapter is intended. Only one thread of the worker uses models, so changing the warnings filter
            # is safe.
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            if kind in ("LoRA", "DoRA"):
                _inject_lora(transformer, name, parts, tensors, alpha, has_bias)
            else:
                _inject_lycoris(transformer, name, parts, tensors, alpha)
        transformer._hf_peft_config_loaded = True  # as diffusers' own loader does


def _inject_lora(
    transformer: Any,
    name: str,
    parts: Mapping[str, Part],
    tensors: Mapping[str, Mapping[str, Tensor]],
    alpha: Mapping[str, float],
    has_bias: bool,
) -> None:
    """Attach parts of one kind (LoRA or DoRA) in the same way as diffusers' own loader."""
    ranks = {module: part.rank for module, part in parts.items()}
    rank, usual = (Counter(v).most_common(1)[0][0] for v in (ranks.values(), (alpha[m] for m in parts)))
    config = LoraConfig(
        r=rank,
        lora_alpha=usual,
        rank_pattern={f"^{m}": r for m, r in ranks.items() if r != rank},
        alpha_pattern={f"^{m}": alpha[m] for m in parts if alpha[m] != usual},
        target_modules=list(parts),
        use_dora=next(iter(parts.values())).kind == "DoRA",
        lora_bias=has_bias,
    )
    state_dict = {}
    for module, own in tensors.items():
        ones = (1,) * (own["lora_A.weight"].ndim - 2)
        for key, tensor in own.items():
            is_magnitude = key == MAGNITUDE  # shape [1, out, 1, 1] for a convolution, else [out]
            state_dict[f"{module}.{key}"] = (
                tensor.reshape((1, -1, *ones) if ones else (-1,)) if is_magnitude else tensor
            )
    inject_adapter_in_model(config, transformer, adapter_name=name, state_dict=state_dict, low_cpu_mem_usage=True)
    set_peft_model_state_dict(transformer, state_dict, name, low_cpu_mem_usage=True)


def _inject_lycoris(
    transformer: Any,
    name: str,
    parts: Mapping[str, Part],
    tensors: Mapping[str, Mapping[str, Tensor]],
    alpha: Mapping[str, float],
) -> None:
    """Attach parts of one kind (LoHa or LoKr). The file's tensors replace PEFT's own tensors, which may have other
    shapes."""
    of_kind = LoHaConfig if next(iter(parts.values())).kind == "LoHa" else LoKrConfig
    config = of_kind(r=1, alpha=1, target_modules=list(parts))
    inject_adapter_in_model(config, transformer, adapter_name=name, low_cpu_mem_usage=True)
    for module, own in tensors.items():
        layer = transformer.get_submodule(module)
        for key in layer.adapter_layer_names:
            of_adapters = getattr(layer, key)
            if name in of_adapters:
                del of_adapters[name]
            if key in own:
                of_adapters[name] = nn.Parameter(own[key], requires_grad=False)
        layer.r[name], layer.alpha[name] = parts[module].rank, alpha[module]


def _like(layer: nn.Module) -> dict[str, Any]:
    """Device and dtype for an adapter of `layer`. These are the layer's own device and dtype, with two exceptions: for
    a layer of 8 bits no dtype is returned, and for offloaded weights the device is the CPU."""
    weight, dtype = next(layer.parameters()), _computes_in(layer)
    device = torch.device("cpu") if weight.device.type == "meta" else weight.device
    return {"device": device, "dtype": dtype} if dtype else {"device": device}


def _activate(transformer: nn.Module, name: str, scale: float, wanted: set[str]) -> None:
    """Set the scale of `name` and activate all adapters. Raises LoraError if a layer does not have the adapter."""
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
        if isinstance(layer, BaseTunerLayer):  # PEFT warns if an active adapter is deleted
            layer.set_adapter([n for n in layer.scaling if n != name])
    transformer.delete_adapters(name)
