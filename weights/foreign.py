"""Recognises files and folders that cannot be imported directly, by names and headers, and says what to do with them.

Knows: GGUF, DeepSpeed and SAT folders, pickles, LoRAs, single parts of a checkpoint, Hugging Face caches. Does not
know: how to read these files.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from weights.catalog import MODEL_INDEX
from weights.configs import CLASSES
from weights.interpolation import SUFFIXES
from weights.problem import read_json
from weights.stored import RESAVE

BASE = "cogvideox weights import {} --base cogvideox-5b"
_TAKEN = "the folder of a checkpoint, or a transformer in .safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_DEPTH, _FILES = 4, 20_000  # a folder given by mistake may be a whole disk
_RIFE = re.compile(r"(?:module\.|flownet\.)*(?:block\d|blocks\.\d+\.conv|block_tea|encode\.|contextnet|unet|fusionnet)")
_IN_PICKLE = (b"transformer_blocks", b"query_key_value", b"diffusion_model", b"SelfAttention", b"text_proj")


def folder_step(folder: Path) -> str:
    """What `folder`, which is neither a diffusers folder nor a transformer, contains, and what the user should do with
    it."""
    names = _names(folder)
    base = {name.rpartition("/")[2]: name for name in names}
    if zero := _first(base, lambda n: "zero_pp_rank_" in n) or base.get("zero_to_fp32.py"):
        how = f"python zero_to_fp32.py {folder} OUT --safe_serialization, then {BASE.format('OUT')}"
        return f"{folder} contains a DeepSpeed ZeRO checkpoint ({zero}), expected safetensors: {how}"
    if sat := _first(base, lambda n: n.startswith("mp_rank_") and n.endswith("_model_states.pt")):
        how = "convert them with scripts/convert_cogvideox_to_diffusers.py of diffusers, then cogvideox weights import"
        return f"{folder} contains SAT weights ({sat}); they must be converted to diffusers: {how}"
    if "latest" in base:
        return f"{folder} contains a DeepSpeed checkpoint without weights; import the latest checkpoint of the training"
    if gguf := _first(base, lambda n: n.lower().endswith(".gguf")):
        return f"{folder}: {gguf_step(gguf)}"
    if lora := _first(base, lambda n: n in ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")):
        return f"{folder} contains a LoRA, not a checkpoint: cogvideox lora add {folder / lora}"
    name = read_json(folder, "config.json")[0].get("_class_name") or read_json(folder, "config.json")[0].get(
        "model_type"
    )
    pickle = _first(base, lambda n: n.lower().endswith(_PICKLES))
    if name and not (pickle and str(name) in CLASSES["transformer"]):
        return (
            f"{folder} contains only a {str(name)[:80]}, so it is not a diffusers checkpoint; import the parent folder"
        )
    if sharded := _first(base, lambda n: n.endswith(".distcp")):
        how = f"accelerate merge-weights {(folder / sharded).parent} OUT, then {BASE.format('OUT')}"
        return f"{folder} contains a distributed (FSDP) checkpoint ({sharded}), expected safetensors: {how}"
    if inner := _inside(folder, names):
        return f"{folder} contains several models; choose one of them: {', '.join(inner)}"
    if pickle:
        return f"{folder} contains pickled weights ({pickle}), expected safetensors: {RESAVE}"
    return f"{folder} has no {MODEL_INDEX}, so it is not a diffusers checkpoint"


def is_unknown_folder(folder: Path) -> bool:
    """Whether `folder` is a folder, but neither a diffusers checkpoint nor a Hugging Face cache that contains a
    diffusers checkpoint."""
    return folder.is_dir() and not any((one / MODEL_INDEX).exists() for one in (folder, *snapshots(folder)))


def file_step(file: Path, tensors: Iterable[str]) -> str | None:
    """What a file is and what the user should do with it; None if it may be RIFE's weights. `tensors`: the names of the
    tensors in a safetensors file."""
    suffix, names = file.suffix.lower(), list(tensors)
    if suffix == ".gguf" or _begins(file, b"GGUF"):
        return f"{file}: {gguf_step(file.name)}"
    if "zero_pp_rank_" in file.name or (file.name.startswith("mp_rank_") and suffix == ".pt"):
        return folder_step(file.parent)
    if any(".lora_" in n or n.startswith("lora_") for n in names):
        return f"{file}: a LoRA, not a checkpoint: cogvideox lora add {file}"
    for part, marks in (
        ("vae", ("decoder.mid_block.", "first_stage_model.", "decoder.up.")),
        ("text encoder", ("encoder.block.", "shared.weight")),
    ):
        if any(n.startswith(marks) for n in names):
            return f"{file}: only the {part} of a checkpoint; import the folder of the whole checkpoint"
    if suffix in _PICKLES and _of_diffusion(file):
        return f"{file}: pickled weights of a video model, expected safetensors: {RESAVE}"
    if suffix in (".bin", ".ckpt"):
        return f"{file}: a pickle, expected safetensors: {RESAVE}"
    if names and not any(_RIFE.match(n) for n in names):
        return f"{file}: contains {names[0][:80]}, so it is not a CogVideoX file; expected {_TAKEN}"
    return None if suffix in SUFFIXES else f"{file}: not a known kind of weights; expected {_TAKEN}"


def _begins(file: Path, mark: bytes) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(mark)) == mark
    except OSError:
        return False


def _inside(folder: Path, names: list[str]) -> list[str]:
    """A few folders inside `folder` that can be imported."""
    marks = (MODEL_INDEX, "transformer/config.json", ".safetensors")
    found = [folder / name[: -len(mark)].rpartition("/")[0] for mark in marks for name in names if name.endswith(mark)]
    return list(dict.fromkeys(str(one) for one in found if one != folder))[:3]


def gguf_step(name: str) -> str:
    return (
        f"{name} is a GGUF file with quantised weights; expected safetensors in F32, F16 or BF16: "
        "cogvideox weights pull NAME"
    )


def snapshots(cache: Path) -> list[Path]:
    """The snapshots of one model in a Hugging Face cache: first the snapshot of `main`, then the others from the
    newest."""
    if not (cache / "snapshots").is_dir():
        return []
    ref = cache / "refs" / "main"
    order = [cache / "snapshots" / ref.read_text().strip()] if ref.is_file() else []
    others = sorted((cache / "snapshots").iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
    return list(dict.fromkeys((*order, *others)))


def hub_step(source: Path) -> str | None:
    """For a whole Hugging Face cache: which of its models to import."""
    hub = source / "hub" if (source / "hub").is_dir() else source
    every = sorted(hub.glob("models--*"))
    caches = [c for c in every if "cogvideox" in c.name.lower() or any(_ours(s) for s in snapshots(c))]
    if len(caches) == 1:
        return f"{hub} is a Hugging Face cache with one CogVideoX model: cogvideox weights import {caches[0]}"
    if caches:
        return f"{hub} contains several models; choose one of them: {', '.join(map(str, caches))}"
    if every:
        return f"{hub} is a Hugging Face cache without a CogVideoX model: cogvideox weights pull NAME"
    return None


def _ours(snapshot: Path) -> bool:
    names = (MODEL_INDEX, "config.json", "transformer/config.json")
    return any("CogVideoX" in str(read_json(snapshot, n)[0].get("_class_name")) for n in names)


def _of_diffusion(file: Path) -> bool:
    """Whether the names in a pickle are those of a video model. Does not unpickle it."""
    try:
        with zipfile.ZipFile(file) as archive:
            name = next((n for n in archive.namelist() if n.endswith("data.pkl")), None)
            if name is None:
                return False
            with archive.open(name) as pickled:
                data = pickled.read(16 * 2**20)
    except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile):
        return False
    return any(mark in data for mark in _IN_PICKLE)


def _names(folder: Path) -> list[str]:
    found: list[str] = []
    for path, folders, files in os.walk(folder):
        inner = Path(path).relative_to(folder)
        if len(inner.parts) >= _DEPTH:
            folders.clear()
        folders.sort()
        found += [(inner / name).as_posix() for name in sorted(files)]
        if len(found) > _FILES:
            break
    return found


def _first(base: dict[str, str], fits: Callable[[str], bool]) -> str | None:
    return next((whole for name, whole in base.items() if fits(name)), None)
