"""A LoRA file without torch: what it holds, and how strong its trainer meant it.

Knows: safetensors, the places where alpha is kept and which of them is believed. Does not know: adapters, transformers
beyond their layers' names and shapes.

    effect of one module:  W + scale x alpha / rank x B A      (arXiv 2106.09685, section 4.1)
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pipelines.lora_layout import Layers, LoraError, Match, Shape, match
from weights.safetensors_header import BrokenFile, read_whole_header

AlphaSource = Literal[
    "sidecar", "metadata", "adapter_config.json", "alpha tensors", "request", "nothing, so alpha = rank"
]
NOWHERE: AlphaSource = "nothing, so alpha = rank"
FLOATS = {"F64": "<d", "F32": "<f", "F16": "<e"}
FLOATING = {*FLOATS, "BF16", "F8_E4M3", "F8_E5M2"}
SIDECAR_BYTES = 2**20
NUMBER_LENGTH = 100  # characters of a number in a text


@dataclass(frozen=True)
class LoraFile:
    """`path` was a whole safetensors file when it was read. `metadata` as in its header."""

    path: Path
    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    scalars: dict[str, float]  # of the tensors with one element

    @property
    def size(self) -> int:
        return self.path.stat().st_size


@dataclass(frozen=True)
class Alpha:
    """`values` by module. What it was taken from is part of every report: it decides how strong a LoRA is."""

    source: AlphaSource
    values: dict[str, float]

    @property
    def common(self) -> float | None:
        """None where modules differ."""
        found = set(self.values.values())
        return found.pop() if len(found) == 1 else None


def read(path: Path) -> LoraFile:
    """Raises LoraError for what is no whole safetensors file, by its name and by what is in it."""
    if path.suffix.lower() != ".safetensors":
        raise LoraError("a LoRA must be a .safetensors file; other kinds can run code when they are read")
    return content(path)


def content(path: Path) -> LoraFile:
    """As `read`, whatever the file is called."""
    try:
        header = read_whole_header(path)
        found, scalars = header.tensors, {}
        with path.open("rb") as file:
            for name, tensor in found.items():
                if math.prod(tensor.shape) == 1 and tensor.dtype in (*FLOATS, "BF16"):
                    file.seek(tensor.begin)
                    scalars[name] = _number(file.read(8), tensor.dtype)
    except BrokenFile as e:
        raise LoraError(f"cannot be read: {e}") from e
    except OSError as e:
        raise LoraError(f"cannot be read: {e.strerror}") from e
    shapes, dtypes = {n: t.shape for n, t in found.items()}, {n: t.dtype for n, t in found.items()}
    return LoraFile(path, shapes, dtypes, header.metadata, scalars)


def matched(file: LoraFile, layers: Layers) -> Match:
    """Raises LoraError unless the whole file fits."""
    found = match(file.shapes, layers)
    for pair in found.pairs.values():
        if not {file.dtypes[pair.down], file.dtypes[pair.up]} <= FLOATING:
            raise LoraError(f"{pair.down}: its tensors are no matrices of floating numbers")
    return found


def alpha_of(file: LoraFile, found: Match, asked: float | None = None) -> Alpha:
    """The first that is there: sidecar, metadata, adapter_config.json, alpha tensors, `asked`, alpha = rank.

    Raises LoraError for one that is there and makes no sense.
    """
    ranks = {module: pair.rank for module, pair in found.pairs.items()}
    beside = sidecar(file.path)
    if beside.is_file() and (values := _from_config(_text(beside), beside.name, ranks, "alpha")):
        return Alpha("sidecar", values)
    if (own := file.metadata.get("lora_adapter_metadata")) and (values := _from_config(own, "its metadata", ranks)):
        return Alpha("metadata", values)
    for key in ("ss_network_alpha", "lora_alpha", "alpha"):
        if (text := file.metadata.get(key)) is not None:
            return Alpha("metadata", dict.fromkeys(ranks, _finite(text, key)))
    config = file.path.with_name("adapter_config.json")
    if config.is_file() and (values := _from_config(_text(config), config.name, ranks)):
        return Alpha("adapter_config.json", values)
    if found.alphas:  # a module without one has the factor 1, as in kohya's own loader
        return Alpha("alpha tensors", {m: _tensor(file, found, m, float(rank)) for m, rank in ranks.items()})
    if asked is not None:
        return Alpha("request", dict.fromkeys(ranks, asked))
    return Alpha(NOWHERE, {m: float(rank) for m, rank in ranks.items()})


def doubt(found: Match, alpha: Alpha) -> str | None:
    """What should be said of an alpha that was guessed."""
    if alpha.source != NOWHERE or not found.is_bare:
        return None
    return "alpha is not in the file; exports of the original SAT trainer are meant with alpha 1: add it with --alpha 1"


def sidecar(path: Path) -> Path:
    """The owner's own word on a file: JSON with `alpha`."""
    return path.with_name(f"{path.name}.json")


def digest(path: Path) -> str:
    """SHA-256 of the file; read again only when it has changed."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=256)
def _digest(path: Path, *changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _number(data: bytes, dtype: str) -> float:
    if dtype == "BF16":
        data, dtype = bytes(2) + data[:2], "F32"
    form = FLOATS[dtype]
    return float(struct.unpack(form, data[: struct.calcsize(form)])[0])


def _tensor(file: LoraFile, found: Match, module: str, usual: float) -> float:
    key = found.alphas.get(module)
    if key is None:
        return usual
    if key not in file.scalars:
        raise LoraError(f"{key} is {file.dtypes[key]} of {len(file.shapes[key])} dimensions, not one floating number")
    return _finite(file.scalars[key], key)


def _finite(value: Any, where: str) -> float:
    if isinstance(value, str) and len(value) > NUMBER_LENGTH:
        raise LoraError(f"{where} is a text of {len(value)} characters, not a number")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise LoraError(f"{where} is {str(value)[:80]!r}, not a number")
    return number


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(SIDECAR_BYTES).decode("utf-8", "replace")
    except OSError as e:
        raise LoraError(f"{path.name} cannot be read: {e.strerror}") from e


def _from_config(text: str, where: str, ranks: Mapping[str, int], name: str = "lora_alpha") -> dict[str, float]:
    """Alpha per module from a PEFT configuration (JSON); empty if it has none. Keys may carry `transformer.`."""
    try:
        config = {str(k).removeprefix("transformer."): v for k, v in json.loads(text).items()}
        if config.get(name) is None:
            return {}
        alpha = _finite(config[name], name)
        # Suffixes are compared as text: a file's regular expressions are not for running.
        patterns = {k.lstrip("^"): _finite(v, k) for k, v in (config.get("alpha_pattern") or {}).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise LoraError(f"{where} is no PEFT configuration: {e}") from e
    order = {pattern: n for n, pattern in enumerate(patterns)}
    out = {}
    for module, rank in ranks.items():
        parts = module.split(".")
        ends = [end for n in range(len(parts)) if (end := ".".join(parts[n:])) in order]
        own = patterns[min(ends, key=order.__getitem__)] if ends else alpha
        # rank-stabilised LoRA divides by the root of the rank, arXiv 2312.03732
        out[module] = own * math.sqrt(rank) if config.get("use_rslora") else own
    return out
