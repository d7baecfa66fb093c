"""Checks that a checkpoint folder is complete and that our pipelines can run it. No torch.

Knows: the diffusers layout, shard indexes, the record next to the weights, the config values of the catalog, the
folders of the interpolation networks. `weights.configs` checks the configs, `weights.expected` lists the tensors that
they need. Does not know: whether the weights make good videos.

It is fast enough for every start, because it reads only the JSON files and the safetensors headers. With `deep` it
reads every byte, which takes about a second per gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights import configs, numbers, record, stored, tokens
from weights.catalog import CATALOG, COMPONENTS, MODEL_INDEX, Checkpoint
from weights.expected import EXPECTED
from weights.interpolation import NETWORKS, SHIPPED
from weights.problem import Problem, read_json, read_tensors
from weights.stored import Stored

_IDENTITY = ("num_layers", "num_attention_heads", "in_channels", "patch_size_t", "ofs_embed_dim")
_HASHED = 16 * 2**20  # bytes; configs and tokenizers are always hashed, weights only with `deep`


@dataclass(frozen=True)
class Report:
    """`problems` prevent the checkpoint's use. `warnings` are unusual but may be intended, as in a fine-tune."""

    folder: Path
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    checkpoint: str | None = None  # the catalog's checkpoint with the same configs
    size: int = 0  # bytes of all its files
    deep: bool = False  # every byte was compared with a record

    @property
    def ok(self) -> bool:
        return not self.problems


def recognise(folder: Path) -> Checkpoint | None:
    """The published checkpoint with this transformer's config. For a fine-tune, this is its base checkpoint."""
    config, problem = read_json(folder, "transformer/config.json")
    if problem:
        return None
    found = tuple(config.get(k) for k in _IDENTITY)
    for checkpoint in CATALOG.values():
        wanted = checkpoint.configs.get("transformer")
        if wanted is not None and found == tuple(wanted[k] for k in _IDENTITY):
            return checkpoint
    return None


def verify(folder: Path, *, deep: bool = False) -> Report:
    """Check everything and report every problem. Raises nothing for an invalid checkpoint."""
    if not folder.is_dir():
        return Report(folder, (Problem(".", "no such folder"),))
    checkpoint = recognise(folder)
    name = checkpoint.name if checkpoint else None
    if folder.name in NETWORKS and not (folder / MODEL_INDEX).exists():  # a single file: an interpolation network
        name, problems, warnings = folder.name, list(_only_problem(read_tensors(folder, SHIPPED.name))), []
    else:
        found: dict[str, Stored] = {}
        problems = list(_structure(folder, found)) or list(_mixture(folder, found))
        problems = problems or list(configs.problems(folder)) or list(_contents(folder, found))
        warnings = list(_oddities(folder, checkpoint))
        if deep and not problems:
            problems = list(_numbers(folder, found))
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
        warnings.append(f"without a {record.RECORD} there are no checksums to compare with")
    files = [p for p in folder.rglob("*") if p.is_file() and not p.relative_to(folder).parts[0].startswith(".")]
    size = sum(p.stat().st_size for p in files)
    return Report(folder, tuple(problems), tuple(warnings), name, size, compared)


def _structure(folder: Path, found: dict[str, Stored]) -> Iterator[Problem]:
    """Fills the argument `found` with the stored tensors of each part."""
    index, problem = read_json(folder, MODEL_INDEX)
    if problem:
        yield problem
    elif wrong := configs.wrong_pipeline(index):
        yield wrong
        return  # if the folder is another model's, its other problems do not matter
    elif missing := [c for c in COMPONENTS if c not in index]:
        yield Problem(MODEL_INDEX, f"does not name {', '.join(missing)}", "this is not a CogVideoX checkpoint")
    for component in COMPONENTS:
        if not (folder / component).is_dir():
            yield Problem(component, "the folder is missing")
        elif component == "scheduler":
            yield from _only_problem(read_json(folder, "scheduler/scheduler_config.json"))
        elif component == "tokenizer":
            yield from _only_problem(read_json(folder, "tokenizer/tokenizer_config.json"))
            if not any(_filled(folder / "tokenizer" / n) for n in ("spiece.model", "tokenizer.json")):
                yield Problem("tokenizer/spiece.model", "missing or empty")
        else:
            config, problem = read_json(folder, f"{component}/config.json")
            if problem:
                yield problem
            if quantised := configs.quantised(component, config):
                yield quantised
            else:
                found[component], problems = stored.read(folder, component)
                yield from problems


