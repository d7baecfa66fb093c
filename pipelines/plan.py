"""The plan of a video: `SamplingPlan` decides the latents, `VideoPlan` how they become a file, and notes list what was
changed.

Pure: no torch, no files. `pipelines.resolve` makes plans; `sampling_key` identifies saved latents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pipelines.request import MAX_SEED, Fit, Lora, OutputFormat, SchedulerName, Task

KEY_VERSION = 2  # increase it when the same plan gives different latents, or when the format of snapshots changes


@dataclass(frozen=True)
class Note:
    """One change to a request: the request has `asked` in `field`, but the run uses `used`, because of `reason`."""

    field: str
    asked: Any
    used: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.asked} -> {self.used} ({self.reason})"


@dataclass(frozen=True)
class Source:
    """The input image or clip: its size in pixels, the length and rate of a clip, and `notes` about the colours."""

    width: int
    height: int
    frames: int = 1
    fps: float | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Extender:
    """The checkpoint that continues a video beyond the first clip, and the settings with which that checkpoint
    samples."""

    model: str
    use_dynamic_cfg: bool
    scheduler: SchedulerName
    max_tokens: int


@dataclass(frozen=True)
class SamplingPlan:
    """Everything that the latents depend on, except the model's weights. The key of a snapshot covers every field.

    The model generates `model_frames` of `model_width` x `model_height` at `model_fps`. `source` is the SHA-256 (hex)
    of the input image or clip. `source_fit` says how the image or clip is fitted to the model's size. `source_frames`
    is the number of the clip's frames that the model gets (video-to-video).

    `extension`: the number of frames of each further clip. `extender` generates each further clip from the last frame
    of the clip before. The first frame of a further clip repeats that frame.
    """

    model: str
    task: Task
    prompt: str
    negative_prompt: str
    model_frames: int
    model_width: int
    model_height: int
    model_fps: int
    source: str | None
    source_fit: Fit | None
    source_frames: int | None
    num_inference_steps: int
    guidance_scale: float
    use_dynamic_cfg: bool
    scheduler: SchedulerName
    strength: float | None
    seed: int
    max_tokens: int
    loras: tuple[Lora, ...]
    extender: Extender | None = None
    extension: tuple[int, ...] = ()

    @property
    def total_frames(self) -> int:
        """The number of frames that the model generates, before frames are dropped or repeated."""
        return (self.source_frames or self.model_frames) + sum(frames - 1 for frames in self.extension)

    def clip(self, number: int) -> SamplingPlan:
        """The plan of one clip; number 0 is the first clip. Two videos of different length have equal plans for a clip
        that they share."""
        if number == 0 or self.extender is None:
            return replace(self, extender=None, extension=())
        return replace(
            self,
            model=self.extender.model,
            task=Task.I2V,
            model_frames=self.extension[number - 1],
            source=None,  # the source is the last frame of the clip before; `sampling_key` takes that clip's key
            source_fit=None,
            source_frames=None,
            use_dynamic_cfg=self.extender.use_dynamic_cfg,
            scheduler=self.extender.scheduler,
            seed=(self.seed + number) % (MAX_SEED + 1),
            max_tokens=self.extender.max_tokens,
            extender=None,
            extension=(),
        )


@dataclass(frozen=True)
class VideoPlan:
    """The file: `num_frames` of `width` x `height` at `fps`, before interpolation to `interpolate_fps`.

    `pace` is set when the request gives a duration. It is the number of the model's frames that pass in one second of
    the file. `num_frames` is then the file's length with or without interpolation.
    """

    num_frames: int
    width: int
    height: int
    fit: Fit
    fps: int
    interpolate_fps: int | None
    output_format: OutputFormat
    pace: float | None = None

    @property
    def rate(self) -> int:
        """The file's frame rate, in frames a second."""
        return self.interpolate_fps or self.fps


@dataclass(frozen=True)
class Plan:
    """The parameters in use. `tokens` is the length of the prompt, or None if it was not counted."""

    sampling: SamplingPlan
    video: VideoPlan
    notes: tuple[Note, ...] = ()
    tokens: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The plan in plain JSON types. The fields of `sampling` and `video` are in one dict."""
        parts = {**asdict(self.sampling), **asdict(self.video)}
        rest = {"notes": [asdict(note) for note in self.notes], "tokens": self.tokens}
        plain: dict[str, Any] = json.loads(json.dumps({**parts, **rest}))
        return plain


def sampling_key(sampling: SamplingPlan | Mapping[str, Any], model: Mapping[str, Any], after: str | None = None) -> str:
    """The key that identifies latents: the SHA-256 (hex) of everything that the latents depend on.

    `sampling`: the plan, or a `Plan.to_dict()`. `model` identifies the weights, device, dtype and versions. `after`:
    the key of the clip before. Raises KeyError for a dict that lacks a field of SamplingPlan.
    """
    given = asdict(sampling) if isinstance(sampling, SamplingPlan) else sampling
    plan = {field.name: given[field.name] for field in fields(SamplingPlan)}
    plan["loras"] = [{**lora, "path": None if lora["sha256"] else lora["path"]} for lora in plan["loras"]]
    what = {"version": KEY_VERSION, "sampling": plan, "model": model, "after": after}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
