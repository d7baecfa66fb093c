"""What somebody asks for, before any model has been looked at.

Knows: the field's names, and what makes a request nonsense for every model there is.
Does not know: models, devices, vendors, torch. `None` means "the model's own default".
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

MAX_SEED = 2**63 - 1
DRAWN_SEED_LIMIT = 2**32  # a JSON number that every client language holds exactly


class Task(StrEnum):
    T2V = "text-to-video"
    I2V = "image-to-video"
    V2V = "video-to-video"


class RequestError(ValueError):
    """A request that cannot be carried out: `field` names the culprit in `GenerationRequest`'s terms."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True)
class Media:
    """A picture or clip that came with the request: where its bytes lie here, and their SHA-256 (hex)."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Media:
        return cls(str(path), record.sha256(path))


@dataclass(frozen=True)
class Lora:
    """A LoRA file on this machine (safetensors) and the strength it is applied with.

    `sha256` (hex): what the file must be. `alpha` counts where nothing in or beside the file says what it is.
    """

    path: str
    scale: float = 1.0
    sha256: str | None = None
    alpha: float | None = None

    def told(self) -> dict[str, Any]:
        """For a manifest: without the folder it lies in."""
        named = {"file": Path(self.path).name, "scale": self.scale}
        return named if self.alpha is None else {**named, "alpha": self.alpha}


@dataclass(frozen=True)
class GenerationRequest:
    """One video to make. Sizes in pixels, `fps` in frames a second, `strength` in 0..1."""

    prompt: str
    negative_prompt: str = ""
    image: Media | None = None
    video: Media | None = None
    num_frames: int | None = None
    width: int | None = None
    height: int | None = None
    fit: Fit = "auto"
    fps: int | None = None  # frame rate stamped on the file; with `interpolate_fps`, that one wins
    interpolate_fps: int | None = None  # RIFE up to this rate, duration kept
    duration: float | None = None  # seconds, instead of `num_frames`: the file's length, at the motion's own speed
    # beyond the model's longest clip: further clips, each from the last frame of the one before; None: nothing is said
    extend: bool | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    use_dynamic_cfg: bool | None = None
    scheduler: SchedulerName | None = None
    strength: float | None = None  # video-to-video: 1 remakes everything, 0 keeps the source
    seed: int | None = None
    loras: tuple[Lora, ...] = ()
    output_format: OutputFormat = "mp4"
    strict: bool = False  # refuse instead of adapting
    prompt_help: bool = False  # have the prompt reworded first, by whoever runs the engine and knows a helper
    asked_prompt: str | None = None  # what `prompt` was before it was reworded
    prompt_note: str | None = None  # what came of the help

    @property
    def task(self) -> Task:
        if self.video is not None:
            return Task.V2V
        return Task.I2V if self.image is not None else Task.T2V

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` gives an equal request back."""
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
