"""The input files of a run (images, clips, LoRAs), which travel to a worker by name and not by path.

`packed` names each file by its SHA-256, the pool brings the files into the worker's own folder under these names, and
the worker finds them there with `unpacked`. What the worker says of them is `unlocated` again.
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
    """The request with names as paths, and where each named file lies here. One that is not there is left out: the
    engine reports it, in the words of its field."""
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
    """A LoRA keeps its file name, which messages and manifests show, and is packed with the files beside it that decide
    its alpha."""
    digests = {}
    for file in (path, *lora_file.beside(path)):
        with suppress(OSError):
            digests[file] = lora_file.digest(file)
    folder = "-".join(digests.values()) or "missing"
    return f"{folder}/{path.name}", {InputFile(f"{folder}/{f.name}", sha256): f for f, sha256 in digests.items()}


def unpacked(request: GenerationRequest, folder: Path) -> GenerationRequest:
    """With the paths of the files in the worker's own `folder`. Raises ValueError for a name that leads out of it."""

    def there(name: str) -> str:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name!r} is not the name of an input file")
        return str(folder / name)

    image, video = (one and replace(one, path=there(one.path)) for one in (request.image, request.video))
    loras = tuple(replace(one, path=there(one.path)) for one in request.loras)
    return replace(request, image=image, video=video, loras=loras)


def unlocated(value: Any, folder: Path) -> Any:
    """JSON with names again in the place of paths in `folder`."""
    if isinstance(value, dict):
        return {name: unlocated(one, folder) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [unlocated(one, folder) for one in value]
    return value.removeprefix(f"{folder}/") if isinstance(value, str) else value


class InputFolder:
    """The folder of the workers of this machine: links to the input files of their current runs, and nothing else."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def bring(self, sources: Mapping[InputFile, Path]) -> None:
        """Raises OSError."""
        for file, source in sources.items():
            target = self._root / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # the engine says so
                _link(source.resolve(strict=True), target)

    def keep_only(self, files: Collection[InputFile]) -> None:
        """Removes those of earlier runs."""
        names = {self._root / file.name for file in files}
        for path in sorted(self._root.rglob("*"), reverse=True):  # files before their folders
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):  # not empty
                    path.rmdir()
            elif path not in names:
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self._root.rmdir()


def _link(source: Path, target: Path) -> None:
    """A hard link, which outlives the source; a symbolic one where the two lie on different file systems."""
    with suppress(FileExistsError):
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:
            target.symlink_to(source)
