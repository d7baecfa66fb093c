"""The loop over the steps: watched, saved now and then, one rung lower when memory runs out.

Knows: when to save and when to look whether to stop. Does not know: what a step does, what the latents become.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch

from pipelines.checkpoint import Saver, save
from pipelines.events import Checkpoint, Event, Step
from pipelines.memory import Ladder
from pipelines.sample import Conditions, Sampler, Sampling


def denoise(
    sampler: Sampler,
    conditions: Conditions,
    state: Sampling,
    ladder: Ladder,
    key: str,
    check: Callable[[], None],
    saver: Saver,
) -> Iterator[Event]:
    """Steps until the latents are clean; `check` raises when they are not wanted any more.

    The last event is a Checkpoint of the clean latents. When memory runs out, the step is taken again one rung lower.
    """
    steps = len(conditions.timesteps)

    def checkpoint() -> Iterator[Event]:
        begin = time.monotonic()
        yield Checkpoint(save(state, steps, conditions.padding, key), state.step)
        saver.saved(begin)

    durations: list[float] = []
    while state.step < steps:
        try:
            with ladder.placement.on_device("transformer") as transformer:
                while state.step < steps:
                    check()
                    begin = time.monotonic()
                    sampler.step(transformer, conditions, state)
                    durations.append(time.monotonic() - begin)
                    usual = statistics.median(durations[1:] or durations)  # the first one warms up
                    yield Step(state.step, steps, usual * (steps - state.step))
                    if state.step < steps and saver.due():
                        yield from checkpoint()
        except torch.OutOfMemoryError as e:
            rung = ladder.next_rung(f"step {state.step + 1} of {steps}", e)
        else:
            yield from checkpoint()
            return
        yield ladder.go(rung, f"step {state.step + 1} of {steps}")
