"""Run one request: load, encode the prompt, denoise, decode, finish; say what happens on the way.

Knows: the order of the stages, when to stop, what to do when memory runs out, and what belongs into a manifest.
Does not know: jobs, HTTP, vendors, where the file goes.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pipelines import lora, rife
from pipelines.checkpoint import Saved, Saver, Unusable, key_of, load
from pipelines.decode import decode
from pipelines.denoise import denoise
from pipelines.errors import GenerationCancelled, GenerationError, GenerationPaused
from pipelines.events import Event, Finished, Log, Stage, Started
from pipelines.finish import finish, source_frames
from pipelines.loader import Loader, Model
from pipelines.lora_cache import Adapters, attach_all
from pipelines.memory import LADDER, Budget, Ladder, MemorySetting, OutOfMemory, Placement, Rung, choose
from pipelines.models import ModelError
from pipelines.plan import Note, Plan, check_ranges, resolve
from pipelines.request import GenerationRequest, RequestError
from pipelines.sample import Sampler, Sampling
from pipelines.source import read_source
from pipelines.video import BadOutput, FrameCheck, VideoWriter, poster
from weights.interpolation import SHIPPED
from weights.interpolation import rife_weights as installed_rife

MEDIA_TYPES = {"mp4": "video/mp4", "gif": "image/gif", "webm": "video/webm"}


class Engine:
    """Owns a device and the models on it; makes one video at a time.

    `models`: name -> checkpoint folder. `device`: auto, cpu, cuda or cuda:N. `rife_weights`: an IFNet file for
    requests with `interpolate_fps`; without one the small network that ships with this project draws their frames.
    """

    def __init__(
        self,
        models: dict[str, Path],
        device: str = "auto",
        memory: MemorySetting = "auto",
        rife_weights: Path | None = None,
    ) -> None:
        self.models = models
        self.device = pick_device(device)
        self.memory = memory
        self.rife_weights = rife_weights or installed_rife()
        self.loader = Loader(self.device)
        self._placement: Placement | None = None
        self._placed: Model | None = None
        self._net: Any = None
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
        clock = _Clock(cancelled, paused)
        yield Stage("load")
        loaded = self._load(model)
        check_ranges(request)
        picture, clip, source = read_source(request, loaded.info)
        plan = resolve(request, loaded.info, source=source, count_tokens=loaded.count_tokens)
        net = self._interpolator(plan)
        adapters = self.adapters.all(plan.loras, loaded.info.name, loaded.transformer)
        if net is not None and self.rife_weights == SHIPPED:
            plan = replace(plan, notes=(*plan.notes, _small_network(plan)))
        plan = replace(plan, loras=tuple(replace(one, sha256=a.sha256) for one, a in adapters))
        yield Started(plan.to_dict())
        placement, rung, why = self._place(loaded, plan, sum(a.bytes for _, a in adapters))
        ladder = Ladder(placement)
        for note in plan.notes:
            yield Log(str(note))
        yield Log(f"memory: {why}")
        try:
            if adapters:
                placement.release()  # adapters join plain modules, not hooked ones
            strengths = yield from attach_all(loaded.transformer, adapters)
            placement.rung = rung
            yield from ladder.climb(lambda: placement.apply(placement.rung), "placing the model")
            key = key_of(request, plan, {**self._identity(loaded), **strengths})
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
                    f"sampling ended in NaN: {loaded.info.family.title} ran in {_short(loaded.dtype)},"
                    f" it was trained in {loaded.info.family.dtype}",
                )
            clock.next("decode")
            yield Stage("decode")
            finished = yield from self._deliver(request, plan, loaded, ladder, latents, net, clock)
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

    def _interpolator(self, plan: Plan) -> Any:
        if plan.interpolate_fps is None:
            return None
        if self.rife_weights is None:
            raise RequestError("interpolate_fps", "frame interpolation needs RIFE weights, and none are here")
        if self._net is None:
            try:
                self._net = rife.load(self.rife_weights, self.device)
            except (OSError, ValueError, RuntimeError) as e:
                raise GenerationError("model_error", f"RIFE weights {self.rife_weights.name}: {e}") from e
        return self._net

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
        clock: _Clock,
    ) -> Generator[Event, None, dict[str, Any]]:
        """Decode and encode, chunk by chunk; returns Finished's fields."""
        fps = plan.interpolate_fps or plan.fps
        with tempfile.TemporaryDirectory(prefix="cogvideox-") as folder:
            path = Path(folder) / f"video.{plan.output_format}"

            def write() -> tuple[bytes, int, dict[str, Any]]:
                manifest = self.manifest(request, plan, model, ladder.placement.rung)
                check, first, count = FrameCheck(), b"", 0
                with (
                    ladder.placement.on_device("vae") as vae,
                    VideoWriter(path, plan.width, plan.height, fps, plan.output_format, manifest) as writer,
                ):
                    for frames in finish(decode(vae, latents), plan, net):
                        clock.check()
                        first = first or poster(frames[0])
                        check.update(frames)
                        writer.write(frames)
                        count += len(frames)
                    check.finish()
                return first, count, manifest

            try:
                first, count, manifest = yield from ladder.climb(write, "decoding")
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
            "manifest": manifest,
        }

    def _identity(self, model: Model) -> dict[str, Any]:
        """What, beside the plan, decides the latents to the bit."""
        return {
            "name": model.info.name,
            "revision": model.revision,
            "dtype": _short(model.dtype),
            "device": self.device.type,
            "versions": {name: found for name, found in versions().items() if name in ("torch", "diffusers")},
        }

    def manifest(self, request: GenerationRequest, plan: Plan, model: Model, rung: Rung) -> dict[str, Any]:
        """What makes this video again, and nothing that changes from run to run."""
        asked = request.to_dict()
        for name in ("image", "video"):
            if asked[name] is not None:
                asked[name] = {"sha256": asked[name]["sha256"]}
        asked["loras"] = [one.told() for one in request.loras]
        carried_out = plan.to_dict()
        carried_out["loras"] = [{**one.told(), "sha256": one.sha256} for one in plan.loras]
        return {
            "request": asked,
            "plan": carried_out,
            "notes": [str(n) for n in plan.notes],
            "seed": plan.seed,
            "model": {"name": model.info.name, "family": model.info.family.name, "revision": model.revision},
            "device": "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device),
            "dtype": _short(model.dtype),
            "vae_tiling": rung.tiling,
            "versions": versions(),
        }


