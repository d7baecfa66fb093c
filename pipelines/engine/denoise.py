"""The loop over the sampling steps: it can be stopped, saves snapshots, and continues one rung lower after an OOM."""

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
from pipelines.events import Event, Snapshot
from pipelines.progress import Meter

AHEAD = 2  # blocks that may be queued on the GPU: queued work cannot be cancelled


class Stop(Protocol):
    def check_cancelled(self) -> None:
        """Raises an exception if the video is no longer wanted."""

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
    """Run sampling steps until the latents are clean. The last event is the Snapshot of the clean latents. `finished`
    holds the latents of the earlier clips. Progress counts the steps of all `clips` clips together.

    Calls `stop.check_cancelled` before each transformer block and raises its exceptions. Raises GenerationPaused after
    yielding a Snapshot. When memory runs out, the step is repeated one rung lower.
    """
    steps = len(conditions.timesteps)
    before = steps * len(finished)
    meter.expect("denoise", steps * clips, before + state.step)

    def snapshot() -> Iterator[Event]:
        begin = time.monotonic()
        yield Snapshot(save(state, steps, conditions.padding, keys, finished), before + state.step)
        saver.saved(begin)

    while state.step < steps:
        try:
            with (
                ladder.placement.on_device("transformer") as transformer,
                checked(transformer, sampler.device, stop.check_cancelled),
            ):
                while state.step < steps:
                    stop.check_cancelled()
                    if stop.paused():
                        yield from snapshot()
                        raise GenerationPaused
                    with meter.doing("denoise"):
                        sampler.step(transformer, conditions, state)
                    if (progress := meter.advance("denoise")) is not None:
                        yield progress
                    if state.step < steps and saver.due():
                        yield from snapshot()
        except torch.OutOfMemoryError as e:
            rung = ladder.next_rung(f"step {state.step + 1} of {steps}", e)
        else:
            yield from snapshot()
            return
        yield ladder.step_down(rung, f"step {state.step + 1} of {steps}")


@contextmanager
def checked(transformer: Any, device: torch.device, check: Callable[[], None]) -> Iterator[None]:
    """Calls `check` before each block of the transformer. The GPU's queue is kept short, because otherwise the check
    would come late."""
    queued: deque[torch.cuda.Event] = deque()

    def before(*_: Any) -> None:
        check()
        if device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
            queued.append(event)
            if len(queued) > AHEAD:
                queued.popleft().synchronize()

    hooks = [block.register_forward_pre_hook(before) for block in transformer.transformer_blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
