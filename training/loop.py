"""The training loop of every network here: resumable to the step, told by one line every so often.

Knows: optimizers, learning rates, files that earlier runs left. Does not know: networks, data, losses.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

TOLD, SAVED = 50, 250  # steps between two lines, and between two checkpoints


def digest(*tensors: torch.Tensor) -> str:
    """Short text that is another one as soon as a number of theirs is."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def keep(thing: object, file: Path) -> None:
    """Write a file that is whole from the moment it is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(thing, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").rename(file)


def fits(saved: object, basis: str, file: Path) -> bool:
    """Whether what was read from `file` stands on `basis`; a line says if not. What was kept without one, does."""
    theirs = saved.get("basis", basis) if isinstance(saved, dict) else basis
    if theirs != basis:
        print(f"{file.name} was made from other weights or films and is not taken up", flush=True)
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
    """Train until `steps` steps are done, beginning where `checkpoint` stopped.

    `basis` is the digest of what the training stands on, kept in the checkpoint; one of another basis is not taken up.
    Without a basis every checkpoint is: its training may go on after the data changed.

    `loss_of` gives a step's loss and the number that is told of it; it must depend on nothing but the step, so that a
    resumed run equals an uninterrupted one. Gradients of `clipped` are held to a norm of 1. `state` is what the
    checkpoint keeps and `load` takes back; `after` is called once a step is done.
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
