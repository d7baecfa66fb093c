"""The manifest of a video: enough to generate it again, or to see why the result would differ."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from pipelines.engine.loader import Model
from pipelines.frames.rife import IFNet
from pipelines.frames.upscaler import Upscaler
from pipelines.plan import Plan
from pipelines.request import GenerationRequest
from pipelines.video.manifest import MANIFEST_FORMAT


def identity(model: Model, device: torch.device) -> dict[str, Any]:
    """Everything that decides the latents to the bit, except the plan."""
    return {
        "name": model.info.name,
        "revision": model.revision,
        "dtype": short(model.dtype),
        "device": device.type,
        "versions": {name: found for name, found in versions().items() if name in ("torch", "diffusers")},
    }


def manifest(
    request: GenerationRequest,
    plan: Plan,
    model: Model,
    device: torch.device,
    tiled: bool,
    upscaler: Upscaler | None = None,
    extender: Model | None = None,
    interpolator: IFNet | None = None,
) -> dict[str, Any]:
    """Everything needed to reproduce this video, and nothing that changes from run to run."""
    asked = request.to_dict()
    for name in ("image", "video"):
        if asked[name] is not None:
            asked[name] = {"sha256": asked[name]["sha256"]}
    asked["loras"] = [one.for_manifest() for one in request.loras]
    carried_out = plan.to_dict()
    carried_out["loras"] = [{**one.for_manifest(), "sha256": one.sha256} for one in plan.sampling.loras]
    return {
        "format": MANIFEST_FORMAT,
        "request": asked,
        "plan": carried_out,
        "notes": [str(n) for n in plan.notes],
        "seed": plan.sampling.seed,
        "model": _named(model),
        **({} if extender is None else {"extender": _named(extender)}),
        **({} if interpolator is None else {"interpolator": interpolator.file}),
        **({} if upscaler is None else {"upscaler": upscaler.for_manifest()}),
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "dtype": short(model.dtype),
        "vae_tiling": tiled,
        "versions": versions(),
    }


def _named(model: Model) -> dict[str, Any]:
    return {"name": model.info.name, "family": model.info.family.name, "revision": model.revision}


def versions() -> dict[str, str]:
    """The versions of all packages that may change a pixel."""
    found = {"python": platform.python_version()}
    for name in ("cogvideox-server", "torch", "diffusers", "transformers", "imageio-ffmpeg"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
