"""The training loop of all networks: resumable at every step, with regular progress lines.

Knows: optimizers, learning rates, files of earlier runs. Does not know: networks, data, losses.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

TOLD, SAVED = 50, 250  # steps between two progress lines, and between two checkpoints


def digest(*tensors: torch.Tensor) -> str:
    """A short digest that changes when any of the weights or arrays changes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def keep(thing: object, file: Path) -> None:
    """Write a file atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(thing, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").rename(file)


def fits(saved: object, basis: str, file: Path) -> bool:
    """Whether the content `saved` of `file` was made with the same `basis`; prints a line if not. Content without a
    basis counts as made with the same one."""
    theirs = saved.get("basis", basis) if isinstance(saved, dict) else basis
    if theirs != basis:
        print(f"{file.name} was made from other weights or videos and is ignored", flush=True)
    return bool(theirs == basis)


def run(
    name: str,
    checkpoint: Path,
    steps: int,
    optimizers: Sequence[torch.optim.Optimizer],
    rate: Callable[[int], float],
    loss_of: Callable[[int], tuple[torch.Tensor, float]],
    state: Callable[[], dict[str, Any]],
    load: Callable[[dict[str, Any]], object],
    clipped: Sequence[torch.nn.Parameter],
    after: Callable[[int], None] = lambda step: None,
    basis: str = "",
) -> None:
    """Train until `steps` steps are done, resuming from `checkpoint`.

    `basis` is the digest of everything that the training depends on. It is stored in the checkpoint; a checkpoint with
    another basis is ignored. Without a basis every checkpoint is used, so training can continue on changed data.

    `loss_of` returns a step's loss and the number to print. It must depend only on the step, so that a resumed run
    equals an uninterrupted one. The norm of the gradients of `clipped` is limited to 1. `state` returns what to store
    in the checkpoint and `load` restores it; `after` is called after each step.
    """
    start = 0
    if checkpoint.exists() and fits(saved := torch.load(checkpoint), basis, checkpoint):
        load(saved)
        for optimizer, theirs in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(theirs)
        start = saved["step"]
    began, told = time.monotonic(), []
    for step in range(start, steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
        loss, number = loss_of(step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(clipped, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        after(step)
        told.append(number)
        if (step + 1) % TOLD == 0:
            mean = np.mean(told[-TOLD:])
            print(f"{name} {step + 1} of {steps}: {mean:.4f}, {time.monotonic() - began:.0f} s", flush=True)
        if (step + 1) % SAVED == 0 or step + 1 == steps:
            moments = [optimizer.state_dict() for optimizer in optimizers]
            keep({**state(), "optimizers": moments, "step": step + 1, "basis": basis}, checkpoint)
