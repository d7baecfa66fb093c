"""The input files of a run (images, clips, LoRAs), which are sent to a worker under names instead of paths.

`packed` names each file by its SHA-256. The pool copies or links the files into the worker's own folder under these
names, and `unpacked` finds the files in that folder. `unlocated` replaces the paths in a worker's report by the names.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.lora import file as lora_file
from pipelines.request import GenerationRequest
from server.workers.protocol import InputFile


def packed(request: GenerationRequest) -> tuple[GenerationRequest, dict[InputFile, Path]]:
    """The request with names instead of paths, and the path of each named file on this machine. Missing LoRA files are
    left out, and the engine reports that they are missing."""
    sources: dict[InputFile, Path] = {}
    for one in filter(None, (request.image, request.video)):
        sources[InputFile(one.sha256, one.sha256)] = Path(one.path)
    loras = []
    for lora in request.loras:
        name, files = _packed_lora(Path(lora.path))
        loras.append(replace(lora, path=name))
        sources |= files
    image, video = (one and replace(one, path=one.sha256) for one in (request.image, request.video))
    return replace(request, image=image, video=video, loras=tuple(loras)), sources


def _packed_lora(path: Path) -> tuple[str, dict[InputFile, Path]]:
    """Returns a name for the LoRA and its files, including the files beside the LoRA that determine its alpha. The name
    ends with the LoRA's file name, because messages and manifests show that part."""
    digests = {}
    for file in (path, *lora_file.beside(path)):
        with suppress(OSError):
            digests[file] = lora_file.digest(file)
    folder = "-".join(digests.values()) or "missing"
    return f"{folder}/{path.name}", {InputFile(f"{folder}/{f.name}", sha256): f for f, sha256 in digests.items()}


def unpacked(request: GenerationRequest, folder: Path) -> GenerationRequest:
    """The request with paths in the worker's own `folder`. Raises ValueError for a name that leads outside `folder`."""

    def there(name: str) -> str:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name!r} is not a valid name of an input file")
        return str(folder / name)

    image, video = (one and replace(one, path=there(one.path)) for one in (request.image, request.video))
    loras = tuple(replace(one, path=there(one.path)) for one in request.loras)
    return replace(request, image=image, video=video, loras=loras)


def unlocated(value: Any, folder: Path) -> Any:
    """Replaces paths in `folder` by names, in any JSON value."""
    if isinstance(value, dict):
        return {name: unlocated(one, folder) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [unlocated(one, folder) for one in value]
    return value.removeprefix(f"{folder}/") if isinstance(value, str) else value


class InputFolder:
    """The folder of this machine's workers: links to the input files of their current runs, and nothing else."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def bring(self, sources: Mapping[InputFile, Path]) -> None:
        """Links these files into the folder; leaves out files that do not exist. Raises OSError."""
        for file, source in sources.items():
            target = self._root / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # the engine reports it
                _link(source.resolve(strict=True), target)

    def keep_only(self, files: Collection[InputFile]) -> None:
        """Removes all other files, which belong to earlier runs."""
        names = {self._root / file.name for file in files}
        for path in sorted(self._root.rglob("*"), reverse=True):  # files before their folders
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):  # the folder is not empty
                    path.rmdir()
            elif path not in names:
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self._root.rmdir()


def _link(source: Path, target: Path) -> None:
    """Creates a hard link, which survives the deletion of the source. Across file systems, creates a symbolic link."""
    with suppress(FileExistsError):
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:
            target.symlink_to(source)
