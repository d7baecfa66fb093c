"""Run one request: load, encode the prompt, denoise, decode, finish; say what happens on the way.

Knows: the order of the stages, when to stop, what to do when memory runs out, and what belongs into a manifest.
Does not know: jobs, HTTP, vendors, where the file goes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipelines import lora
from pipelines.checkpoint import Saved, Saver, Unusable, key_of, load
from pipelines.clock import Clock
from pipelines.decode import decode
from pipelines.denoise import denoise
from pipelines.errors import GenerationError
from pipelines.events import Event, Finished, Log, Stage, Started
from pipelines.finish import finish, source_frames
from pipelines.finishers import Finishers
from pipelines.loader import Loader, Model
from pipelines.lora_cache import Adapters, attach_all
from pipelines.memory import LADDER, Budget, Ladder, MemorySetting, OutOfMemory, Placement, Rung, choose
from pipelines.models import ModelError
from pipelines.plan import Plan, check_ranges, resolve
from pipelines.provenance import identity, manifest, short
from pipelines.request import GenerationRequest
from pipelines.sample import Sampler, Sampling
from pipelines.source import read_source
from pipelines.super_resolution import Upscaler
from pipelines.video import BadOutput, FrameCheck, VideoWriter, poster

MEDIA_TYPES = {"mp4": "video/mp4", "gif": "image/gif", "webm": "video/webm"}


class Engine:
    """Owns a device and the models on it; makes one video at a time.

    `models`: name -> checkpoint folder. `device`: auto, cpu, cuda or cuda:N. `rife_weights`: an IFNet file, needed
    only for requests with `interpolate_fps`. `upscaler`: a file that spandrel reads, used when more pixels are wanted
    than the model makes.
    """

    def __init__(
        self,
        models: dict[str, Path],
        device: str = "auto",
        memory: MemorySetting = "auto",
        rife_weights: Path | None = None,
        upscaler: Path | None = None,
    ) -> None:
        self.models = models
        self.device = pick_device(device)
        self.memory = memory
        self.finishers = Finishers(self.device, rife_weights, upscaler)
        self.loader = Loader(self.device)
        self._placement: Placement | None = None
        self._placed: Model | None = None
        self.adapters = Adapters()
        self._rungs: dict[tuple[str, int, int, int], Rung] = {}

    def run(
        self,
        request: GenerationRequest,
        model: str,
        cancelled: Callable[[], bool] = lambda: False,
        resume: bytes | None = None,
        paused: Callable[[], bool] = lambda: False,
        saver: Saver | None = None,
    ) -> Iterator[Event]:
        """Make the video; the last event is Finished. `request.seed` must be set.

        `resume`: the latest Checkpoint of a run of the same request, from where this one goes on; one that does not
        fit is passed over. `saver` says how often there is a Checkpoint.

        Raises RequestError for what this model cannot do, GenerationCancelled within one transformer block of
        `cancelled()`, GenerationPaused within one step of `paused()` after a Checkpoint, and GenerationError otherwise.
        """
        clock = Clock(cancelled, paused)
        yield Stage("load")
        loaded = self._load(model)
        check_ranges(request)
        picture, clip, source = read_source(request, loaded.info)
        plan = resolve(request, loaded.info, source=source, count_tokens=loaded.count_tokens)
        net, upscaler = self.finishers.interpolator(plan), self.finishers.upscaler(plan)
        adapters = self.adapters.all(plan.loras, loaded.info.name, loaded.transformer)
        plan = replace(plan, loras=tuple(replace(one, sha256=a.sha256) for one, a in adapters))
        yield Started(plan.to_dict())
        placement, rung, why = self._place(loaded, plan, sum(a.bytes for _, a in adapters))
        ladder = Ladder(placement)
        for note in plan.notes:
            yield Log(str(note))
        if upscaler is not None:
            yield Log(
                f"frames are enlarged {upscaler.scale} times by {upscaler.name}, then resized to the size asked for"
            )
        yield Log(f"memory: {why}")
        try:
            if adapters:
                placement.release()  # adapters join plain modules, not hooked ones
            strengths = yield from attach_all(loaded.transformer, adapters)
            placement.rung = rung
            yield from ladder.climb(lambda: placement.apply(placement.rung), "placing the model")
            key = key_of(request, plan, {**identity(loaded, self.device), **strengths})
            saved = yield from _taken_up(resume, key)
            if saved is None or not saved.complete:
                clock.next("encode")
                yield Stage("encode")
                sampler = Sampler(loaded, plan, placement)
                pixels = source_frames(plan, picture, clip)
                embeds = yield from ladder.climb(sampler.encode, "encoding the prompt")
                conditions, state = yield from ladder.climb(
                    lambda: sampler.prepare(embeds, pixels), "preparing latents"
                )
                if saved is not None:
                    state = _moved(saved.sampling, self.device)
                clock.next("denoise")
                yield Stage("denoise")
                yield from denoise(sampler, conditions, state, ladder, key, clock, saver or Saver())
                latents = state.latents[:, conditions.padding :]
            else:
                latents = saved.sampling.latents.to(self.device)[:, saved.padding :]
            if not torch.isfinite(latents).all():
                raise GenerationError(
                    "bad_output",
                    f"sampling ended in NaN: {loaded.info.family.title} ran in {short(loaded.dtype)},"
                    f" it was trained in {loaded.info.family.dtype}",
                )
            clock.next("decode")
            yield Stage("decode")
            finished = yield from self._deliver(request, plan, loaded, ladder, latents, net, upscaler, clock)
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
        yield Stage("finish")
        yield Finished(**finished, timings=clock.timings(), memory=memory)

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

    def _deliver(
        self,
        request: GenerationRequest,
        plan: Plan,
        model: Model,
        ladder: Ladder,
        latents: torch.Tensor,
        net: Any,
        upscaler: Upscaler | None,
        clock: Clock,
    ) -> Generator[Event, None, dict[str, Any]]:
        """Decode and encode, chunk by chunk; returns Finished's fields."""
        fps = plan.interpolate_fps or plan.fps
        with tempfile.TemporaryDirectory(prefix="cogvideox-") as folder:
            path = Path(folder) / f"video.{plan.output_format}"

            def write() -> tuple[bytes, int, dict[str, Any]]:
                told = manifest(request, plan, model, self.device, ladder.placement.rung, upscaler)
                check, first, count = FrameCheck(), b"", 0
                with (
                    ladder.placement.on_device("vae") as vae,
                    VideoWriter(path, plan.width, plan.height, fps, plan.output_format, told) as writer,
                ):
                    for frames in finish(decode(vae, latents), plan, net, upscaler):
                        clock.check()
                        first = first or poster(frames[0])
                        check.update(frames)
                        writer.write(frames)
                        count += len(frames)
                    check.finish()
                return first, count, told

            try:
                first, count, told = yield from ladder.climb(write, "decoding")
            except BadOutput as e:
                raise GenerationError("bad_output", str(e)) from e
            except OSError as e:
                raise GenerationError("internal", f"the video could not be written: {e.strerror or e}") from e
            video = path.read_bytes()
        return {
            "video": video,
            "poster": first,
            "media_type": MEDIA_TYPES[plan.output_format],
            "frames": count,
            "fps": fps,
            "width": plan.width,
            "height": plan.height,
            "manifest": told,
        }


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


def _taken_up(resume: bytes | None, key: str) -> Generator[Event, None, Saved | None]:
    """The interrupted sampling to go on with, if there is one that fits."""
    if resume is None:
        return None
    try:
        saved = load(resume, key)
    except Unusable as e:
        yield Log(f"what was saved of this video is not used: {e}", "WARN")
        return None
    yield Log(f"going on after step {saved.sampling.step} of {saved.steps}")
    return saved


def _moved(sampling: Sampling, device: torch.device) -> Sampling:
    old = sampling.old_pred_original_sample
    return replace(
        sampling,
        latents=sampling.latents.to(device),
        old_pred_original_sample=None if old is None else old.to(device),
    )


def _shape(plan: Plan) -> tuple[str, int, int, int]:
    return plan.model, plan.model_frames, plan.model_width, plan.model_height
