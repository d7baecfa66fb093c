"""Makes a checkpoint from a fine-tuned transformer and the other parts of a base checkpoint.

Knows: the folders and files that trainers write: `transformer/`, a flat folder, one safetensors file, shards, in
diffusers' layout or the original one. Does not know: how a folder gets into the models folder (`weights.imports`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weights import foreign, layouts
from weights.catalog import CATALOG, MODEL_INDEX, WeightsError, find, name_of
from weights.configs import CLASSES, quantised
from weights.problem import read_json, read_tensors
from weights.safetensors_header import Tensor
from weights.stored import FLOATS, STEMS

_STEM = STEMS["transformer"]
_CONFIG = "transformer/config.json"
_PLAIN = ("transformer", "checkpoint", "model", "pytorch_model", "snapshots", _STEM)  # names without information
_OWN_PARTS = ("num_layers", "num_attention_heads", "in_channels", "patch_size_t", "ofs_embed_dim")


@dataclass(frozen=True)
class Transformer:
    """`files`: the safetensors files with the weights. `config`: the config file next to `files`; None to use the
    config of the base checkpoint."""

    source: Path
    files: tuple[Path, ...]
    tensors: dict[str, tuple[Path, Tensor]]
    layout: layouts.Layout
    prefix: str
    config: Path | None

    @property
    def name(self) -> str:
        """The name in the models folder. It comes from the file's name or, if that is generic, from a parent folder's
        name."""
        path = self.source.absolute()
        names = [path.stem if path.is_file() else path.name, *(p.name for p in path.parents)]
        if path.parent.name == "snapshots":  # in a Hugging Face cache: models--owner--name/snapshots/commit
            names = [path.parent.parent.name.rpartition("--")[2]]
        good = (re.sub(r"[^A-Za-z0-9._-]+", "-", n).strip("-._")[:64] for n in names)
        return next((n for n in good if n and n.lower() not in _PLAIN), "fine-tune")


def look(source: Path) -> Transformer | None:
    """The transformer at `source`; None if `source` is something else. Raises WeightsError, with the next step, for
    files and folders that are known to be unusable."""
    if source.is_file():
        return _file(source)
    if not source.is_dir() or (source / MODEL_INDEX).exists():
        return None
    snapshots = foreign.snapshots(source)
    if any((one / MODEL_INDEX).exists() for one in snapshots):
        return None
    return next((found for one in (source, *snapshots) if (found := _folder(one))), None)


def _file(source: Path) -> Transformer | None:
    tensors, problem = (
        ({}, None) if source.suffix.lower() != ".safetensors" else read_tensors(source.parent, source.name)
    )
    if problem:
        raise WeightsError(f"{source}: {problem.what}")
    found = _of_files(source, (source,), None)
    if found is None and (step := foreign.file_step(source, tensors)):
        raise WeightsError(step)
    return found


def _folder(source: Path) -> Transformer | None:
    inner = source / "transformer" if (source / "transformer").is_dir() else source
    config = inner / "config.json"
    content = read_json(inner, "config.json")[0]
    if content.get("_class_name", CLASSES["transformer"][0]) not in CLASSES["transformer"]:
        if inner == source:
            return None
        raise WeightsError(f"{config}: is a {str(content['_class_name'])[:80]}, expected {CLASSES['transformer'][0]}")
    if problem := quantised("transformer", content):
        raise WeightsError(f"{config}: {problem.what} ({problem.remedy})")
    files = sorted(inner.glob("*.safetensors"))
    if (single := inner / f"{_STEM}.safetensors") in files:
        files = [single]
    elif alone := [f for f in files if not re.search(r"-\d{5}-of-\d{5}", f.name)]:
        ours = [f for f in alone if layouts.layout_of(read_tensors(inner, f.name)[0])]
        if len(ours) > 1:
            raise WeightsError(f"{inner} contains {', '.join(f.name for f in ours)[:200]}: choose one of them")
        files = ours or alone[:1]
    else:
        _all_shards(files)
    return _of_files(source, tuple(files), config if config.is_file() else None)


def _all_shards(files: list[Path]) -> None:
    """Raises WeightsError if shards are missing, judging by the names."""
    for match in (re.search(r"(.*)-\d{5}-of-(\d{5})\.safetensors$", f.name) for f in files):
        assert match is not None
        names = [f"{match[1]}-{n:05d}-of-{match[2]}.safetensors" for n in range(1, min(int(match[2]), 1000) + 1)]
        if absent := set(names) - {f.name for f in files}:
            raise WeightsError(f"{files[0].parent / min(absent)}: missing, expected {len(names)} shards; copy it there")


def _of_files(source: Path, files: tuple[Path, ...], config: Path | None) -> Transformer | None:
    tensors: dict[str, tuple[Path, Tensor]] = {}
    for file in files:
        if file.suffix.lower() != ".safetensors":
            return None
        found, problem = read_tensors(file.parent, file.name)
        if problem:
            raise WeightsError(f"{file}: {problem.what}")
        if twice := [name for name in found if name in tensors]:
            raise WeightsError(f"{file}: contains {twice[0]}, and so does {tensors[twice[0]][0].name}")
        tensors |= {name: (file, tensor) for name, tensor in found.items()}
    layout = layouts.layout_of(tensors)
    if layout is None:
        return None
    prefixes = {one[1] for name in tensors if (one := layouts.layout_of([name]))}
    if len(prefixes) > 1:
        both = ", ".join(repr(p) for p in sorted(prefixes))
        raise WeightsError(f"{source}: contains {len(prefixes)} transformers, whose names begin with {both}; keep one")
    for name, (file, tensor) in tensors.items():
        if tensor.dtype not in FLOATS:
            what = f"{name} is stored as {tensor.dtype}, expected F32, F16 or BF16: quantised weights"
            raise WeightsError(f"{file}: {what} (use the unquantised file)")
    return Transformer(source, files, tensors, *layout, config)


def base_folder(base: str | None, found: Transformer, models_dir: Path) -> tuple[str, Path]:
    """The name and folder of the base checkpoint, which provides the other parts. Raises WeightsError."""
    known = _made_from(found)
    if base is None:
        how = f"cogvideox weights import {found.source} --base {known or 'cogvideox-5b'}"
        raise WeightsError(f"{found.source} contains only a transformer; add a checkpoint for the other parts: {how}")
    name = name_of(base, models_dir)
    folder = find(name, models_dir)
    if folder is None:
        raise WeightsError(f"{name} is needed for the other parts but not installed: cogvideox weights pull {name}")
    if known and name in CATALOG and known != name:
        raise WeightsError(f"{found.config}: describes {known}, expected {name}: use --base {known}")
    return name, folder


def _made_from(found: Transformer) -> str | None:
    """The catalog's checkpoint with this transformer's config."""
    config = read_json(found.config.parent, found.config.name)[0] if found.config else {}
    for checkpoint in CATALOG.values():
        published = checkpoint.configs.get("transformer")
        if published and all(config.get(k) == published[k] for k in _OWN_PARTS):
            return checkpoint.name
    return None


def fill(found: Transformer, base: Path, folder: Path, bring: Callable[[Path, Path], None]) -> None:
    """Write `folder/transformer`. `bring(source, target)` links or copies. Raises WeightsError."""
    content = read_json(base, _CONFIG)[0]
    if found.config is not None:
        content, problem = read_json(found.config.parent, found.config.name)
        if problem:
            raise WeightsError(f"{found.config}: {problem.what}")
    (folder / "transformer").mkdir(parents=True, exist_ok=True)
    (folder / _CONFIG).write_text(json.dumps(content, indent=2) + "\n")
    target = folder / "transformer" / f"{_STEM}.safetensors"
    wanted = layouts.plan(found.tensors, found.layout, found.prefix)
    if len(found.files) == 1 and found.layout == "diffusers" and wanted.keys() == found.tensors.keys():
        bring(found.files[0].resolve(), target)
        return
    try:
        layouts.write(wanted, target)
    except ValueError as error:
        raise WeightsError(f"{found.source}: {error}") from error
