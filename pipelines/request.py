"""A client's request before it is matched to a model. `None` means "the model's own default".

The module does not know models, devices, vendors or torch.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from weights import record

Fit = Literal["auto", "crop", "pad", "stretch"]
SchedulerName = Literal["ddim", "dpm"]
OutputFormat = Literal["mp4", "gif", "webm"]
MEDIA_TYPES: dict[OutputFormat, str] = {"mp4": "video/mp4", "gif": "image/gif", "webm": "video/webm"}

MAX_SEED = 2**63 - 1
DRAWN_SEED_LIMIT = 2**32  # below this limit, every client language reads a seed from JSON exactly


class Task(StrEnum):
    T2V = "text-to-video"
    I2V = "image-to-video"
    V2V = "video-to-video"


class RequestError(ValueError):
    """The request cannot be carried out because of `field` of GenerationRequest."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True)
class Media:
    """An input image or clip: the file on this machine and its SHA-256 (hex)."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Media:
        return cls(str(path), record.sha256(path))


@dataclass(frozen=True)
class Lora:
    """A LoRA file on this machine (safetensors) and its scale.

    `sha256` (hex): the hash the file must have. `alpha` is used when neither the file nor its sidecar states an alpha.
    """

    path: str
    scale: float = 1.0
    sha256: str | None = None
    alpha: float | None = None

    def for_manifest(self) -> dict[str, Any]:
        """The LoRA's entry in the manifest, which names the file without its folder."""
        named = {"file": Path(self.path).name, "scale": self.scale}
        return named if self.alpha is None else {**named, "alpha": self.alpha}


@dataclass(frozen=True)
class GenerationRequest:
    """One video to generate. Sizes in pixels, `fps` in frames a second, `strength` in 0..1."""

    prompt: str
    negative_prompt: str = ""
    image: Media | None = None
    video: Media | None = None
    num_frames: int | None = None
    width: int | None = None
    height: int | None = None
    fit: Fit = "auto"
    fps: int | None = None  # frame rate written to the file; `interpolate_fps` takes precedence
    interpolate_fps: int | None = None  # interpolate with RIFE up to this rate; the duration stays the same
    duration: float | None = None  # seconds of the file, instead of `num_frames`; motion keeps its speed
    # extend videos beyond the model's longest clip with clips that continue from the last frame; None: not specified
    extend: bool | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    use_dynamic_cfg: bool | None = None
    scheduler: SchedulerName | None = None
    strength: float | None = None  # video-to-video: 1 replaces the source, 0 keeps it
    seed: int | None = None
    loras: tuple[Lora, ...] = ()
    output_format: OutputFormat = "mp4"
    strict: bool = False  # refuse instead of adapting
    prompt_help: bool = False  # let the worker rewrite the prompt first
    asked_prompt: str | None = None  # `prompt` before it was rewritten
    prompt_note: str | None = None  # the result of the rewriting

    @property
    def task(self) -> Task:
        if self.video is not None:
            return Task.V2V
        return Task.I2V if self.image is not None else Task.T2V

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` returns an equal request."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GenerationRequest:
        known = {f.name for f in fields(cls)}
        d = {k: v for k, v in data.items() if k in known}
        for k in ("image", "video"):
            if d.get(k) is not None:
                d[k] = Media(**d[k])
        d["loras"] = tuple(Lora(**x) for x in d.get("loras", ()))
        return cls(**d)


def draw_seed() -> int:
    """A fresh seed, 0 <= seed < 2**32."""
    return secrets.randbelow(DRAWN_SEED_LIMIT)
