"""An interrupted sampling as bytes: saved while it runs, taken up again to the bit.

Knows: what a sampling consists of, what it must belong to, how often saving is worth its time.
Does not know: where the bytes are kept.

Form: the SHA-256 (32 bytes) of what follows, which is a safetensors file of `latents` [1, F, C, H, W], the generator's
state (uint8) and, with the DPM scheduler, its `old_pred_original_sample`; step, steps, padding and key are metadata. Of
a video of several clips the latents are those of the clip under way; `finished0`, `finished1` ... are the latents of
the clips before it, and key holds a line for each.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from pipelines.engine.sample import Sampling
from pipelines.plan import Plan
from pipelines.request import GenerationRequest

DIGEST = 32  # bytes
SHARE = 0.01  # of the time that saving may take
EVERY = 1.0  # seconds between two savings, at least
# what the finished latents depend on; sizes, lengths and rates of the file are made from them afterwards
SAMPLED = (
    "task",
    "prompt",
    "negative_prompt",
    "model_frames",
    "source_frames",
    "model_width",
    "model_height",
    "num_inference_steps",
    "guidance_scale",
    "use_dynamic_cfg",
    "scheduler",
    "strength",
    "seed",
    "max_tokens",
)


class Unusable(ValueError):
    """Torn, or of another video: sampling begins anew."""


@dataclass(frozen=True)
class Saved:
    """`sampling` lies on the CPU. `padding` as in `sample.Conditions`. `keys`: of the clips in `finished`, latents
    without padding, and of the one that `sampling` belongs to."""

    sampling: Sampling
    steps: int
    padding: int
    keys: tuple[str, ...]
    finished: tuple[torch.Tensor, ...] = ()

    def check(self, number: int, key: str) -> None:
        """Raises Unusable unless the clip of that number, if it is in here, is the one with that key."""
        if number < len(self.keys) and self.keys[number] != key:
            raise Unusable("it was made by another request, model or version")

    @property
    def complete(self) -> bool:
        return self.sampling.step >= self.steps


def key_of(request: GenerationRequest, plan: Plan, model: dict[str, Any]) -> str:
    """What a sampling belongs to: all its latents depend on. `model`: name, revision, dtype, device, versions."""
    source = request.image or request.video
    what = {
        "plan": {name: value for name, value in plan.to_dict().items() if name in SAMPLED},
        "fit": plan.fit if source is not None else None,
        "source": source.sha256 if source is not None else None,
        "loras": [(one.sha256, one.scale, one.alpha) for one in plan.loras],
        "model": model,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def save(
    sampling: Sampling, steps: int, padding: int, keys: Sequence[str], finished: Sequence[torch.Tensor] = ()
) -> bytes:
    tensors = {"latents": sampling.latents, "generator": sampling.generator.get_state()}
    tensors |= {f"finished{n}": latents for n, latents in enumerate(finished)}
    if sampling.old_pred_original_sample is not None:
        tensors["old_pred_original_sample"] = sampling.old_pred_original_sample
    facts = {"step": sampling.step, "steps": steps, "padding": padding}
    metadata = {"key": "\n".join(keys), **{name: str(value) for name, value in facts.items()}}
    body = save_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata)
    return hashlib.sha256(body).digest() + body


def load(data: bytes) -> Saved:
    """Raises Unusable."""
    digest, body = data[:DIGEST], data[DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise Unusable("it is torn")
    try:
        size = int.from_bytes(body[:8], "little")
        metadata = json.loads(body[8 : 8 + size])["__metadata__"]
        tensors = load_tensors(body)
        keys = tuple(metadata["key"].split("\n"))
        generator = torch.Generator()
        generator.set_state(tensors["generator"])
        sampling = Sampling(
            int(metadata["step"]), tensors["latents"], tensors.get("old_pred_original_sample"), generator
        )
        finished = tuple(tensors[f"finished{n}"] for n in range(len(keys) - 1))
        return Saved(sampling, int(metadata["steps"]), int(metadata["padding"]), keys, finished)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as e:
        raise Unusable(f"it cannot be read ({type(e).__name__})") from e


class Saver:
    """Says when to save: no more often than its measured cost allows, nor than `every` seconds."""

    def __init__(self, share: float = SHARE, every: float = EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self._share, self._every, self._clock = share, every, clock
        self._last = clock()
        self._cost = 0.0

    def due(self) -> bool:
        return self._clock() - self._last >= max(self._every, self._cost / self._share)

    def saved(self, begin: float) -> None:
        """To be told when a saving that began at `begin` has left the engine."""
        self._last = self._clock()
        self._cost = max(self._cost / 2, self._last - begin)
