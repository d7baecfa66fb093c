"""Load checkpoint folders into diffusers components. Models with equal files share a component.

Everything is read from local files, with the hub switched off.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import environment

environment.prepare()  # before transformers and diffusers read the environment

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
)
from diffusers.utils import logging as diffusers_logging
from transformers import T5Config, T5EncoderModel, T5Tokenizer
from transformers.utils import logging as transformers_logging

from pipelines.engine.memory import Weights, module_bytes
from pipelines.models import ModelError, ModelInfo, describe
from pipelines.request import SchedulerName, Task
from weights import configs, record
from weights.fields import DEFAULTS
from weights.verify import verify

for library in (diffusers_logging, transformers_logging):
    library.set_verbosity_error()
    library.disable_progress_bar()

PIPELINES: dict[Task, Any] = {
    Task.T2V: CogVideoXPipeline,
    Task.I2V: CogVideoXImageToVideoPipeline,
    Task.V2V: CogVideoXVideoToVideoPipeline,
}
SCHEDULERS: dict[SchedulerName, Any] = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}
SMALL = 100 * 2**20
CLASSES: dict[str, Any] = {
    "text_encoder": T5EncoderModel,
    "transformer": CogVideoXTransformer3DModel,
    "vae": AutoencoderKLCogVideoX,
}


@dataclass
class Model:
    """One loaded checkpoint. The modules may be shared with other `Model`s of the same loader."""

    info: ModelInfo
    dtype: torch.dtype
    tokenizer: Any
    text_encoder: Any
    transformer: Any
    vae: Any
    scheduler_config: dict[str, Any]
    revision: str | None = None  # the repository's commit if a pull recorded it, or the digest of small weights

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        return {"text_encoder": self.text_encoder, "transformer": self.transformer, "vae": self.vae}

    @property
    def weights(self) -> Weights:
        return Weights(*(module_bytes(m) for m in (self.text_encoder, self.transformer, self.vae)))

    def scheduler(self, name: SchedulerName) -> Any:
        """A new scheduler with the checkpoint's own noise schedule and trailing timesteps. Each request needs a
        scheduler of its own."""
        return SCHEDULERS[name].from_config(self.scheduler_config, timestep_spacing="trailing")

    def pipeline(self, task: Task, scheduler: SchedulerName) -> Any:
        """The stock pipeline for `task` around the shared modules."""
        return PIPELINES[task](
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
            vae=self.vae,
            transformer=self.transformer,
            scheduler=self.scheduler(scheduler),
        )

    def count_tokens(self, prompt: str) -> int:
        """T5 tokens of `prompt`, end-of-sequence included."""
        return len(self.tokenizer(prompt).input_ids)


class Loader:
    """Loads checkpoints and keeps their components. Equal components are in memory only once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._models: dict[Path, Model] = {}
        self._components: list[tuple[str, torch.dtype, Path, Any]] = []

    def dtype_for(self, info: ModelInfo) -> torch.dtype:
        """float32 on a CPU; on a GPU the dtype of the family's training (2B float16, the others bfloat16)."""
        if self.device.type == "cpu":
            return torch.float32
        dtype: torch.dtype = getattr(torch, info.family.dtype)
        return dtype

    def load(self, folder: Path, name: str | None = None) -> Model:
        """Load the checkpoint in `folder`, unless it is loaded already. Raises ModelError."""
        key = folder.resolve()
        if key in self._models:
            return self._models[key]
        if problems := verify(folder).problems:
            more = f" (and {len(problems) - 1} more: cogvideox weights verify)" if len(problems) > 1 else ""
            raise ModelError(f"{folder} does not load: {problems[0]}{more}")
        info = describe(folder, name)
        dtype = self.dtype_for(info)
        try:
            model = Model(
                info=info,
                dtype=dtype,
                tokenizer=T5Tokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
                text_encoder=self._component(folder, "text_encoder", dtype),
                transformer=self._component(folder, "transformer", dtype),
                vae=self._component(folder, "vae", dtype),
                scheduler_config=json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8")),
                revision=_revision(folder),
            )
        except Exception as e:  # each library has its own exceptions for a torn or foreign file
            why = (str(e).strip().splitlines() or [type(e).__name__])[0]
            raise ModelError(f"{folder} does not load: {why}") from e
        if info.latent_patch_frames > 1:
            _widen_positions(model.transformer)
        self._models[key] = model
        return model

    def _component(self, folder: Path, part: str, dtype: torch.dtype) -> Any:
        path = folder / part
        for other_part, other_dtype, other_path, module in self._components:
            if other_part == part and other_dtype == dtype and same_files(path, other_path):
                return module
        arguments: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
        key = "dtype" if part == "text_encoder" else "torch_dtype"
        if part == "text_encoder":
            arguments["config"] = _t5_config(path)
        module, found = CLASSES[part].from_pretrained(path, **{key: dtype}, **arguments)
        if missing := sorted(found["missing_keys"]):  # the library would initialise them at random
            raise ModelError(f"{part} lacks {len(missing)} of its tensors, such as {missing[0]}")
        module.eval().requires_grad_(False)
        self._components.append((part, dtype, path, module))
        return module


def _t5_config(path: Path) -> T5Config:
    """The config of the text encoder, reduced to the fields that the weights are checked against. The other fields are
    for training."""
    config = configs.whole("text_encoder", json.loads((path / "config.json").read_text("utf-8")))
    return T5Config(**{name: config[name] for name in DEFAULTS["text_encoder"]})


def _widen_positions(transformer: Any) -> None:
    """Allow portrait and larger sizes with a 1.5 transformer.

    The rotary positions of a 1.5 transformer are integers, and a request uses as many as its size needs. So a larger
    base size changes no position and only raises the largest possible size (zai-org/CogVideo#645). A 1.0 transformer
    scales its positions to the base size, so its base size must not change.
    """
    side = max(transformer.config.sample_height, transformer.config.sample_width, 512)
    transformer.register_to_config(sample_height=side, sample_width=side)


def same_files(a: Path, b: Path) -> bool:
    """Whether two component folders hold the same config and the same weights, byte for byte."""
    if a.resolve() == b.resolve():
        return True
    files_a, files_b = _files(a), _files(b)
    if {n: p.stat().st_size for n, p in files_a.items()} != {n: p.stat().st_size for n, p in files_b.items()}:
        return False
    return all(
        files_a[n].resolve() == files_b[n].resolve() or _digest(files_a[n]) == _digest(files_b[n]) for n in files_a
    )


def _revision(folder: Path) -> str | None:
    """Identifies the weights. Hashing the weights of a real checkpoint would make loading at least ten seconds
    slower."""
    recorded = record.read(folder)
    if recorded is not None:
        return recorded.commit
    weights = sorted(folder.glob("*/*.safetensors"))
    if sum(p.stat().st_size for p in weights) > SMALL:
        return None
    digests = "".join(_digest(p) for p in weights)
    return "sha256:" + hashlib.sha256(digests.encode()).hexdigest()[:16]


def _files(folder: Path) -> dict[str, Path]:
    return {p.name: p for p in sorted(folder.glob("*")) if p.suffix in (".json", ".safetensors")}


def _digest(path: Path) -> str:
    """The file's SHA-256. In a Hugging Face cache the file is a link, and the name of the link's target is the
    SHA-256."""
    target = path.resolve()
    if target.parent.name == "blobs" and len(target.name) == 64:
        return target.name
    return record.sha256(path)
