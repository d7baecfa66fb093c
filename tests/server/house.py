"""What the tests of the server share: checkpoints of next to no weights, settings, an app over the fake engine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from pipelines.request import GenerationRequest
from server.app import House, create_app
from server.jobs.job import Job
from server.settings import Settings
from tests.pace import until

ENGINE = "tests.server.fake_engine:Engine"


def checkpoint(folder: Path, *, image: bool = False) -> Path:
    """A folder that is a CogVideoX checkpoint as far as one sees without loading it."""
    parts = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
    configs: dict[str, dict[str, Any]] = {
        "model_index.json": {"_class_name": "CogVideoXPipeline", **{part: ["library", "Class"] for part in parts}},
        "transformer/config.json": {
            "_class_name": "CogVideoXTransformer3DModel",
            "in_channels": 32 if image else 16,
            "out_channels": 16,
            "num_layers": 2,
            "num_attention_heads": 4,
            "sample_width": 8,
            "sample_height": 6,
            "sample_frames": 17,
        },
        "vae/config.json": {"block_out_channels": [8]},
        "text_encoder/config.json": {},
        "tokenizer/tokenizer_config.json": {},
        "scheduler/scheduler_config.json": {"_class_name": "CogVideoXDDIMScheduler"},
    }
    for name, config in configs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))
    (folder / "tokenizer" / "spiece.model").write_text("pieces")
    patch = [1, 32 if image else 16, 2, 2]
    blocks = {f"transformer_blocks.{n}.weight": [1] for n in range(2)}
    tensors(
        folder / "transformer" / "diffusion_pytorch_model.safetensors", {"patch_embed.proj.weight": patch, **blocks}
    )
    tensors(folder / "vae" / "diffusion_pytorch_model.safetensors", {"weight": [1]})
    tensors(folder / "text_encoder" / "model.safetensors", {"weight": [1]})
    return folder


def tensors(path: Path, shapes: dict[str, list[int]]) -> None:
    """A safetensors file of zeros, one byte each."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape)
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [begin, end]}
    said = json.dumps(header).encode()
    path.write_bytes(len(said).to_bytes(8, "little") + said + bytes(end))


def plain(**given: Any) -> Settings:
    """Settings from these and the defaults, whatever `.env` lies about."""
    values: dict[str, Any] = {"_env_file": None, **given}
    return Settings(**values)


def settings(tmp: Path, **given: Any) -> Settings:
    model = f"{checkpoint(tmp / 'tiny')},{checkpoint(tmp / 'tiny-i2v', image=True)}"
    usual = {"data_dir": tmp / "data", "model": model, "device": "cpu", "min_free_mb": 0, "drain_seconds": 1}
    return plain(**(usual | given))


def app(tmp: Path, **given: Any) -> FastAPI:
    return create_app(settings(tmp, **given), engine=ENGINE)


def house_of(app: FastAPI) -> House:
    house: House = app.state.house
    return house


def submit(house: House, prompt: str, **more: Any) -> Job:
    request = GenerationRequest(prompt=prompt, **more)
    return house.context.jobs.submit(request, facade="test", endpoint="test", payload={}, owner="")


def ended(house: House, job: Job, seconds: float = 60.0) -> Job:
    """The job as soon as it has ended; `seconds` are scaled to the machine."""

    def look() -> Job | None:
        found = house.context.jobs.get(job.id)
        return found if found is not None and found.status.is_terminal else None

    found: Job = until(look, seconds)
    return found


def journal(tmp: Path) -> list[str]:
    return (tmp / "tiny" / "journal").read_text().splitlines()
