"""Checks of `generate`'s jobs that do not need torch. The checks run before torch is imported, and before the first of
several videos is made.

Knows: requests, their input files, the output files. Does not know: engines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.request import RequestError
from server.cli.arguments import Job, Usage, flag

if TYPE_CHECKING:
    from pipelines.models import ModelInfo
    from server.served import Served

DEMO_HEIGHT = 480  # pixels; the demo model's own 96x64 is tiny on a screen, and the APIs' default is 720x480


def check_requests(jobs: Sequence[Job], served: Served) -> list[Job]:
    """Checks the jobs and returns them. A request to the demo model without a size gets the height DEMO_HEIGHT, because
    the model's own size is tiny. Raises Usage for a request that its model cannot fulfil, and NoModel."""
    return [_checked(job, served) for job in jobs]


def _checked(job: Job, served: Served) -> Job:
    from pipelines.engine.source import read_source
    from pipelines.errors import GenerationError
    from pipelines.resolve import resolve

    model = served.model_for(job.request.task)
    if model.is_demo and not job.request.strict and job.request.width is None and job.request.height is None:
        job = replace(job, request=replace(job.request, height=DEMO_HEIGHT))
    request = replace(job.request, seed=job.request.seed or 0)
    others = list({info.name: info for info in served.by_task.values()}.values()) if request.extend else ()
    try:
        source = read_source(request, model)[2]
        resolve(request, model, source=source, others=others)
        for lora in request.loras:
            _check_lora(Path(lora.path), model)
    except RequestError as e:
        raise job.mistake(e.field, e.message) from None
    except GenerationError as e:
        read = request.image or request.video
        raise job.mistake(e.field or "image", f"{read.path if read else ''}: {e.message}") from None
    return job


def _check_lora(path: Path, model: ModelInfo) -> None:
    from pipelines.lora import file as lora_file
    from pipelines.lora import layout as lora_layout

    try:
        config = json.loads((model.folder / "transformer" / "config.json").read_text("utf-8"))
        file = lora_file.read(path)
        lora_file.alpha_of(file, lora_file.matched(file, lora_layout.layers_of(config)))
    except lora_layout.LoraError as e:
        raise RequestError("loras", f"{path}: {e}") from None
    except OSError as e:
        raise RequestError("loras", f"{path} cannot be read: {e.strerror}") from None


def check_outputs(jobs: Sequence[Job], *, overwrite: bool, resume: bool) -> None:
    """Creates the folders. Raises Usage for a file that cannot be written or would be overwritten; with `resume`, a
    truncated video of an earlier run may be overwritten."""
    for job in jobs:
        path = job.path
        if path.is_dir():
            raise job.mistake("output", f"{path} is a folder")
        if path.exists() and not overwrite and not (resume and _is_torn(path)):
            held = " holds another video" if resume else " exists"
            raise job.mistake("output", f"{path}{held}; --overwrite replaces it, or choose another name")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise job.mistake("output", f"{path.parent} is a file, not a folder") from None
        except OSError as e:
            raise job.mistake("output", f"{path.parent} cannot be made: {e.strerror}") from None
        part = part_of(path)
        try:
            part.touch()
            part.unlink()
        except OSError as e:
            raise job.mistake("output", f"{path} cannot be written: {e.strerror}") from None


def part_of(path: Path) -> Path:
    """The temporary file to which a video is written before it is renamed."""
    return path.with_name(f".{path.name}.part")


def free_name(path: Path) -> Path:
    """`path`, or the next free name if another program has created that file in the meantime."""
    number, free = 1, path
    while free.exists():
        free, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return free


def _is_torn(path: Path) -> bool:
    """Whether the file is a truncated video of ours: its JSON file is beside it, but it contains no manifest."""
    from pipelines.video import ManifestError, read_manifest

    try:
        beside = json.loads(path.with_suffix(path.suffix + ".json").read_text("utf-8"))
        if not isinstance(beside, dict) or beside.get("file") != path.name:
            return False
        read_manifest(path)
    except ManifestError:
        return True
    except (OSError, ValueError):
        return False
    return False


def prompt_help_is_set(jobs: Sequence[Job]) -> None:
    """Raises Usage if a request wants its prompt rewritten; call it only when no endpoint for prompt help is set."""
    for job in jobs:
        if job.request.prompt_help:
            raise Usage(f"{flag('prompt_help')}: set COGVIDEOX_PROMPT_HELP_URL and COGVIDEOX_PROMPT_HELP_MODEL")
