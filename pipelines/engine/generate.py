"""Run one request: load, encode the prompt, denoise, decode, finish; yield events on the way.

Knows: the order of the stages and of the clips. Does not know: jobs, HTTP, vendors, where the file goes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from pipelines.engine import effort
from pipelines.engine.clock import Clock
from pipelines.engine.deliver import deliver, joint
from pipelines.engine.denoise import denoise
from pipelines.engine.loader import Loader, Model
from pipelines.engine.memory import Ladder, Memory, OutOfMemory, Rung
from pipelines.engine.provenance import identity, short
from pipelines.engine.run import Clip, Run
from pipelines.engine.sample import Sampler
from pipelines.engine.snapshot import Saver
from pipelines.engine.source import read_source
from pipelines.engine_port import EngineSpec
from pipelines.errors import GenerationError
from pipelines.events import Event, Finished, Log, Progress, Stage, Started
from pipelines.frames.networks import Networks
from pipelines.frames.source import source_frames
from pipelines.lora import adapters as lora
from pipelines.lora.cache import Adapters, attach_all, names, strength, text_notes
from pipelines.models import ModelError, ModelInfo, describe
from pipelines.plan import Plan, sampling_key
from pipelines.progress import Meter
from pipelines.ranges import check_ranges
from pipelines.request import GenerationRequest, RequestError
from pipelines.resolve import resolve
from weights.interpolation import rife_weights as installed_rife

ACCELERATOR_ERROR = getattr(torch, "AcceleratorError", ())  # new in torch 2.8

T = TypeVar("T")


class Engine:
    """Owns a device and the models on it; generates one video at a time. It is an `engine_port.Engine`."""

    def __init__(self, spec: EngineSpec) -> None:
        self.models = spec.models
        self.device = pick_device(spec.device)
        self.networks = Networks(self.device, spec.rife or installed_rife(), spec.upscaler)
        self.loader = Loader(self.device)
        self.adapters = Adapters()
        self._memory = Memory(self.device, spec.memory)
        self._speeds = effort.Speeds()

    def run(
        self,
        request: GenerationRequest,
        model: str,
        cancelled: Callable[[], bool] = lambda: False,
        resume: bytes | None = None,
        paused: Callable[[], bool] = lambda: False,
        progress: Callable[[Progress], None] = lambda _: None,
        saver: Saver | None = None,
    ) -> Iterator[Event]:
        """Generate the video; the last event is Finished. `request.seed` must be set.

        `resume` is the latest Snapshot of an earlier run of the same request. A Snapshot of another request is ignored.
        `saver` decides how often to save a Snapshot. While frames are decoded, this method cannot yield; the Progress
        of decoding goes to `progress`.

        Raises RequestError if this model cannot carry out the request. When `cancelled()` becomes true,
        GenerationCancelled is raised after one transformer block at most. When `paused()` becomes true, a Snapshot is
        yielded and GenerationPaused raised after one step at most. Every other failure raises GenerationError.
        """
        clock = Clock(cancelled, paused)
        yield Stage("load")
        first = self._load(model)
        check_ranges(request)
        picture, source_clip, source = read_source(request, first.info)
        others = self._others(request)
        plan = resolve(request, first.info, source=source, count_tokens=first.count_tokens, others=others)
        interpolator, upscaler = self.networks.interpolator(plan), self.networks.upscaler(plan)
        clips = self._clips(plan, first)
        notes = (*plan.notes, *self.networks.notes(plan), *text_notes(request, clips[0].adapters))
        plan = replace(plan, sampling=replace(plan.sampling, loras=clips[0].plan.loras), notes=notes)
        yield Started(plan.to_dict())
        for note in plan.notes:
            yield Log(str(note))
        if upscaler is not None:
            yield Log(
                f"frames are enlarged {upscaler.scale} times by {upscaler.name}, then resized to the requested size"
            )
        run = Run(request, plan, clips, clock, interpolator, upscaler, saver or Saver(), Meter(progress))
        effort.prepare(run, self._speeds)
        yield from run.read(resume)
        pixels = source_frames(plan.sampling, picture, source_clip)
        for clip in clips[:-1]:
            pixels, _ = yield from self._generate(run, clip, pixels, joint)
        finished, memory = yield from self._generate(run, clips[-1], pixels, deliver)
        yield Stage("finish")
        effort.learn(run, self._speeds)
        yield Finished(**finished, timings=clock.timings(), memory=memory)

    def is_broken_by(self, error: Exception) -> bool:
        """After a CUDA failure other than a lack of memory, every later call in this process fails."""
        if isinstance(error, torch.OutOfMemoryError):
            return False
        return isinstance(error, ACCELERATOR_ERROR) or "CUDA error" in str(error)

    def _generate(
        self, run: Run, clip: Clip, pixels: np.ndarray | None, decode: Callable[..., Generator[Event, None, T]]
    ) -> Generator[Event, None, tuple[T, str]]:
        """Sample one clip and decode it; returns the result of `decode` and the memory note."""
        model, plan = clip.model, clip.plan
        added = sum(adapter.bytes for _, adapter in clip.adapters)
        weights = replace(model.weights, transformer=model.weights.transformer + added)
        placement, rung, why = self._memory.place(model.modules, weights, model.info, plan)
        ladder = Ladder(placement)
        if why != run.memory_note:  # most further clips of a video have the same note
            run.memory_note = why
            yield Log(f"memory: {why}")
        try:
            yield from self._attach(run, clip, ladder, rung)
            latents = yield from self._latents(run, clip, pixels, ladder)
            if not torch.isfinite(latents).all():
                raise GenerationError("bad_output", f"sampling ended in NaN{_cause(clip)}")
            run.latents.append(latents.cpu())
            run.clock.next("decode")
            yield Stage("decode")
            effort.begin_decoding(run)
            result = yield from decode(run, ladder, self.device)
        except (OutOfMemory, torch.OutOfMemoryError) as e:
            what = str(e).splitlines()[0]
            raise GenerationError(
                "out_of_memory", f"{what}; ask for a smaller size or fewer frames, or free device memory"
            ) from e
        finally:
            self._memory.remember(ladder, plan)
            if clip.adapters:
                placement.release()
                lora.unload(model.transformer)
        if ladder.stepped_down:
            why = f"{placement.rung}: lowered after running out of memory; {why}"
        return result, why

    def _attach(self, run: Run, clip: Clip, ladder: Ladder, rung: Rung) -> Generator[Event, None, None]:
        """Attach the adapters, place the model, and add the key of the latents that will be sampled."""
        placement = ladder.placement
        if clip.adapters:
            placement.release()  # adapters are attached to modules without hooks
        strengths = yield from attach_all(clip.model.transformer, clip.adapters)
        placement.rung = rung
        yield from ladder.retry(lambda: placement.apply(placement.rung), "placing the model")
        before = run.keys[-1] if run.keys else None
        run.keys.append(sampling_key(clip.plan, {**identity(clip.model, self.device), **strengths}, before))

    def _latents(
        self, run: Run, clip: Clip, pixels: np.ndarray | None, ladder: Ladder
    ) -> Generator[Event, None, torch.Tensor]:
        """Encode and denoise, or resume from a snapshot. Returns the clean latents without padding."""
        saved = yield from run.resumed(clip.number)
        if saved is not None and clip.number < len(saved.finished):
            return saved.finished[clip.number]
        if saved is not None and saved.complete:
            return saved.sampling.latents[:, saved.padding :]
        run.clock.next("encode")
        yield Stage("encode")
        sampler = Sampler(clip.model, clip.plan, ladder.placement)
        embeds = yield from ladder.retry(sampler.encode, "encoding the prompt")
        conditions, state = yield from ladder.retry(lambda: sampler.prepare(embeds, pixels), "preparing latents")
        if saved is not None:
            state = saved.sampling.to(self.device)
        run.clock.next("denoise")
        yield Stage("denoise")
        yield from denoise(
            sampler,
            conditions,
            state,
            ladder,
            run.keys,
            run.clock,
            run.saver,
            run.meter,
            run.latents,
            len(run.clips),
        )
        return state.latents[:, conditions.padding :]

    def _clips(self, plan: Plan, first: Model) -> list[Clip]:
        clips = []
        for number in range(1 + len(plan.sampling.extension)):
            one = plan.sampling.clip(number)
            model = first if number == 0 else self._load(one.model)
            try:
                adapters = self.adapters.all(one.loras, model.info.name, model.transformer)
            except RequestError as e:
                if number == 0:
                    raise
                raise RequestError(e.field, f"{e.message}; {model.info.name} makes the further clips") from e
            loras = tuple(replace(lora, sha256=adapter.sha256) for lora, adapter in adapters)
            clips.append(Clip(number, model, replace(one, loras=loras), adapters))
        return clips

    def _load(self, name: str) -> Model:
        folder = self.models.get(name)
        if folder is None:
            raise GenerationError(
                "model_error", f"no model {name!r} here; there are {', '.join(self.models) or 'none'}"
            )
        try:
            return self.loader.load(folder, name)
        except ModelError as e:
            raise GenerationError("model_error", str(e)) from e

    def _others(self, request: GenerationRequest) -> list[ModelInfo]:
        """The other models, if the request may need one of them to extend its video."""
        found = []
        for name, folder in self.models.items() if request.extend else ():
            with contextlib.suppress(ModelError):
                found.append(describe(folder, name))
        return found


def pick_device(device: str) -> torch.device:
    """The device of that name; `auto` is the first CUDA device, or the CPU if there is no CUDA device. Raises
    GenerationError if a named device does not exist."""
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise GenerationError("model_error", f"device {device!r} is not auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and not (torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count()):
        raise GenerationError("model_error", f"device {device!r} is not there")
    return chosen


def _cause(clip: Clip) -> str:
    """The likely causes of NaN."""
    loaded, causes = clip.model, []
    if short(loaded.dtype) not in (loaded.info.family.dtype, "float32"):
        causes.append(
            f"{loaded.info.family.title} ran in {short(loaded.dtype)}, it was trained in {loaded.info.family.dtype}"
        )
    if clip.adapters:
        called = names([one for one, _ in clip.adapters])
        acting = [strength(name, *one) for name, one in zip(called, clip.adapters, strict=True)]
        causes.append(f"it ran with {', '.join(acting)}; try a smaller scale or without")
    return ": " + "; ".join(causes) if causes else "; the checkpoint's weights may be damaged"
