"""The loop over the steps: watched, saved now and then, one rung lower when memory runs out.

Knows: when to save and when to look whether to stop. Does not know: what a step does, what the latents become.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from pipelines.engine.memory import Ladder
from pipelines.engine.sample import Conditions, Sampler, Sampling
from pipelines.engine.snapshot import Saver, save
from pipelines.errors import GenerationPaused
from pipelines.events import Checkpoint, Event
from pipelines.progress import Meter

AHEAD = 2  # blocks that may wait on the GPU: what has been handed to it cannot be taken back


class Stop(Protocol):
    def check_cancelled(self) -> None:
        """Raises when nobody wants the video any more."""

    def paused(self) -> bool: ...


def denoise(
    sampler: Sampler,
    conditions: Conditions,
    state: Sampling,
    ladder: Ladder,
    keys: Sequence[str],
    stop: Stop,
    saver: Saver,
    meter: Meter,
    finished: Sequence[torch.Tensor] = (),
    clips: int = 1,
) -> Iterator[Event]:
    """Steps until the latents are clean; the last event is a Checkpoint of them. `finished`: the latents of the clips
    before this one, of `clips`; steps are counted over all.

    Raises what `stop.check_cancelled` does, within a transformer block, and GenerationPaused after a Checkpoint. When
    memory runs out, the step is taken again one rung lower.
    """
    steps = len(conditions.timesteps)
    before = steps * len(finished)
    meter.expect("denoise", steps * clips, before + state.step)

    def checkpoint() -> Iterator[Event]:
        begin = time.monotonic()
        yield Checkpoint(save(state, steps, conditions.padding, keys, finished), before + state.step)
        saver.saved(begin)

    while state.step < steps:
        try:
            with (
                ladder.placement.on_device("transformer") as transformer,
                looked_at(transformer, sampler.device, stop.check_cancelled),
            ):
                while state.step < steps:
                    stop.check_cancelled()
                    if stop.paused():
                        yield from checkpoint()
                        raise GenerationPaused
                    with meter.doing("denoise"):
                        sampler.step(transformer, conditions, state)
                    if (progress := meter.advance("denoise")) is not None:
                        yield progress
                    if state.step < steps and saver.due():
                        yield from checkpoint()
        except torch.OutOfMemoryError as e:
            rung = ladder.next_rung(f"step {state.step + 1} of {steps}", e)
        else:
            yield from checkpoint()
            return
        yield ladder.go(rung, f"step {state.step + 1} of {steps}")


@contextmanager
def looked_at(transformer: Any, device: torch.device, check: Callable[[], None]) -> Iterator[None]:
    """Calls `check` before each block of the transformer; the GPU's queue is kept short, or it would come too late."""
    under_way: deque[torch.cuda.Event] = deque()

    def before(*_: Any) -> None:
        check()
        if device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
            under_way.append(event)
            if len(under_way) > AHEAD:
                under_way.popleft().synchronize()

    hooks = [block.register_forward_pre_hook(before) for block in transformer.transformer_blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
