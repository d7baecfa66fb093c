"""The LoRAs of a request: read from a cache by the hash of their file, attached in turn, and described in the log."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pipelines.events import Event, Log
from pipelines.lora import file as lora_file
from pipelines.lora.adapters import Adapter, LoraError, attach, read_adapter
from pipelines.plan import Note
from pipelines.request import GenerationRequest, Lora, RequestError

FETCHED = re.compile(r"[0-9a-f]{64}\.safetensors")  # the server's names for downloaded files
ROOM = 2 * 2**30  # bytes: about eight LoRAs of rank 128 for the 5B in bfloat16


class Adapters:
    """A cache that drops the least recently used adapter. An adapter larger than the whole cache is read each time."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._kept: OrderedDict[tuple[str, str], Adapter] = OrderedDict()

    @property
    def bytes(self) -> int:
        return sum(adapter.bytes for adapter in self._kept.values())

    def get(self, lora: Lora, model: str, transformer: nn.Module) -> Adapter:
        """The adapter for `transformer` of `model`. Raises LoraError."""
        path = Path(lora.path)
        try:
            sha256 = lora_file.digest(path)
        except OSError as e:
            raise LoraError(f"cannot be read: {e.strerror}") from e
        if lora.sha256 is not None and sha256 != lora.sha256:
            raise LoraError(f"its SHA-256 is {sha256}, asked for was {lora.sha256}")
        adapter = self._kept.pop((sha256, model), None)
        if adapter is None or adapter.file.path != path:  # its sidecar counts too
            adapter = read_adapter(transformer, path)
        if adapter.bytes <= self._room:
            self._kept[sha256, model] = adapter
        while self.bytes > self._room:
            self._kept.popitem(last=False)
        return adapter

    def all(self, loras: Iterable[Lora], model: str, transformer: nn.Module) -> list[tuple[Lora, Adapter]]:
        """Raises RequestError."""
        loras, found = list(loras), []
        for name, one in zip(names(loras), loras, strict=True):
            try:
                found.append((one, self.get(one, model, transformer)))
            except (LoraError, OSError) as e:
                raise RequestError("loras", f"{name}: {e}") from e
        return found


def names(loras: Sequence[Lora]) -> list[str]:
    """Names for messages: the file's name, with a number if the name is not unique."""
    files = [Path(one.path).name for one in loras]
    return [
        f"{file} (number {n})" if files.count(file) > 1 or (FETCHED.fullmatch(file) and len(files) > 1) else file
        for n, file in enumerate(files, 1)
    ]


def text_notes(request: GenerationRequest, loras: Sequence[tuple[Lora, Adapter]]) -> list[Note]:
    """Notes on LoRAs with a part for the text encoder. Raises RequestError instead if the request is strict."""
    notes = []
    for name, (_, adapter) in zip(names([one for one, _ in loras]), loras, strict=True):
        if adapter.match.text:
            reason = f"its part for the text encoder ({adapter.match.text_layers}) cannot be applied here"
            if request.strict:
                raise RequestError("loras", f"{name} is not possible as asked: {reason}")
            notes.append(Note("loras", name, "its part for the transformer", reason))
    return notes


def strength(name: str, one: Lora, adapter: Adapter) -> str:
    """A text that states the LoRA's scale, its alpha, where the alpha comes from, and the rank."""
    alpha = adapter.alpha(one.alpha)
    strongest = max(alpha.values, key=lambda m: abs(alpha.values[m] / adapter.match.parts[m].rank))
    return (
        f"{name} at scale {one.scale:g}, alpha {alpha.values[strongest]:g} (from {alpha.source}), rank"
        f" {adapter.match.parts[strongest].rank}"
    )


def attach_all(transformer: Any, loras: Sequence[tuple[Lora, Adapter]]) -> Generator[Event, None, dict[str, Any]]:
    """Attach and log each LoRA. Returns the alphas, which together with the files decide the LoRAs' effect. Raises
    RequestError."""
    strengths = []
    for n, (file, (one, adapter)) in enumerate(zip(names([one for one, _ in loras]), loras, strict=True)):
        try:
            loaded = attach(transformer, adapter, one.scale, f"lora{n}", one.alpha)
        except LoraError as e:
            raise RequestError("loras", f"{file}: {e}") from e
        yield Log(
            f"lora {file}: scale {loaded.scale:g}, rank {loaded.rank or 'differs'}, alpha"
            f" {'differs' if loaded.alpha is None else f'{loaded.alpha:g}'} (from {loaded.alpha_source}),"
            f" {loaded.modules} modules, {adapter.bytes / 2**20:.1f} MiB; layout {loaded.layout}"
            + ("" if adapter.match.kinds == ["LoRA"] else f"; {', '.join(adapter.match.kinds)}")
            + ("" if loaded.scale else "; with scale 0 it does nothing")
        )
        alpha = adapter.alpha(one.alpha)
        for doubt in lora_file.doubts(adapter.match, alpha, one.alpha):
            yield Log(f"lora {file}: {doubt}", "WARN")
        strengths.append(alpha.values)
    return {"alphas": strengths} if strengths else {}
