"""Make one video from prompt to file with the plain diffusers pipeline and with ours, and measure both.

Both use the same modules and the same seed. A step is timed from the end of the previous step to its own end, so the
first step, which warms up, is not counted.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.export import export
from pipelines.engine.loader import Model
from pipelines.engine.memory import Ladder, Placement
from pipelines.engine.sample import Sampler
from pipelines.events import Event, Log
from pipelines.frames.decode import decode
from pipelines.plan import Plan
from pipelines.request import Task

T = TypeVar("T")
Frames = NDArray[np.uint8]


@dataclass
class Run:
    """`seconds`: time from the prompt to the finished file, or to the frames in host memory if no file is written.
    Peaks are in bytes; None if the device does not count them."""

    steps: int
    seconds: float
    step_seconds: list[float]
    peak_allocated: int | None
    peak_reserved: int | None
    latents: torch.Tensor  # on the host, including the padding of CogVideoX 1.5
    frames: Frames  # uint8 [T, H, W, 3]
    file: Path | None
    climbed: list[str] = field(default_factory=list)

    @property
    def step(self) -> float | None:
        """Median seconds of a step."""
        return float(np.median(self.step_seconds)) if self.step_seconds else None

    def scaled(self, steps: int) -> float | None:
        """Estimated seconds of the same run with `steps` steps of the median duration."""
        return None if self.step is None else self.seconds + (steps - self.steps) * self.step


class Laps:
    """Times on the device's own clock: CUDA events, or the wall clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[Any] = []

    def mark(self) -> None:
        if self.device.type == "cuda":
            event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        synchronize(self.device)
        if self.device.type == "cuda":
            return [a.elapsed_time(b) / 1000 for a, b in zip(self.marks, self.marks[1:], strict=False)]
        return [b - a for a, b in zip(self.marks, self.marks[1:], strict=False)]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Peak:
    allocated: int | None = None
    reserved: int | None = None


@contextlib.contextmanager
def peak_of(device: torch.device) -> Iterator[Peak]:
    """Peak memory of the device during the block, including everything that is already there."""
    peak = Peak()
    if device.type != "cuda":
        yield peak
        return
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    yield peak
    torch.cuda.synchronize(device)
    peak.allocated = torch.cuda.max_memory_allocated(device)
    peak.reserved = torch.cuda.max_memory_reserved(device)


def plain(
    model: Model, plan: Plan, device: torch.device, source: Frames | None = None, file: Path | None = None
) -> Run:
    """Run the stock pipeline as its documentation shows it, entirely on `device`, then `export_to_video`."""
    parts = {"tokenizer": model.tokenizer, "text_encoder": model.text_encoder, "transformer": model.transformer}
    pipe = type(model.pipeline(plan.sampling.task, plan.sampling.scheduler))(
        **parts, vae=model.vae, scheduler=model.scheduler(plan.sampling.scheduler)
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    laps = Laps(device)
    last: list[torch.Tensor] = []

    def on_step(_: Any, __: int, ___: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        laps.mark()
        last[:] = [tensors["latents"]]
        return tensors

    sampling = plan.sampling
    given: dict[str, Any] = {"height": sampling.model_height, "width": sampling.model_width}
    if sampling.task is Task.V2V and source is not None:
        given |= {"video": [Image.fromarray(f) for f in source], "strength": sampling.strength}
    else:
        given |= {"num_frames": sampling.model_frames}
    if sampling.task is Task.I2V and source is not None:
        given |= {"image": Image.fromarray(source[0])}
    with peak_of(device) as peak:
        begin = time.perf_counter()
        pictures = pipe(
            prompt=sampling.prompt,
            negative_prompt=sampling.negative_prompt,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            use_dynamic_cfg=sampling.use_dynamic_cfg,
            generator=torch.Generator().manual_seed(sampling.seed),
            max_sequence_length=sampling.max_tokens,
            callback_on_step_end=on_step,
            **given,
        ).frames[0]
        if file is not None:
            export(pictures, file, plan.video.fps)
        seconds = time.perf_counter() - begin
    steps = laps.seconds()
    frames = np.stack([np.asarray(one) for one in pictures])
    return Run(len(laps.marks), seconds, steps, peak.allocated, peak.reserved, last[0].cpu(), frames, file)


def ours(
    model: Model,
    plan: Plan,
    placement: Placement,
    source: Frames | None = None,
    file: Path | None = None,
    stop: Callable[[int], bool] = lambda step: False,
) -> Run:
    """Do what `pipelines.engine.generate.Engine` does between the plan and the file, on the rung already applied.

    When memory runs out, it continues on the next rung. `stop(step)` ends sampling early.
    """
    device, ladder = placement.device, Ladder(placement)
    laps = Laps(device)
    climbed: list[str] = []

    def climb(steps: Generator[Event, None, T]) -> T:
        while True:
            try:
                event = next(steps)
            except StopIteration as done:
                result: T = done.value
                return result
            climbed.append(event.message if isinstance(event, Log) else str(event))

    with peak_of(device) as peak:
        begin = time.perf_counter()
        sampler = Sampler(model, plan.sampling, placement)
        embeds = climb(ladder.retry(sampler.encode, "encoding the prompt"))
        conditions, state = climb(ladder.retry(lambda: sampler.prepare(embeds, source), "preparing latents"))
        steps = len(conditions.timesteps)
        while state.step < steps:
            try:
                with placement.on_device("transformer") as transformer:
                    while state.step < steps and not stop(state.step):
                        sampler.step(transformer, conditions, state)
                        laps.mark()
            except torch.OutOfMemoryError as error:
                rung = ladder.next_rung(f"step {state.step + 1} of {steps}", error)
            else:
                break
            climbed.append(ladder.step_down(rung, f"step {state.step + 1} of {steps}").message)
        latents = state.latents[:, conditions.padding :]

        def write() -> list[Frames]:
            with placement.on_device("vae") as vae:
                return _to_host(vae, latents, plan, file)

        frames = np.concatenate(climb(ladder.retry(write, "decoding")))
        seconds = time.perf_counter() - begin
    return Run(
        state.step,
        seconds,
        laps.seconds(),
        peak.allocated,
        peak.reserved,
        state.latents.cpu(),
        frames,
        file,
        climbed,
    )


def _to_host(vae: Any, latents: torch.Tensor, plan: Plan, file: Path | None) -> list[Frames]:
    if file is None:
        return [c.permute(0, 2, 3, 1).contiguous().cpu().numpy() for c in decode(vae, latents)]
    from pipelines.frames.finish import finish
    from pipelines.video import FrameCheck, VideoWriter, poster

    made: list[Frames] = []
    check = FrameCheck()
    with VideoWriter(
        file, plan.video.width, plan.video.height, plan.video.fps, "mp4", {"made by": "benchmarks"}
    ) as writer:
        for frames in finish(decode(vae, latents), plan, None):
            if not made:
                poster(frames[0])
            check.update(frames)
            writer.write(frames)
            made.append(frames)
    return made
