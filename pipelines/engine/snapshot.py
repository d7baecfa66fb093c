"""Snapshots: an interrupted sampling as bytes, from which another run continues with results equal to the bit.

Knows: what a snapshot holds, which sampling it belongs to, how often to save.
Does not know: where the bytes are kept.

Format: a safetensors file, after its SHA-256 (32 bytes). The tensors are `latents` [1, F, C, H, W], `generator` (the
state of the random generator, uint8) and, with the DPM scheduler, `old_pred_original_sample`. The metadata are version,
step, steps, padding and key. In a video of several clips, `latents` belongs to the current clip, `finished0`,
`finished1` ... are the latents of the earlier clips, and key has a line for each clip begun so far.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from pipelines.engine.sample import Sampling
from pipelines.plan import KEY_VERSION

DIGEST = 32  # bytes
SHARE = 0.01  # share of the run's time that saving may take
EVERY = 1.0  # seconds between two snapshots, at least


class Unusable(ValueError):
    """The snapshot is damaged, or belongs to another video or version. Sampling starts again."""


@dataclass(frozen=True)
class Saved:
    """`sampling` is on the CPU. `padding` equals `sample.Conditions.padding`. `finished` holds latents without padding.
    `keys` holds a key for each of `finished`, then the key of `sampling`."""

    sampling: Sampling
    steps: int
    padding: int
    keys: tuple[str, ...]
    finished: tuple[torch.Tensor, ...] = ()

    def check(self, number: int, key: str) -> None:
        """Raises Unusable if the snapshot has another key for clip `number`."""
        if number < len(self.keys) and self.keys[number] != key:
            raise Unusable("they belong to another request or model")

    @property
    def complete(self) -> bool:
        return self.sampling.step >= self.steps


def save(
    sampling: Sampling, steps: int, padding: int, keys: Sequence[str], finished: Sequence[torch.Tensor] = ()
) -> bytes:
    tensors = {"latents": sampling.latents, "generator": sampling.generator.get_state()}
    tensors |= {f"finished{n}": latents for n, latents in enumerate(finished)}
    if sampling.old_pred_original_sample is not None:
        tensors["old_pred_original_sample"] = sampling.old_pred_original_sample
    facts = {"version": KEY_VERSION, "step": sampling.step, "steps": steps, "padding": padding}
    metadata = {"key": "\n".join(keys), **{name: str(value) for name, value in facts.items()}}
    body = save_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata)
    return hashlib.sha256(body).digest() + body


def load(data: bytes) -> Saved:
    """Raises Unusable."""
    digest, body = data[:DIGEST], data[DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise Unusable("the file is torn")
    try:
        size = int.from_bytes(body[:8], "little")
        metadata = json.loads(body[8 : 8 + size])["__metadata__"]
        if metadata.get("version") != str(KEY_VERSION):
            raise Unusable("another version of this server saved them")
        tensors = load_tensors(body)
        keys = tuple(metadata["key"].split("\n"))
        generator = torch.Generator()
        generator.set_state(tensors["generator"])
        sampling = Sampling(
            int(metadata["step"]), tensors["latents"], tensors.get("old_pred_original_sample"), generator
        )
        finished = tuple(tensors[f"finished{n}"] for n in range(len(keys) - 1))
        return Saved(sampling, int(metadata["steps"]), int(metadata["padding"]), keys, finished)
    except Unusable:
        raise
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as e:
        raise Unusable(f"the file cannot be read ({type(e).__name__})") from e


class Saver:
    """Decides when to save: at most once in `every` seconds, and less often if saving is slow."""

    def __init__(self, share: float = SHARE, every: float = EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        self._share, self._every, self._clock = share, every, clock
        self._last = clock()
        self._cost = 0.0

    def due(self) -> bool:
        return self._clock() - self._last >= max(self._every, self._cost / self._share)

    def saved(self, begin: float) -> None:
        """Called when a snapshot has left the engine. `begin` is the time at which saving it began."""
        self._last = self._clock()
        self._cost = max(self._cost / 2, self._last - begin)
