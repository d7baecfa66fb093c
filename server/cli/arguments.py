"""Turns options, batch files and the manifests of videos into requests and output files.

Knows: option and field names, file names, the wording of usage errors. Does not know: engines, terminals.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from pipelines.ranges import check_ranges, flaw
from pipelines.request import Fit, GenerationRequest, Lora, Media, OutputFormat, RequestError, draw_seed
from server.text_file import NotText, read_lines
from weights.catalog import WeightsError

# names in batch files and on the command line -> names in GenerationRequest
ALIASES = {"frames": "num_frames", "steps": "num_inference_steps", "interpolate": "interpolate_fps"}
FLAGS = {
    **{field: f"--{alias}" for alias, field in ALIASES.items()},
    "width": "--size",
    "height": "--size",
    "loras": "--lora",
    "prompt": "PROMPT",
}


class Usage(Exception):
    """A usage error: printed on one line, exit code 2."""


@dataclass(frozen=True)
class Target:
    """Where videos go: a file, or a folder of videos."""

    path: Path
    is_folder: bool

    @classmethod
    def of(cls, text: str) -> Target:
        """A path means a folder if it has no suffix, ends in a slash, or is an existing folder."""
        path = home(text, "output")
        return cls(path, text[-1:] in ("/", os.sep) or path.is_dir() or not path.suffix)

    @property
    def is_video(self) -> bool:
        """Whether the path has the suffix of a video."""
        return self.path.suffix.lower().removeprefix(".") in get_args(OutputFormat)


@dataclass(frozen=True)
class Job:
    """A request and its output file. `line`: the request's line in a batch file; `typed`: the field names in that
    line."""

    request: GenerationRequest
    path: Path
    line: str = ""
    typed: frozenset[str] = frozenset()

    def mistake(self, field: str, message: str) -> Usage:
        """The error in the user's terms: with the flag, or with the batch file's line and field name."""
        if field in ("width", "height") and (not self.line or "size" in self.typed):
            field, message = "size", f"{field} {message}"
        if self.line:
            names = [alias for alias, real in ALIASES.items() if real == field and alias in self.typed]
            names += [field] if field in (*self.typed, "output", "prompt") else []
            return Usage(f"{self.line}: {names[0] if names else flag(field)}: {message}")
        return Usage(f"{flag(field)}: {message}")


def flag(field: str) -> str:
    """The option that sets a field of a request."""
    return FLAGS.get(field, f"--{field.replace('_', '-')}")


def home(text: str, field: str) -> Path:
    """Expands `~` and `~name`. Raises RequestError, also for a path that no file can have."""
    try:
        return _possible(Path(text).expanduser(), field)
    except RuntimeError:
        raise RequestError(field, f"{text} has no such home folder") from None


def _possible(path: Path, field: str) -> Path:
    """Returns `path`. Raises RequestError if the system does not accept it as the path of a file or folder."""
    try:
        path.exists()
    except OSError as e:
        text = str(path)
        shown = text if len(text) <= 80 else f"{text[:80]}…"
        raise RequestError(field, f"{shown} cannot be a file or is out of reach: {e.strerror}") from None
    return path


def same_media(name: str, sha256: str, path: str | Path | None) -> dict[str, str]:
    if path is None or not Path(path).is_file():
        raise Usage(f"this video was made from a{'n' if name == 'image' else ''} {name}; give it with --{name}")
    try:
        media = Media.of(Path(path))
    except OSError as e:
        raise Usage(f"--{name}: {path} cannot be read: {e.strerror}") from None
    if media.sha256 != sha256:
        raise Usage(f"{path} is not the {name} this video was made from (its SHA-256 differs)")
    return {"path": media.path, "sha256": media.sha256}


def beside(file: Path) -> dict[str, Any]:
    """The paths of the inputs from which FILE was made, according to the JSON file beside FILE; empty without a JSON
    file."""
    try:
        found = json.loads(file.with_suffix(file.suffix + ".json").read_text("utf-8"))["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def to_request(prompt: str, given: dict[str, Any], file: Path | None) -> GenerationRequest:
    """A request from options or a batch line. `file`: the output file, if known. Raises RequestError with the field."""
    values = {k: v for k, v in given.items() if k != "size"}
    if given.get("size") is not None:
        try:
            width, height = str(given["size"]).lower().split("x")
            values |= {"width": int(width), "height": int(height)}
        except ValueError:
            raise RequestError(
                "size", f"must be WIDTHxHEIGHT in pixels, such as 720x480, got {given['size']!r}"
            ) from None
    for name in ("image", "video"):
        if values.get(name) is not None:
            if re.match(r"data:|(https?|ftp|s3|gs|hf|file):/", str(values[name])):
                raise RequestError(name, "must be a file on this machine: nothing is downloaded or decoded here")
            path = home(str(values[name]), name)
            if not path.is_file():
                raise RequestError(name, f"{path} is {'not a file' if path.exists() else 'not there'}")
            try:
                values[name] = Media.of(path)
            except OSError as e:
                raise RequestError(name, f"{path} cannot be read: {e.strerror}") from None
    values["loras"] = tuple(to_lora(str(one)) for one in values.get("loras") or ())
    if file is not None:
        values["output_format"] = _format_of(file)
    return GenerationRequest(prompt=prompt, **values)


def to_lora(text: str) -> Lora:
    """Parses `FILE.safetensors[:SCALE]` or, for an installed LoRA, `NAME[:SCALE]`. As in requests, the scale may be
    preceded by `#sha256=HEX&alpha=NUMBER`."""
    if "://" in text:
        raise RequestError("loras", f"nothing is downloaded here; cogvideox lora add {text}, then give its name")
    if (path := _lora_file(text)) is not None:
        return Lora(str(path))
    name, mark, said = text.partition("#")
    head, colon, tail = (said if mark else text).rpartition(":")
    scale = 1.0
    if colon and (head or mark):
        try:
            scale = float(tail)
        except ValueError:
            raise RequestError("loras", f"must be FILE.safetensors[:SCALE] or NAME[:SCALE], got {text!r}") from None
        name, said = (name, head) if mark else (head, "")
    path = _lora_file(name)
    if path is None:
        raise RequestError(
            "loras", f"{name} is not a file, and no LoRA of that name is installed (cogvideox lora list)"
        )
    sha256, alpha = _options(said)
    return Lora(str(path), scale, sha256, alpha)


def _options(said: str) -> tuple[str | None, float | None]:
    from pipelines.lora import file as lora_file
    from pipelines.lora.layout import LoraError

    try:
        return lora_file.options(said)
    except LoraError as e:
        raise RequestError("loras", str(e)) from None


def _lora_file(name: str) -> Path | None:
    path = home(name, "loras")
    if path.is_file():
        return path
    from server.settings import Settings
    from weights import loras

    try:
        return loras.find(name, Settings.load().lora_folder) if loras.NAME.fullmatch(name) else None
    except WeightsError as e:
        raise RequestError("loras", str(e)) from None


def _format_of(path: Path) -> Any:
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in get_args(OutputFormat):
        raise RequestError("output", f"{path.name} must end in .mp4, .gif or .webm")
    return suffix


def several(prompt: str, given: dict[str, Any], output: Target | None, count: int) -> Iterator[Job]:
    """`count` jobs with the seeds seed, seed+1, ...; each job has its own output file."""
    file = None if output is None or output.is_folder else output.path
    folder = Path("outputs") if output is None else output.path
    typed = Job(GenerationRequest(prompt), folder)
    try:
        if file is not None and output is not None and not output.is_video:
            raise RequestError("output", f"{file.name} must end in .mp4, .gif or .webm, or in / if it is a folder")
        request = to_request(prompt, given, file)
        seed = draw_seed() if request.seed is None else request.seed
        check_ranges(replace(request, seed=seed))
        check_ranges(replace(request, seed=seed + count - 1))
    except RequestError as e:
        raise typed.mistake(e.field, e.message) from None
    for i in range(count):
        if file is not None:
            path = file if count == 1 else file.with_name(f"{file.stem}-{i + 1}{file.suffix}")
        else:
            path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{seed + i}.{request.output_format}"
        yield Job(replace(request, seed=seed + i), path)


def batch(file: Path, given: dict[str, Any], output: Target | None) -> Iterator[Job]:
    """The jobs of a JSONL file; a line's own values override the options. Videos are named by line number."""
    if output is not None and not output.is_folder and (output.is_video or output.path.exists()):
        raise Usage("--output: with --batch it must be a folder")
    # for a batch file without a suffix, the folder needs another name
    folder = output.path if output else file.with_suffix("") if file.suffix else file.with_name(f"{file.name}-videos")
    taken: dict[Path, int] = {}
    known = {f.name for f in fields(GenerationRequest)} | {"size", "output"} | set(ALIASES)
    known -= {"asked_prompt", "prompt_note"}
    try:
        lines = read_lines(file)
    except NotText as e:
        raise Usage(str(e)) from None
    except OSError as e:
        raise Usage(f"--batch: {file} cannot be read: {e.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as e:
            raise Usage(f"{file}:{number}: not JSON: {e.msg} (column {e.colno})") from None
        except (ValueError, RecursionError) as e:
            raise Usage(f"{file}:{number}: not JSON: {e}") from None
        if not isinstance(values, dict) or not isinstance(values.get("prompt"), str):
            raise Usage(f'{file}:{number}: must be an object with a "prompt"')
        unknown = sorted(set(values) - known)
        if unknown:
            raise Usage(f"{file}:{number}: unknown field {unknown[0]!r}; known: {', '.join(sorted(known))}")
        for name, value in values.items():
            for text in value if isinstance(value, list) else [value]:
                if wrong := flaw(text) if isinstance(text, str) else None:
                    raise Usage(f"{file}:{number}: {name}: must be plain text: {wrong}")
        typed = frozenset(values)
        if twice := _said_twice(values):
            raise Usage(f"{file}:{number}: {twice[0]}: {twice[1]} is given too; use only one of them")
        values = {ALIASES.get(k, k): v for k, v in values.items()}
        wanted = values.pop("output_format", None)
        path = folder / str(values.pop("output", f"{number:04}.{wanted or 'mp4'}"))
        job = Job(GenerationRequest(""), path, f"{file}:{number}", typed)
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                raise RequestError("output", f"must stay inside the folder {folder}")
            if wanted not in (None, *get_args(OutputFormat)):
                raise RequestError("output_format", f"must be one of {', '.join(get_args(OutputFormat))}")
            if wanted not in (None, _format_of(path)):
                raise RequestError("output_format", f"is {wanted}, but output ends in {path.suffix}")
            place = _possible(path, "output").resolve()
            if place in taken:
                raise RequestError("output", f"{path.name} is line {taken[place]}'s already")
            taken[place] = number
            if not isinstance(values.get("loras", []), list):
                raise RequestError("loras", "must be a list of FILE.safetensors[:SCALE]")
            request = to_request(values.pop("prompt"), given | values, path)
            _check_types(request)
            check_ranges(request)
        except RequestError as e:
            raise job.mistake(e.field, e.message) from None
        yield replace(job, request=request)


def _said_twice(values: dict[str, Any]) -> tuple[str, str] | None:
    """Two names in a batch line that set the same field, if any."""
    pairs = [*ALIASES.items(), ("size", "width"), ("size", "height")]
    return next((pair for pair in pairs if all(values.get(name) is not None for name in pair)), None)


def _check_types(request: GenerationRequest) -> None:
    """Checks the types of a JSON line's values; the command line's parser has checked the values of options."""
    numbers = ("num_frames", "width", "height", "fps", "interpolate_fps", "num_inference_steps", "seed")
    for name in numbers:
        value = getattr(request, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise RequestError(name, f"must be an integer, got {value!r}")
    for name in ("duration", "guidance_scale", "strength"):
        value = getattr(request, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise RequestError(name, f"must be a number, got {value!r}")
    for name, allowed in (("fit", get_args(Fit)), ("scheduler", (None, "ddim", "dpm"))):
        if getattr(request, name) not in allowed:
            raise RequestError(name, f"must be one of {', '.join(str(a) for a in allowed if a)}")
    for name in ("extend", "prompt_help", "strict", "use_dynamic_cfg"):
        value = getattr(request, name)
        if not isinstance(value, bool) and not (value is None and name in ("extend", "use_dynamic_cfg")):
            raise RequestError(name, f"must be true or false, got {getattr(request, name)!r}")
    if not isinstance(request.negative_prompt, str):
        raise RequestError("negative_prompt", "must be text")


def is_done(request: GenerationRequest, path: Path, model: str) -> bool:
    """Whether `path` already contains this request's video by `model`; if the request has no seed, a video with any
    seed counts."""
    from pipelines.video import ManifestError, check_format, read_manifest

    if not path.is_file():
        return False
    try:
        manifest = read_manifest(path)
        check_format(manifest)
        made, by = {"extend": False, **manifest["request"]}, manifest["model"]["name"]
    except (ManifestError, KeyError, TypeError):
        return False
    if made.get("asked_prompt") is not None:
        made["prompt"] = made["asked_prompt"]
    asked = request.to_dict()
    for name in ("prompt_help", "asked_prompt", "prompt_note"):
        asked.pop(name)
        made.pop(name, None)
    for name in ("image", "video"):
        if asked[name] is not None:
            asked[name] = {"sha256": asked[name]["sha256"]}
    asked["loras"] = [one.for_manifest() for one in request.loras]
    if asked["seed"] is None:
        asked["seed"] = made.get("seed")
    return by == model and bool(json.loads(json.dumps(asked)) == made)
