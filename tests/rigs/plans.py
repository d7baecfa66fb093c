"""Requests and their plans for the published models, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.models import FAMILIES, ModelInfo
from pipelines.plan import Plan, Source
from pipelines.request import GenerationRequest, Media
from pipelines.resolve import resolve

PICTURE = Media("picture.png", "0" * 64)
CLIP = Media("clip.mp4", "1" * 64)


def model(name: str) -> ModelInfo:
    family = next(f for f in FAMILIES if f.name == name)
    patch = 2 if "1.5" in name else 1
    return ModelInfo(name, Path(name), family, True, 226, patch, 1920 if "2b" in name else 3072, 128, 240 * 360)


def ask(**values: Any) -> GenerationRequest:
    return GenerationRequest(**{"prompt": "a cat", "seed": 1, **values})


def plan(name: str = "cogvideox-5b", source: Source | None = None, **values: Any) -> Plan:
    return resolve(ask(**values), model(name), source=source)