def _contents(folder: Path, found: dict[str, Stored]) -> Iterator[Problem]:
    """Check the weights and the tokenizer against valid configs."""
    for component, expected in EXPECTED.items():
        config = configs.whole(component, read_json(folder, f"{component}/config.json")[0])
        yield from stored.compare(folder, component, found[component], expected(config))
        if component == "text_encoder":
            yield from tokens.problems(folder, config["vocab_size"])


def _numbers(folder: Path, found: dict[str, Stored]) -> Iterator[Problem]:
    for file in sorted({file for one in found.values() for file, _ in one.tensors.values()}):
        if name := numbers.broken_tensor(folder / file):
            yield Problem(file, f"the tensor {name} contains NaN or infinity")


def _mixture(folder: Path, found: dict[str, Stored]) -> Iterator[Problem]:
    """Detect a config that belongs to another checkpoint than the weights next to it, in an otherwise complete
    folder."""
    config = configs.whole("transformer", read_json(folder, "transformer/config.json")[0])
    shapes = {name: tensor.shape for name, (_, tensor) in found["transformer"].tensors.items()}
    depth, channels = config["num_layers"], config["in_channels"]
    named = config.get("_class_name") in configs.CLASSES["transformer"]
    if not named or type(depth) is not int or type(channels) is not int:
        return  # weights.configs reports this better
    layers = len({n.split(".")[1] for n in shapes if n.startswith("transformer_blocks.")})
    patch = shapes.get("patch_embed.proj.weight", ())  # 1.0: (width, channels, 2, 2); 1.5: (width, channels * 2*2*2)
    sides = (config.get("patch_size") or 2, config.get("patch_size_t") or 1)
    if not all(type(side) is int and 0 < side < 100 for side in sides):
        yield Problem("transformer/config.json", "its patch size is not a small whole number")
        return
    per_channel = sides[0] ** 2 * sides[1] if len(patch) == 2 else 1
    there = patch[1] // per_channel if len(patch) > 1 else None
    if (depth, channels) != (layers, there):
        what = f"says {depth} layers and {channels} input channels, but the weights have {layers} and {there}"
        if there is not None and there not in configs.TASKS.values():
            yield Problem("transformer/config.json", f"{what}; {configs.OTHER_CHANNELS}", configs.NOT_OURS)
        else:
            yield Problem("transformer/config.json", what)


def _oddities(folder: Path, checkpoint: Checkpoint | None) -> Iterator[str]:
    yield from configs.unknown(folder)
    if checkpoint is None:
        packaged = folder.name in CATALOG and CATALOG[folder.name].packaged
        if (folder / "transformer" / "config.json").is_file() and not packaged:
            yield "the transformer's config matches no published CogVideoX model"
            yield from configs.unusual(folder)
        return
    for component, wanted in checkpoint.configs.items():
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        config, problem = read_json(folder, f"{component}/{name}")
        for key, value in wanted.items():
            # an older library did not write some keys; their defaults are those of the checkpoint
            if not problem and key in config and config[key] != value:
                yield f"{component}/{name}: {key} is {str(config[key])[:80]}, {checkpoint.name} has {value}"


def _against_record(folder: Path, known: record.Record, deep: bool) -> Iterator[Problem]:
    for name, was in known.files.items():
        path = folder / name
        if not path.is_file():
            yield Problem(name, "missing, but listed in the record")
        elif (size := path.stat().st_size) != was.size:
            yield Problem(name, f"has {size} bytes, the record says {was.size}")
        elif (deep or (path.suffix != ".safetensors" and size <= _HASHED)) and record.sha256(path) != was.sha256:
            yield Problem(name, "its SHA-256 differs from the record", "delete this file, then pull or import again")


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _only_problem(result: tuple[dict[str, Any], Problem | None]) -> Iterator[Problem]:
    if result[1] is not None:
        yield result[1]
