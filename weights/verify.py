"""Is a checkpoint folder whole? Structure always, every byte with `deep`; no torch, nothing is loaded.

Knows: the diffusers layout, shard indexes, the record beside the weights, the config values of the catalog; the folders
of the networks that draw frames between frames.
Does not know: whether the numbers in the weights are any good.

Cheap enough for every start: it reads the json files and the safetensors headers. `deep` reads every byte, about a
second a gigabyte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from weights import record
from weights.catalog import CATALOG, COMPONENTS, MODEL_INDEX, Checkpoint
from weights.interpolation import NETWORKS, SHIPPED
from weights.safetensors_header import BrokenFile, read_header

_STEMS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_IDENTITY = ("num_layers", "num_attention_heads", "in_channels", "patch_size_t", "ofs_embed_dim")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")
_AGAIN = "pull or import the checkpoint again"


@dataclass(frozen=True)
class Problem:
    """`path` is relative to the checkpoint's folder; `remedy` says what to do about it."""

    path: str
    what: str
    remedy: str = _AGAIN

    def __str__(self) -> str:
        return f"{self.path}: {self.what} ({self.remedy})"


@dataclass(frozen=True)
class Report:
    """`problems` are why it cannot be used; `warnings` are what looks odd but may be meant, such as a fine-tune."""

    folder: Path
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    checkpoint: str | None = None  # which of the catalog's this is by its configs
    size: int = 0  # bytes of all its files
    deep: bool = False  # every byte was compared with a record

    @property
    def ok(self) -> bool:
        return not self.problems


def recognise(folder: Path) -> Checkpoint | None:
    """Which published checkpoint the transformer's config belongs to; a fine-tune counts as what it was made from."""
    try:
        config = json.loads((folder / "transformer" / "config.json").read_text())
        found = tuple(config.get(k) for k in _IDENTITY)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    for checkpoint in CATALOG.values():
        wanted = checkpoint.configs.get("transformer")
        if wanted is not None and found == tuple(wanted[k] for k in _IDENTITY):
            return checkpoint
    return None


def verify(folder: Path, *, deep: bool = False) -> Report:
    """Look at everything and name every problem; raises nothing for a broken checkpoint."""
    if not folder.is_dir():
        return Report(folder, (Problem(".", "no such folder"),))
    checkpoint = recognise(folder)
    name = checkpoint.name if checkpoint else None
    if folder.name in NETWORKS and not (folder / MODEL_INDEX).exists():  # one file that draws frames between frames
        name, problems, warnings = folder.name, list(_only_problem(_tensors(folder, SHIPPED.name))), []
    else:
        problems = list(_structure(folder)) or list(_mixture(folder))
        warnings = list(_oddities(folder, checkpoint))
    compared = False
    try:
        known = record.read(folder)
    except ValueError as error:
        known = None
        warnings.append(str(error))
    if known is not None:
        named = {p.path for p in problems}
        problems += [p for p in _against_record(folder, known, deep) if p.path not in named]
        compared = deep
    elif deep:
        warnings.append(f"there is no {record.RECORD}, so there are no checksums to compare with")
    files = [p for p in folder.rglob("*") if p.is_file() and not p.relative_to(folder).parts[0].startswith(".")]
    size = sum(p.stat().st_size for p in files)
    return Report(folder, tuple(problems), tuple(warnings), name, size, compared)


def _structure(folder: Path) -> Iterator[Problem]:
    index, problem = _json(folder, MODEL_INDEX)
    if problem:
        yield problem
    elif missing := [c for c in COMPONENTS if c not in index]:
        yield Problem(MODEL_INDEX, f"does not name {', '.join(missing)}", "this is not a CogVideoX checkpoint")
    for component in COMPONENTS:
        if not (folder / component).is_dir():
            yield Problem(component, "the folder is missing")
        elif component == "scheduler":
            yield from _only_problem(_json(folder, "scheduler/scheduler_config.json"))
        elif component == "tokenizer":
            yield from _only_problem(_json(folder, "tokenizer/tokenizer_config.json"))
            if not any(_filled(folder / "tokenizer" / n) for n in ("spiece.model", "tokenizer.json")):
                yield Problem("tokenizer/spiece.model", "missing or empty")
        else:
            yield from _only_problem(_json(folder, f"{component}/config.json"))
            yield from _weights(folder, component, _STEMS[component])


