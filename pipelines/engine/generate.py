"""Run one request: load, encode the prompt, denoise, decode, finish; say what happens on the way.

Knows: the order of the stages and of the clips, when to stop, what to do when memory runs out.
Does not know: jobs, HTTP, vendors, where the file goes.
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
from pipelines.engine.memory import LADDER, Budget, Ladder, OutOfMemory, Placement, Rung, choose
from pipelines.engine.provenance import identity, short
from pipelines.engine.run import Clip, Film
from pipelines.engine.sample import Sampler, Sampling
from pipelines.engine.snapshot import Saver, key_of
from pipelines.engine.source import read_source
from pipelines.engine_port import EngineSpec
from pipelines.errors import GenerationError
from pipelines.events import Event, Finished, Log, Progress, Stage, Started
from pipelines.extend import clip_plan
from pipelines.frames import rife
from pipelines.frames.finish import source_frames
from pipelines.frames.networks import Finishers
from pipelines.lora import adapters as lora
from pipelines.lora.cache import Adapters, attach_all, names, strength, text_notes
from pipelines.models import ModelError, ModelInfo, describe
from pipelines.plan import Note, Plan, resolve
from pipelines.progress import Meter
from pipelines.ranges import check_ranges
from pipelines.request import GenerationRequest, RequestError
from weights.interpolation import SHIPPED
from weights.interpolation import rife_weights as installed_rife

ACCELERATOR_ERROR = getattr(torch, "AcceleratorError", ())  # new in torch 2.8

T = TypeVar("T")


class Engine:
    """Owns a device and the models on it; makes one video at a time. It is an `engine_port.Engine`."""

    def __init__(self, spec: EngineSpec) -> None:
        self.models = spec.models
        self.device = pick_device(spec.device)
        self.memory = spec.memory
        self.finishers = Finishers(self.device, spec.rife or installed_rife(), spec.upscaler)
        self.loader = Loader(self.device)
        self._placement: Placement | None = None
        self._placed: Model | None = None
        self.adapters = Adapters()
        self._rungs: dict[tuple[str, int, int, int], Rung] = {}
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
        """Make the video; the last event is Finished. `request.seed` must be set.

        `resume`: the latest Checkpoint of a run of the same request, from where this one goes on; one that does not
        fit is passed over. `saver` says how often there is a Checkpoint. While frames are made nothing can be yielded:
        Progress goes to `progress` then.

        Raises RequestError for what this model cannot do, GenerationCancelled within one transformer block of
        `cancelled()`, GenerationPaused within one step of `paused()` after a Checkpoint, and GenerationError otherwise.
        """
        clock = Clock(cancelled, paused)
        yield Stage("load")
        loaded = self._load(model)
        check_ranges(request)
        picture, source_clip, source = read_source(request, loaded.info)
        others = self._others(request)
        plan = resolve(request, loaded.info, source=source, count_tokens=loaded.count_tokens, others=others)
        net, upscaler = self.finishers.interpolator(plan), self.finishers.upscaler(plan)
        if net is not None and self.finishers.rife_weights == SHIPPED and _draws(plan):
            plan = replace(plan, notes=(*plan.notes, _small_network(plan)))
        clips = self._clips(request, plan, loaded)
        plan = replace(plan, loras=clips[0].plan.loras, notes=(*plan.notes, *text_notes(request, clips[0].adapters)))
        yield Started(plan.to_dict())
        for note in plan.notes:
            yield Log(str(note))
        if upscaler is not None:
            yield Log(
                f"frames are enlarged {upscaler.scale} times by {upscaler.name}, then resized to the size asked for"
            )
        film = Film(request, plan, clips, clock, net, upscaler, saver or Saver(), Meter(progress))
        effort.prepare(film.meter, film, self._speeds)
        yield from film.read(resume)
        pixels = source_frames(plan, picture, source_clip)
        for clip in clips[:-1]:
            pixels, _ = yield from self._make(film, clip, pixels, joint)
        finished, memory = yield from self._make(film, clips[-1], pixels, deliver)
        yield Stage("finish")
        self._speeds.learn(plan.model, film.meter.measured(), effort.sizes(film), plan.output_format)
        yield Finished(**finished, timings=clock.timings(), memory=memory)

    def is_broken_by(self, error: Exception) -> bool:
        """A CUDA failure other than a lack of memory leaves a context in which every later call fails."""
        if isinstance(error, torch.OutOfMemoryError):
            return False
        return isinstance(error, ACCELERATOR_ERROR) or "CUDA error" in str(error)

    def _others(self, request: GenerationRequest) -> list[ModelInfo]:
        """What is here beside the model, where the request may need it."""
        found = []
        for name, folder in self.models.items() if request.extend else ():
            with contextlib.suppress(ModelError):
                found.append(describe(folder, name))
        return found

    def _clips(self, request: GenerationRequest, plan: Plan, first: Model) -> list[Clip]:
        clips = []
        for number in range(1 + len(plan.extension)):
            model = first if number == 0 or plan.extender is None else self._load(plan.extender)
            try:
                adapters = self.adapters.all(plan.loras, model.info.name, model.transformer)
            except RequestError as e:
                if number == 0:
                    raise
                raise RequestError(e.field, f"{e.message}; {model.info.name} makes the further clips") from e
            one = clip_plan(plan, number, request, model.info)
            loras = tuple(replace(lora, sha256=adapter.sha256) for lora, adapter in adapters)
            clips.append(Clip(number, model, replace(one, loras=loras), adapters))
        return clips

    def _make(
        self, film: Film, clip: Clip, pixels: np.ndarray | None, then: Callable[..., Generator[Event, None, T]]
    ) -> Generator[Event, None, tuple[T, str]]:
        """From noise, or what is saved, to latents, and `then` with them; and what is to be said of memory."""
        loaded, plan = clip.model, clip.plan
        placement, rung, why = self._place(loaded, plan, sum(a.bytes for _, a in clip.adapters))
        ladder = Ladder(placement)
        if why != film.memory_said:  # further clips of one video mostly have the same
            film.memory_said = why
            yield Log(f"memory: {why}")
        try:
            if clip.adapters:
                placement.release()  # adapters join plain modules, not hooked ones
            strengths = yield from attach_all(loaded.transformer, clip.adapters)
            placement.rung = rung
            yield from ladder.climb(lambda: placement.apply(placement.rung), "placing the model")
            after = {"after": film.keys[-1]} if film.keys else {}
            film.keys.append(key_of(film.request, plan, {**identity(loaded, self.device), **strengths, **after}))
            latents = yield from self._latents(film, clip, pixels, ladder)
            if not torch.isfinite(latents).all():
                raise GenerationError("bad_output", f"sampling ended in NaN{_cause(clip)}")
            film.latents.append(latents.cpu())
            film.clock.next("decode")
            yield Stage("decode")
            film.meter.reach("denoise", len(film.latents) / len(film.clips))
            film.meter.expect("decode", effort.decodings(film.clips), film.decoded)  # tiles make more of them
            result = yield from then(film, ladder, self.device)
        except (OutOfMemory, torch.OutOfMemoryError) as e:
            what = str(e).splitlines()[0]
            raise GenerationError(
                "out_of_memory", f"{what}; ask for a smaller size or fewer frames, or free device memory"
            ) from e
        finally:
            if ladder.climbed:
                self._rungs[_shape(plan)] = placement.rung
            self._detach_loras(loaded, plan, placement)
        memory = why if not ladder.climbed else f"{placement.rung}: climbed after running out of memory; {why}"
        return result, memory

    def _latents(
        self, film: Film, clip: Clip, pixels: np.ndarray | None, ladder: Ladder
    ) -> Generator[Event, None, torch.Tensor]:
        saved = yield from film.taken_up(clip.number)
        if saved is not None and clip.number < len(saved.finished):
            return saved.finished[clip.number]
        if saved is not None and saved.complete:
            return saved.sampling.latents[:, saved.padding :]
        film.clock.next("encode")
        yield Stage("encode")
        sampler = Sampler(clip.model, clip.plan, ladder.placement)
        embeds = yield from ladder.climb(sampler.encode, "encoding the prompt")
        conditions, state = yield from ladder.climb(lambda: sampler.prepare(embeds, pixels), "preparing latents")
        if saved is not None:
            state = _moved(saved.sampling, self.device)
        film.clock.next("denoise")
        yield Stage("denoise")
        yield from denoise(
            sampler,
            conditions,
            state,
            ladder,
            film.keys,
            film.clock,
            film.saver,
            film.meter,
            film.latents,
            len(film.clips),
        )
        return state.latents[:, conditions.padding :]

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

    def _place(self, model: Model, plan: Plan, adapters: int = 0) -> tuple[Placement, Rung, str]:
        """Where this model's modules are moved, the rung to begin with, and why that one; `adapters`: their bytes."""
        if self._placement is None or self._placed is not model:
            if self._placement is not None:
                self._placement.release()
            self._placement, self._placed = Placement(model.modules, self.device), model
        weights = replace(model.weights, transformer=model.weights.transformer + adapters)
        rung, why = choose(self.memory, plan, model.info, weights, Budget.of(self.device, model.modules.values()))
        remembered = self._rungs.get(_shape(plan))
        if remembered is not None and LADDER.index(remembered) > LADDER.index(rung):
            rung, why = remembered, f"{remembered}: what this size needed before"
        return self._placement, rung, why

    def _detach_loras(self, model: Model, plan: Plan, placement: Placement) -> None:
        if plan.loras:
            placement.release()
            lora.unload(model.transformer)


