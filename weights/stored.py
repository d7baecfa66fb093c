"""Checks the weights files of one part of a checkpoint: whether all files exist, with the tensors that the config
needs.

Knows: the names of weights files, shard indexes and variants in diffusers and transformers. Does not know: which
tensors a config needs (`weights.expected`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from weights.problem import Problem, read_json, read_tensors
from weights.safetensors_header import Tensor

STEMS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
FLOATS = ("F32", "F16", "BF16", "F64")
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")  # T5's files may use either name for this tensor
# tensors that libraries ignore: T5's decoder (saved with a whole T5), and positions (computed anyway)
_UNUSED = {
    "text_encoder": re.compile(r"decoder\.|lm_head\.weight$"),
    "transformer": re.compile(r"patch_embed\.pos_embedding$"),
}
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors$")
_VARIANT = re.compile(r"\.(\w+)(-\d{5}-of-\d{5})?\.safetensors$")
_FULL = "use the unquantised checkpoint: cogvideox weights pull NAME"
RESAVE = "load it with diffusers, save_pretrained(DIR), then cogvideox weights import DIR"


@dataclass
class Stored:
    """`path`: the single weights file, or the index of shards. `tensors`: name -> file and entry of its header."""

    path: str
    tensors: dict[str, tuple[str, Tensor]] = field(default_factory=dict)


def read(folder: Path, part: str) -> tuple[Stored, list[Problem]]:
    stem = STEMS[part]
    index, single = f"{part}/{stem}.safetensors.index.json", f"{part}/{stem}.safetensors"
    present = sorted(p.name for p in (folder / part).glob("*.safetensors"))
    stored = Stored(index if (folder / index).is_file() else single)
    if (folder / index).is_file() and (folder / single).exists():
        what = f"an index of shards next to {stem}.safetensors: two sets of weights, expected one"
        return stored, [Problem(index, what, f"delete the wrong one, for example: rm {single}")]
    if (folder / index).is_file():
        return stored, list(_sharded(folder, part, index, stored))
    if (folder / single).exists() or (folder / single).is_symlink():
        tensors, problem = read_tensors(folder, single)
        stored.tensors = {name: (single, tensor) for name, tensor in tensors.items()}
        return stored, [problem] if problem else []
    return stored, list(_missing(folder, part, stem, present))


def _sharded(folder: Path, part: str, path: str, stored: Stored) -> Iterator[Problem]:
    index, problem = read_json(folder, path)
    places = index.get("weight_map")
    if problem or not isinstance(places, dict) or not places:
        yield problem or Problem(path, "has no weight_map")
        return
    for shard in sorted({str(s) for s in places.values()}):
        if PurePosixPath(shard).name != shard or "\\" in shard:
            yield Problem(path, f"points outside its folder: {shard}", "do not use this checkpoint")
            continue
        name = f"{part}/{shard}"
        tensors, problem = read_tensors(folder, name)
        if problem:
            yield problem
        elif absent := [t for t, s in places.items() if s == shard and t not in tensors]:
            yield Problem(name, f"lacks the tensor {_some(absent)} that the index lists")
        elif more := [t for t in tensors if t not in places]:
            yield Problem(name, f"contains the tensor {_some(more)}, which the index does not list")
        elif twice := [t for t in tensors if t in stored.tensors]:
            yield Problem(name, f"contains {_some(twice)}, and so does {stored.tensors[twice[0]][0]}")
        stored.tensors |= {t: (name, tensor) for t, tensor in tensors.items()}


def _missing(folder: Path, part: str, stem: str, present: list[str]) -> Iterator[Problem]:
    """Problems of a folder with neither a single weights file nor an index."""
    single = f"{part}/{stem}.safetensors"
    others = sorted(p.name for p in (folder / part).iterdir() if p.suffix in (".bin", ".gguf", ".pt", ".ckpt"))
    if any(re.fullmatch(re.escape(stem) + _SHARD.pattern, n) for n in present):
        yield Problem(f"{single}.index.json", "missing, although there are shards")
        for number in _gaps(present, stem):
            yield Problem(f"{part}/{number}", "missing")
        for name in present:
            if (problem := read_tensors(folder, f"{part}/{name}")[1]) is not None:
                yield problem
    elif variants := [(n, m) for n in present if (m := _VARIANT.fullmatch(n.removeprefix(stem)))]:
        name, match = variants[0]
        how = f"mv {part}/{name} {single}" if not match[2] else RESAVE
        yield Problem(single, f"missing, only the variant {match[1]} exists: {name}", how)
    elif any(name.endswith(".gguf") for name in others):
        yield Problem(single, f"missing, only {others[0]} exists: GGUF is quantised, expected safetensors", _FULL)
    elif others:
        yield Problem(single, f"missing, only pickled weights exist, such as {others[0]}", RESAVE)
    else:
        yield Problem(single, "missing")


def _gaps(present: list[str], stem: str) -> list[str]:
    """Names of missing shards, judging by the names of the existing ones."""
    total = max(int(m[2]) for n in present if (m := _SHARD.search(n)))
    names = [f"{stem}-{i:05d}-of-{total:05d}.safetensors" for i in range(1, min(total, 1000) + 1)]
    return [n for n in names if n not in present]


def compare(folder: Path, part: str, stored: Stored, expected: Mapping[str, tuple[int, ...]]) -> Iterator[Problem]:
    """Compare names, shapes and dtypes of the tensors with those that the config needs."""
    config, found = f"{part}/config.json", dict(stored.tensors)
    if part == "text_encoder":
        yield from _one_embedding(folder, found)
    whole = [n for n, (_, t) in found.items() if t.dtype not in FLOATS]
    if whole:
        file, tensor = found[whole[0]]
        what = f"{_some(whole)} stored as {tensor.dtype}, expected F32, F16 or BF16: quantised weights"
        yield Problem(file, what, _FULL)
        return
    if absent := [n for n in expected if n not in found]:
        yield Problem(stored.path, f"lacks the tensor {_some(absent)} that {config} needs")
    unused = _UNUSED.get(part)
    more = [n for n in found if n not in expected and not (unused and unused.match(n))]
    if more:
        what = f"contains the tensor {_some(more)}, which {config} does not need"
        yield Problem(found[more[0]][0], what)
    other = [n for n, shape in expected.items() if n in found and found[n][1].shape != shape]
    if other:
        file, tensor = found[other[0]]
        what = f"the tensor {other[0]} is {_sides(tensor.shape)}, expected {_sides(expected[other[0]])} by {config}"
        yield Problem(file, what + (f"; and {len(other) - 1} more" if other[1:] else ""))
    halves = {d: next((n for n, (_, t) in found.items() if t.dtype == d), None) for d in ("F16", "BF16")}
    if all(halves.values()):
        what = f"contains {halves['F16']} as F16 and {halves['BF16']} as BF16, expected only one of these types"
        yield Problem(stored.path, what)


def _one_embedding(folder: Path, found: dict[str, tuple[str, Tensor]]) -> Iterator[Problem]:
    """Keep the embedding under its first name only; if a file uses both names, their values must be equal."""
    first, second = EMBEDDINGS
    if second not in found:
        return
    file, tensor = found.pop(second)
    other, twin = found.setdefault(first, (file, tensor))
    if (tensor.dtype, tensor.shape) != (twin.dtype, twin.shape) or not _same_bytes(folder, file, tensor, other, twin):
        yield Problem(file, f"{first} and {second} differ, but should be the same tensor")


def _same_bytes(folder: Path, a: str, one: Tensor, b: str, two: Tensor) -> bool:
    with (folder / a).open("rb") as left, (folder / b).open("rb") as right:
        left.seek(one.begin)
        right.seek(two.begin)
        for at in range(one.begin, one.end, 2**22):
            size = min(2**22, one.end - at)
            if left.read(size) != right.read(size):
                return False
    return True


def _some(names: list[str]) -> str:
    shown = names[0] if len(names[0]) <= 120 else names[0][:120] + "…"
    return shown + (f" and {len(names) - 1} more" if names[1:] else "")


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
