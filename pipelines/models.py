"""The CogVideoX family as a table, and how a checkpoint folder is recognised.

The table holds the sizes, frame counts, rates, dtype, scheduler and tokens that each model was trained for. For a
checkpoint of any other model, these figures are read from the checkpoint's config files. Pure: no torch, no weights.

Sources: README of zai-org/CogVideo (sizes, frames, fps, dtype, steps, guidance), comments in its cli_demo.py (scheduler
and dynamic guidance), scripts/convert_cogvideox_to_diffusers.py of diffusers (configs); frame counts measured on
`AutoencoderKLCogVideoX`, which returns the requested length for 8k+1 frames only.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.request import SchedulerName, Task

PATCH_PIXELS = 16  # VAE 8 x patch 2; other sizes fail late inside the transformer


class ModelError(ValueError):
    """A folder is not a usable CogVideoX checkpoint; the message names the reason."""


@dataclass(frozen=True)
class FrameRule:
    """Frame counts are `step`*k + 1, from `minimum` to `maximum`; `default` applies if the request has no number."""

    step: int
    minimum: int
    maximum: int
    default: int

    def next_valid(self, n: int) -> int:
        """The smallest valid frame count that is at least `n`; the maximum if `n` is larger than the maximum."""
        if n <= self.minimum:
            return self.minimum
        return min(math.ceil((n - 1) / self.step) * self.step + 1, self.maximum)


@dataclass(frozen=True)
class SizeRule:
    """(width, height) pairs in pixels, for which the model was trained. The first pair is the default.

    With `short_side`, a size is native if its short side has this length and its long side is a multiple of 16 up to
    `long_side`.
    """

    native: tuple[tuple[int, int], ...]
    short_side: int | None = None
    long_side: int | None = None

    @property
    def default(self) -> tuple[int, int]:
        return self.native[0]

    def accepts(self, width: int, height: int) -> bool:
        if (width, height) in self.native:
            return True
        if self.short_side is None or self.long_side is None:
            return False
        short, long = sorted((width, height))
        return short == self.short_side and long <= self.long_side and long % PATCH_PIXELS == 0

    def nearest(self, width: float, height: float) -> tuple[int, int]:
        """The native size with the aspect ratio closest to width:height; among sizes of equal ratio, the size closest
        to width x height in area."""
        if self.short_side is None or self.long_side is None:
            shape, area = math.log(width / height), math.log(width * height)
            return min(
                self.native,
                key=lambda s: (round(abs(math.log(s[0] / s[1]) - shape), 3), abs(math.log(s[0] * s[1]) - area)),
            )
        ratio = max(width, height) / min(width, height)
        long = round(self.short_side * ratio / PATCH_PIXELS) * PATCH_PIXELS
        long = max(self.short_side, min(long, self.long_side))
        return (long, self.short_side) if width >= height else (self.short_side, long)


@dataclass(frozen=True)
class Family:
    """What one model of the CogVideoX family can do. `dtype` is the dtype of training; a CPU always computes in
    float32."""

    name: str
    title: str
    tasks: frozenset[Task]
    dtype: str
    sizes: SizeRule
    frames: FrameRule
    fps: int
    scheduler: SchedulerName
    dynamic_cfg: bool
    steps: int = 50
    guidance_scale: float = 6.0


TEXT_AND_VIDEO = frozenset({Task.T2V, Task.V2V})
IMAGE = frozenset({Task.I2V})
SIZE_10 = SizeRule(native=((720, 480),))
SIZE_15 = SizeRule(native=((1360, 768), (768, 1360)), short_side=768, long_side=1360)
FRAMES_10 = FrameRule(step=8, minimum=9, maximum=49, default=49)
FRAMES_15 = FrameRule(step=16, minimum=17, maximum=161, default=81)

FAMILIES: tuple[Family, ...] = (
    Family("cogvideox-2b", "CogVideoX-2B", TEXT_AND_VIDEO, "float16", SIZE_10, FRAMES_10, 8, "ddim", False),
    Family("cogvideox-5b", "CogVideoX-5B", TEXT_AND_VIDEO, "bfloat16", SIZE_10, FRAMES_10, 8, "dpm", True),
    # NOTE: away from 49 frames the 5B-I2V runs but looks bad, so shorter clips are cut from a full one
    Family(
        "cogvideox-5b-i2v",
        "CogVideoX-5B-I2V",
        IMAGE,
        "bfloat16",
        SIZE_10,
        FrameRule(step=8, minimum=49, maximum=49, default=49),
        8,
        "dpm",
        True,
    ),
    Family("cogvideox-1.5-5b", "CogVideoX1.5-5B", TEXT_AND_VIDEO, "bfloat16", SIZE_15, FRAMES_15, 16, "dpm", True),
    Family("cogvideox-1.5-5b-i2v", "CogVideoX1.5-5B-I2V", IMAGE, "bfloat16", SIZE_15, FRAMES_15, 16, "dpm", True),
)

# (layers, heads, in_channels, patch_size_t, has ofs embedding) -> family, as in the published transformer configs
SIGNATURES: dict[tuple[int, int, int, int | None, bool], str] = {
    (30, 30, 16, None, False): "cogvideox-2b",
    (42, 48, 16, None, False): "cogvideox-5b",
    (42, 48, 32, None, False): "cogvideox-5b-i2v",
    (42, 48, 16, 2, False): "cogvideox-1.5-5b",
    (42, 48, 32, 2, True): "cogvideox-1.5-5b-i2v",
}


DEMOS = ("demo", "demo-i2v")  # the models that ship with this project, also in weights/catalog.py


@dataclass(frozen=True)
class ModelInfo:
    """One checkpoint folder: its family, and the figures that planning and memory estimates need.

    `max_tokens`: length of the text sequence. `latent_patch_frames`: the latent frames in one patch of the transformer
    (2 in the 1.5 models, else 1). `inner_dim`: width of the transformer. `decoder_width`: channels of the VAE's first
    block (128 in the published models).
    """

    name: str
    folder: Path
    family: Family
    known: bool
    max_tokens: int
    latent_patch_frames: int
    inner_dim: int
    decoder_width: int
    tile_pixels: int

    @property
    def tasks(self) -> frozenset[Task]:
        return self.family.tasks

    @property
    def is_demo(self) -> bool:
        return self.family.name == "demo"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing: this is not a whole CogVideoX checkpoint") from None
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{path} cannot be read: {e}") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} is not a JSON object")
    return data


def _own_family(name: str, transformer: dict[str, Any], scheduler: dict[str, Any]) -> Family:
    """The family of a checkpoint that is not a published one, as read from the checkpoint's config files."""
    tall, wide = int(transformer.get("sample_height", 60)) * 8, int(transformer.get("sample_width", 90)) * 8
    frames = int(transformer.get("sample_frames", 49))
    if not (8 <= tall <= 8192 and 8 <= wide <= 8192 and 1 <= frames <= 10_000):
        raise ModelError(f"the transformer's config of {name} says {wide}x{tall} pixels and {frames} frames")
    is_15 = transformer.get("patch_size_t") is not None
    step = 16 if is_15 else 8
    longest = max(step + 1, (frames - 1) // step * step + 1)
    native: tuple[tuple[int, int], ...] = ((wide, tall),)
    learned = bool(transformer.get("use_learned_positional_embeddings"))
    rotary = bool(transformer.get("use_rotary_positional_embeddings"))
    if rotary and not learned and wide != tall:
        native += ((tall, wide), (min(wide, tall), min(wide, tall)))
    is_i2v = int(transformer.get("in_channels", 16)) == 2 * int(transformer.get("out_channels", 16))
    return Family(
        name=name,
        title=name,
        tasks=IMAGE if is_i2v else TEXT_AND_VIDEO,
        dtype="bfloat16",
        sizes=SizeRule(native),
        frames=FrameRule(step, step + 1, longest, longest),
        fps=16 if is_15 else 8,
        scheduler="dpm" if "DPM" in str(scheduler.get("_class_name")) else "ddim",
        dynamic_cfg=False,
    )


def describe(folder: Path, name: str | None = None) -> ModelInfo:
    """Recognise the checkpoint in `folder` by its config files, without reading weights.

    Raises ModelError if a config is missing, unreadable, or not CogVideoX.
    """
    try:
        return _described(folder, name)
    except ModelError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError) as e:
        raise ModelError(f"the config files in {folder} hold values that no CogVideoX model has: {e}") from None


