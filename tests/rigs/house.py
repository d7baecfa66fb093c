"""Provides the server's tests with tiny checkpoints, settings and an app over the fake engine."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from pipelines.request import GenerationRequest
from server.app import create_app
from server.house import House
from server.jobs.job import Job
from server.jobs.order import Order
from server.settings import Settings
from tests.rigs.pace import until
from weights.configs import CLASSES, whole
from weights.expected import EXPECTED
from weights.stored import STEMS

TOKENIZER = Path(__file__).resolve().parents[2] / "weights" / "demo" / "tokenizer" / "tokenizer.json"
ENGINE = "tests.rigs.fake_engine:Engine"


def checkpoint(folder: Path, *, image: bool = False, channels: int | None = None) -> Path:
    """A folder that looks like a CogVideoX checkpoint until it is loaded; its weights are zeros."""
    libraries = {"text_encoder": "transformers", "tokenizer": "transformers"}
    configs: dict[str, dict[str, Any]] = {
        "model_index.json": {
            "_class_name": "CogVideoXImageToVideoPipeline" if image else "CogVideoXPipeline",
            **{part: [libraries.get(part, "diffusers"), names[0]] for part, names in CLASSES.items()},
        },
        "transformer/config.json": {
            "_class_name": "CogVideoXTransformer3DModel",
            "in_channels": channels or (32 if image else 16),
            "out_channels": 16,
            "num_layers": 2,
            "num_attention_heads": 4,
            "attention_head_dim": 4,
            "time_embed_dim": 4,
            "text_embed_dim": 4,
            "sample_width": 8,
            "sample_height": 6,
            "sample_frames": 17,
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKLCogVideoX",
            "block_out_channels": [4] * 4,
            "norm_num_groups": 4,
            "layers_per_block": 1,
        },
        "text_encoder/config.json": {
            "model_type": "t5",
            "feed_forward_proj": "gated-gelu",
            "vocab_size": 385,
            "d_model": 4,
            "d_kv": 4,
            "d_ff": 4,
            "num_layers": 1,
            "num_heads": 1,
        },
        "tokenizer/tokenizer_config.json": {},
        "scheduler/scheduler_config.json": {
            "_class_name": "CogVideoXDDIMScheduler",
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "clip_sample": False,
        },
    }
    for name, config in configs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))
    shutil.copyfile(TOKENIZER, folder / "tokenizer" / "tokenizer.json")
    for part, expected in EXPECTED.items():
        shapes = expected(whole(part, configs[f"{part}/config.json"]))
        tensors(folder / part / f"{STEMS[part]}.safetensors", shapes)
    return folder


def tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Writes a safetensors file of float16 zeros."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    said = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        file.truncate(8 + len(said) + end)


def plain(**given: Any) -> Settings:
    """Settings from these values and the defaults, without any `.env` file."""
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
    return house.context.jobs.submit(request, Order("test", "test", ""))


def ended(house: House, job: Job, seconds: float = 60.0) -> Job:
    """Waits until the job has ended and returns it; `seconds` is the time limit, which is scaled to the machine."""

    def look() -> Job | None:
        found = house.context.jobs.get(job.id)
        return found if found is not None and found.status.is_terminal else None

    found: Job = until(look, seconds)
    return found


def journal(tmp: Path) -> list[str]:
    return (tmp / "tiny" / "journal").read_text().splitlines()