class _Clock:
    """Seconds per stage, and the questions whether to stop."""

    def __init__(self, cancelled: Callable[[], bool], paused: Callable[[], bool]) -> None:
        self._cancelled = cancelled
        self.paused = paused
        self._marks: list[tuple[str, float]] = [("load", time.monotonic())]

    def check_cancelled(self) -> None:
        if self._cancelled():
            raise GenerationCancelled

    def check(self) -> None:
        self.check_cancelled()
        if self.paused():
            raise GenerationPaused

    def next(self, stage: str) -> None:
        self.check()
        self._marks.append((stage, time.monotonic()))

    def timings(self) -> dict[str, float]:
        ends = [at for _, at in self._marks[1:]] + [time.monotonic()]
        return {name: round(end - at, 3) for (name, at), end in zip(self._marks, ends, strict=True)}


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


def versions() -> dict[str, str]:
    """Of everything whose change may change a pixel."""
    found = {"python": platform.python_version()}
    for name in ("cogvideox-server", "torch", "diffusers", "transformers", "imageio-ffmpeg"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


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


def _small_network(plan: Plan) -> Note:
    return Note(
        "interpolate_fps",
        plan.interpolate_fps,
        "frames drawn by the small network that ships with this project",
        "RIFE's own draws better: set COGVIDEOX_RIFE_WEIGHTS to its flownet file",
    )


def _shape(plan: Plan) -> tuple[str, int, int, int]:
    return plan.model, plan.model_frames, plan.model_width, plan.model_height


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