def _described(folder: Path, name: str | None) -> ModelInfo:
    index = _read_json(folder / "model_index.json")
    if not str(index.get("_class_name", "")).startswith("CogVideoX"):
        raise ModelError(f"{folder} holds a {index.get('_class_name')!r} pipeline, not CogVideoX")
    transformer = _read_json(folder / "transformer" / "config.json")
    vae = _read_json(folder / "vae" / "config.json")
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    if transformer.get("_class_name") != "CogVideoXTransformer3DModel":
        raise ModelError(f"{folder}/transformer is a {transformer.get('_class_name')!r}, not CogVideoX's")
    patch_t = transformer.get("patch_size_t")
    heads = int(transformer.get("num_attention_heads", 30))
    signature = (
        int(transformer.get("num_layers", 30)),
        heads,
        int(transformer.get("in_channels", 16)),
        patch_t,
        transformer.get("ofs_embed_dim") is not None,
    )
    known = SIGNATURES.get(signature)
    name = name or folder.resolve().name
    family = next((f for f in FAMILIES if f.name == known), None) or _own_family(name, transformer, scheduler)
    if name in DEMOS and known is None:
        family = replace(family, name="demo", title="demo model (tiny, moving shapes)")
    channels = vae.get("block_out_channels") or [128]
    return ModelInfo(
        name=name,
        folder=folder,
        family=family,
        known=known is not None,
        max_tokens=int(transformer.get("max_text_seq_length", 226)),
        latent_patch_frames=int(patch_t or 1),
        inner_dim=heads * int(transformer.get("attention_head_dim", 64)),
        decoder_width=int(channels[0]),
        tile_pixels=int(vae.get("sample_height", 480)) // 2 * (int(vae.get("sample_width", 720)) // 2),
    )