def pick_device(device: str) -> torch.device:
    """auto -> the first CUDA device, or the CPU. Raises GenerationError when a named one is not there."""
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise GenerationError("model_error", f"device {device!r} is none of auto, cpu, cuda, cuda:N") from None
    if chosen.type == "cuda" and not (torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count()):
        raise GenerationError("model_error", f"device {device!r} is not there")
    return chosen


def _moved(sampling: Sampling, device: torch.device) -> Sampling:
    old = sampling.old_pred_original_sample
    return replace(
        sampling,
        latents=sampling.latents.to(device),
        old_pred_original_sample=None if old is None else old.to(device),
    )


def _cause(clip: Clip) -> str:
    """Of NaN, as far as can be said."""
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


def _draws(plan: Plan) -> bool:
    return plan.interpolate_fps is not None and rife.draws(plan.pace or plan.model_fps, plan.interpolate_fps)


def _small_network(plan: Plan) -> Note:
    return Note(
        "interpolate_fps",
        plan.interpolate_fps,
        "frames drawn by the small network that ships with this project",
        "RIFE's own draws better: `cogvideox weights import` takes its flownet file",
    )


def _shape(plan: Plan) -> tuple[str, int, int, int]:
    return plan.model, plan.model_frames, plan.model_width, plan.model_height