def _weights(folder: Path, component: str, stem: str) -> Iterator[Problem]:
    index_name, single = f"{component}/{stem}.safetensors.index.json", f"{component}/{stem}.safetensors"
    present = sorted(p.name for p in (folder / component).glob("*.safetensors"))
    if (folder / index_name).is_file():
        yield from _sharded(folder, component, index_name)
    elif (folder / single).exists():
        if problem := _tensors(folder, single)[1]:
            yield problem
    elif any(_SHARD.search(n) for n in present):
        yield Problem(index_name, "missing, while there are shards")
        for number in _gaps(present, stem):
            yield Problem(f"{component}/{number}", "missing")
        for name in present:
            yield from _only_problem(_tensors(folder, f"{component}/{name}"))
    elif any((folder / component).glob("*.bin")):
        yield Problem(single, "missing, there are only pickled .bin weights", "get the safetensors files")
    else:
        yield Problem(single, "missing")


def _sharded(folder: Path, component: str, index_name: str) -> Iterator[Problem]:
    index, problem = _json(folder, index_name)
    places = index.get("weight_map")
    if problem or not isinstance(places, dict) or not places:
        yield problem or Problem(index_name, "has no weight_map")
        return
    for shard in sorted({str(s) for s in places.values()}):
        if PurePosixPath(shard).name != shard or "\\" in shard:
            yield Problem(index_name, f"points outside its folder: {shard}", "do not use this checkpoint")
            continue
        tensors, problem = _tensors(folder, f"{component}/{shard}")
        if problem:
            yield problem
        elif absent := [t for t, s in places.items() if s == shard and t not in tensors]:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            yield Problem(f"{component}/{shard}", f"lacks the tensor {absent[0]}{more} that the index promises")


def _mixture(folder: Path) -> Iterator[Problem]:
    """A config from one checkpoint beside the weights of another, the folder being whole otherwise."""
    config = _json(folder, "transformer/config.json")[0]
    files = (folder / "transformer").glob("*.safetensors")
    shapes = {n: t.shape for f in files for n, t in _tensors(folder, f"transformer/{f.name}")[0].items()}
    depth, channels = config.get("num_layers"), config.get("in_channels")
    layers = len({n.split(".")[1] for n in shapes if n.startswith("transformer_blocks.")})
    patch = shapes.get("patch_embed.proj.weight", ())  # 1.0: (width, channels, 2, 2); 1.5: (width, channels * 2*2*2)
    per_channel = (config.get("patch_size") or 2) ** 2 * (config.get("patch_size_t") or 1) if len(patch) == 2 else 1
    if (depth, channels) != (layers, patch[1] // per_channel if len(patch) > 1 else None):
        what = f"says {depth} layers and {channels} input channels, which the weights beside it do not have"
        yield Problem("transformer/config.json", what)


def _gaps(present: list[str], stem: str) -> list[str]:
    """Names of shards that the names of those present promise."""
    total = max(int(m[2]) for n in present if (m := _SHARD.search(n)))
    names = [f"{stem}-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
    return [n for n in names if n not in present]


def _oddities(folder: Path, checkpoint: Checkpoint | None) -> Iterator[str]:
    if checkpoint is None:
        packaged = folder.name in CATALOG and CATALOG[folder.name].packaged
        if (folder / "transformer" / "config.json").is_file() and not packaged:
            yield "the transformer's config matches no published CogVideoX model"
        return
    for component, wanted in checkpoint.configs.items():
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        config, problem = _json(folder, f"{component}/{name}")
        for key, value in wanted.items():
            # a key that an older library did not write has the default that the checkpoint was made with
            if not problem and key in config and config[key] != value:
                yield f"{component}/{name}: {key} is {config[key]}, {checkpoint.name} has {value}"


def _against_record(folder: Path, known: record.Record, deep: bool) -> Iterator[Problem]:
    for name, was in known.files.items():
        path = folder / name
        if not path.is_file():
            yield Problem(name, "missing, the record lists it")
        elif (size := path.stat().st_size) != was.size:
            yield Problem(name, f"{size} bytes, recorded were {was.size}")
        elif deep and record.sha256(path) != was.sha256:
            yield Problem(name, "its bytes are not the recorded ones (SHA-256)", "delete this file, then pull again")


def _json(folder: Path, name: str) -> tuple[dict[str, Any], Problem | None]:
    path = folder / name
    if not path.is_file():
        return {}, Problem(name, _absent(path))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}, Problem(name, "cannot be read as JSON")
    return (content, None) if isinstance(content, dict) else ({}, Problem(name, "is not a JSON object"))


def _tensors(folder: Path, name: str) -> tuple[dict[str, Any], Problem | None]:
    path = folder / name
    if not path.is_file():
        return {}, Problem(name, _absent(path))
    try:
        return dict(read_header(path)), None
    except BrokenFile as error:
        return {}, Problem(name, str(error))
    except OSError as error:
        return {}, Problem(name, f"cannot be read: {error.strerror}")


def _absent(path: Path) -> str:
    return "a link to a file that is not there" if path.is_symlink() else "missing"


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _only_problem(result: tuple[dict[str, Any], Problem | None]) -> Iterator[Problem]:
    if result[1] is not None:
        yield result[1]
