"""Plain diffusers against ours on the real CogVideoX shapes with random weights: time, memory and bit-equality.

    python -m benchmarks.gpu                    5B, 49 frames of 720x480, 50 steps; below nine minutes on an H200
    python -m benchmarks.gpu --model 1.5-5b     81 frames of 1360x768
    python -m benchmarks.gpu --quick            fewer steps and no full run
    python -m benchmarks.gpu --tiny             runs the whole program on a CPU in seconds; its figures mean nothing

All measurements run in one process. Plain and our runs alternate, and every ratio compares with the plain pipeline of
the same run. If the time budget is too short for full runs, the seconds of a whole video are extrapolated from a short
run by the median step, and the result says so. A value that could not be measured is null in the result. A section that
fails is reported under `errors` and does not affect the others.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import torch

from benchmarks import report
from benchmarks.export import HAS_FFMPEG, how_encoded
from benchmarks.ours_and_plain import Frames, Run, ours, plain
from benchmarks.random_checkpoints import Kind, Scale, build
from pipelines.engine.loader import Model
from pipelines.engine.memory import LADDER, Placement, Rung, need, step_bytes
from pipelines.plan import Plan, SamplingPlan, Source
from pipelines.request import GenerationRequest, Media
from pipelines.resolve import resolve

T = TypeVar("T")
GIB = 2**30
PROMPT = "a red circle moves left over a grey background while the camera stays where it is"
SEED = 7
BUDGET = 510.0  # seconds for everything except imports
QUICK_BUDGET = 240.0
RUNG_STEPS = 3
# Estimates, in steps of the plain pipeline and in seconds. They only decide which sections to skip when time is short:
DECODE_STEPS = 4  # decoding and the work around it
LATER_STEPS, LATER_SECONDS = 60, 110.0  # all sections after the pairs: their steps, and the seconds to move weights


class Bench:
    """One benchmark session: a model, a plan, and the results so far."""

    def __init__(self, kind: Kind, device: torch.device, scale: Scale, steps: int, short: int, budget: float) -> None:
        self.begin = time.monotonic()
        self.device, self.budget, self.steps, self.short = device, budget, steps, short
        self.model: Model = build(kind, device, scale)
        self.plan, self.source = a_plan(self.model, steps)
        self.placement = Placement(self.model.modules, device)
        self.found: dict[str, Any] = {}
        self.errors: dict[str, str] = {}
        self.step: float | None = None  # seconds of the plain pipeline's median step
        self.reference: Run | None = None  # ours with RUNG_STEPS steps and without offloading
        self.peaks: dict[Rung, int] = {}  # bytes reserved
        self.after_section: Callable[[], object] = lambda: None

    # -- the runs -------------------------------------------------------------------------------------------------

    def run_plain(self, steps: int, folder: Path | None) -> Run:
        self.placement.apply(LADDER[0])
        file = folder / f"plain-{steps}.mp4" if folder else None
        return plain(self.model, self.with_steps(steps), self.device, self.source, file)

    def run_ours(self, steps: int, folder: Path | None, rung: Rung = LADDER[0]) -> Run:
        self.placement.apply(rung)
        file = folder / f"ours-{steps}.mp4" if folder else None
        return ours(self.model, self.with_steps(steps), self.placement, self.source, file)

    def with_steps(self, steps: int) -> Plan:
        return replace(self.plan, sampling=replace(self.plan.sampling, num_inference_steps=steps))

    # -- the sections ---------------------------------------------------------------------------------------------

    def warm_up(self) -> dict[str, Any]:
        """Run both paths unmeasured, so that kernels are chosen, memory is reserved and ffmpeg is in the page cache."""
        begin = time.perf_counter()
        with scratch() as folder:
            self.run_plain(2, folder)
            self.run_ours(2, folder)
        return {"steps": 2, "of": ["plain", "ours"], "seconds": time.perf_counter() - begin}

    def pair(self, steps: int, first: str) -> dict[str, Any]:
        """Run both paths once, beginning with `first`."""
        done: dict[str, Run] = {}
        with scratch() as folder:
            for name in (first, "ours" if first == "plain" else "plain"):
                done[name] = (self.run_plain if name == "plain" else self.run_ours)(steps, folder)
            sizes = {n: r.file.stat().st_size if r.file is not None else None for n, r in done.items()}
        self.step = done["plain"].step or self.step
        a, b = done["plain"], done["ours"]
        return {
            "order": list(done),
            "steps": steps,
            "plain": self.said(a) | {"file_bytes": sizes["plain"]},
            "ours": self.said(b) | {"file_bytes": sizes["ours"]},
            "ratio_step": over(a.step, b.step),
            "ratio_seconds": over(a.seconds, b.seconds),
            "ratio_peak": over(a.peak_allocated, b.peak_allocated),
            "equal": equal(a, b),
            "gpus_after": report.gpus(),
        }

    def again(self) -> dict[str, Any]:
        """Run the same seed twice, with another run in between."""
        first = self.reference = self.run_ours(RUNG_STEPS, None)
        self.run_plain(2, None)
        return {"steps": RUNG_STEPS, "equal": equal(first, self.run_ours(RUNG_STEPS, None))}

    def rung(self, rung: Rung) -> dict[str, Any]:
        begin = time.perf_counter()
        run = self.run_ours(RUNG_STEPS, None, rung)
        reference = self.reference
        estimate = need(rung, self.plan.sampling, self.model.info, self.model.weights)
        if run.peak_reserved is not None:
            self.peaks[rung] = run.peak_reserved
        return self.said(run) | {
            "rung": str(rung),
            "need_gib": estimate / GIB,
            "need_over_reserved": over(estimate, run.peak_reserved),
            "step_over_plain": over(run.step, self.step),
            "equal": {
                # tiling changes pixels by design, and in image-to-video also the first latents
                "latents": None
                if reference is None or (rung.tiling and self.source is not None)
                else torch.equal(run.latents, reference.latents),
                "frames": None if reference is None or rung.tiling else np.array_equal(run.frames, reference.frames),
            },
            "with_placing_seconds": time.perf_counter() - begin,
        }

    def out_of_memory(self) -> dict[str, Any]:
        """Run with too little memory for the first rung, to see whether the video finishes and stays the same."""
        high, low = self.peaks.get(LADDER[0]), self.peaks.get(Rung("model", True))
        limit = None
        if self.device.type == "cuda":
            if high is None or low is None:
                raise RuntimeError("the peaks of the neighbouring rungs were not measured")
            limit = (high + low) // 2
        self.placement.apply(LADDER[0])
        with shortage(self.device, limit, self.placement):
            run = ours(self.model, self.with_steps(RUNG_STEPS), self.placement, self.source)
        return {
            "how": "simulated: the decoder raises until two rungs have been tried"
            if limit is None
            else "torch.cuda.set_per_process_memory_fraction",
            "limit_gib": None if limit is None else limit / GIB,
            "climbed": run.climbed,
            "ended_on": str(self.placement.rung),
            "finished": bool(run.climbed) and len(run.frames) == self.plan.video.num_frames,
            "latents_equal": self.reference is not None and torch.equal(run.latents, self.reference.latents),
        }

    # -- helpers --------------------------------------------------------------------------------------------------

    def said(self, run: Run) -> dict[str, Any]:
        tera = step_tera_flop(self.plan.sampling, self.model)
        return {
            "steps": run.steps,
            "step_seconds": run.step,
            "step_seconds_all": [round(one, 5) for one in run.step_seconds],
            "step_tflop_per_second": over(tera, run.step),
            "seconds": run.seconds,
            "seconds_scaled": None if run.steps == self.steps else run.scaled(self.steps),
            "scaled_to_steps": None if run.steps == self.steps else self.steps,
            "peak_allocated_gib": None if run.peak_allocated is None else run.peak_allocated / GIB,
            "peak_reserved_gib": None if run.peak_reserved is None else run.peak_reserved / GIB,
            "finite": bool(torch.isfinite(run.latents).all()),
            "frames": list(run.frames.shape),
            "frames_std": float(run.frames.std()),
        }

    def left(self) -> float:
        return self.budget - (time.monotonic() - self.begin)

    def attempt(self, name: str, work: Callable[[], T], seconds: float = 0.0) -> T | None:
        """`work`'s result; None after an error or if fewer than `seconds` are left; `errors` records both."""
        if self.left() < seconds:
            self.errors[name] = f"not measured: {self.left():.0f} s of {self.budget:.0f} s left, {seconds:.0f} needed"
            self.say(f"{name}: {self.errors[name]}")
            return None
        self.say(name)
        result = None
        try:
            result = work()
        except Exception as e:
            traceback.print_exc()
            self.errors[name] = f"{type(e).__name__}: {str(e)[:500]}"
        gc.collect()  # the traceback of a failed section kept its tensors alive
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return result

    def section(self, name: str, work: Callable[[], Any], seconds: float = 0.0) -> None:
        """Store the result of `attempt` under `name`."""
        self.found[name] = self.attempt(name, work, seconds)
        self.after_section()

    def measure(self, full: bool) -> None:
        """Run all sections, the most important first."""
        self.section("warm_up", self.warm_up)
        self.section("short", lambda: self.pair(self.short, "plain"))
        step = self.step or 0.0
        later = LATER_STEPS * step + LATER_SECONDS if self.device.type == "cuda" else 0.0
        self.found["full"] = None
        if full:
            enough = 2 * (self.steps + DECODE_STEPS) * step + later
            self.section("full", lambda: self.pair(self.steps, "ours"), enough)
        if self.found["full"] is None:
            enough = 2 * (self.short + DECODE_STEPS) * step + later
            self.section("short_reversed", lambda: self.pair(self.short, "ours"), enough)
        few = (RUNG_STEPS + DECODE_STEPS) * step
        self.section("same_seed_twice", self.again, 3 * few)
        self.found["rungs"] = []
        for rung in LADDER:
            one = self.attempt(f"rung {rung}", partial(self.rung, rung), 2 * few)
            self.found["rungs"] += [] if one is None else [one]
            self.after_section()
        self.section("out_of_memory", self.out_of_memory, 2 * few)

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.begin:6.1f} s] {text}", flush=True)


def a_plan(model: Model, steps: int) -> tuple[Plan, Frames | None]:
    """A plan with the model's defaults, and for image-to-video a random image of its size."""
    width, height = model.info.family.sizes.default
    still = "i2v" in model.info.family.name
    request = GenerationRequest(
        PROMPT, image=Media("unused", "0") if still else None, num_inference_steps=steps, seed=SEED
    )
    plan = resolve(request, model.info, source=Source(width, height) if still else None)
    picture = np.random.default_rng(SEED).integers(0, 256, (1, height, width, 3), np.uint8) if still else None
    return plan, picture


def step_tera_flop(plan: SamplingPlan, model: Model) -> float:
    """Number of operations, in units of 10^12, of the matrix products and attention in one step with guidance; a
    multiply-add counts as two operations."""
    config = model.transformer.config
    frames = -(-((plan.model_frames - 1) // 4 + 1) // model.info.latent_patch_frames)
    tokens = frames * (plan.model_width // 16) * (plan.model_height // 16) + model.info.max_tokens
    width, batch = model.info.inner_dim, 2 if plan.guidance_scale > 1 else 1
    layers = int(config.num_layers)
    return batch * layers * (24 * tokens * width**2 + 4 * tokens**2 * width) / 1e12


def equal(a: Run, b: Run) -> dict[str, bool]:
    return {"latents": torch.equal(a.latents, b.latents), "frames": np.array_equal(a.frames, b.frames)}


def over(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


@contextlib.contextmanager
def scratch() -> Iterator[Path | None]:
    """A temporary folder for video files; None if ffmpeg is missing, so that no video can be encoded."""
    if not HAS_FFMPEG:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def shortage(device: torch.device, limit: int | None, placement: Placement) -> Iterator[None]:
    """Allow at most `limit` bytes of the device's memory. On a CPU, which has no such limit, the decoder raises an
    out-of-memory error until the VAE is tiled.
    """
    if device.type == "cuda" and limit is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(limit / total, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return

    def fail(*_: Any) -> None:
        if not placement.rung.tiling:
            raise torch.OutOfMemoryError("simulated")

    decoder: Any = placement.modules["vae"].decoder
    handle = decoder.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        handle.remove()


def whole(found: dict[str, Any], steps: int) -> tuple[dict[str, Any], str]:
    """The pair of runs to report for a whole video, and whether its seconds are measured or scaled."""
    if found.get("full"):
        return found["full"], "measured"
    return found.get("short") or {}, f"scaled from {(found.get('short') or {}).get('steps')} steps to {steps}"


def row(result: dict[str, Any]) -> dict[str, str]:
    """The row of the table."""
    found, shape = result["found"], result["shape"]
    pair, how = whole(found, shape["steps"])
    sides = {name: pair.get(name) or {} for name in ("plain", "ours")}
    total = {name: side.get("seconds" if how == "measured" else "seconds_scaled") for name, side in sides.items()}
    gib = {
        name: report.gib(None if (peak := side.get("peak_allocated_gib")) is None else int(peak * GIB))
        for name, side in sides.items()
    }
    same = pair.get("equal", {})
    return {
        "date": result["date"],
        "device": result["device"],
        "shape": f"{shape['model']}, {shape['frames']} frames {shape['width']}x{shape['height']}, {shape['dtype']}",
        "step plain / ours": " / ".join(report.seconds(side.get("step_seconds")) for side in sides.values()),
        "step ratio": report.ratio(pair.get("ratio_step")),
        f"{shape['steps']} steps, prompt to {'file' if HAS_FFMPEG else 'frames'} ({how}), plain / ours": " / ".join(
            report.seconds(one) for one in total.values()
        ),
        "ratio": report.ratio(over(total["plain"], total["ours"])),
        "peak plain / ours": " / ".join(gib.values()),
        "bit-equal": f"latents {yes(same.get('latents'))}, frames {yes(same.get('frames'))}",
    }


def yes(value: bool | None) -> str:
    return report.NOT_MEASURED if value is None else "yes" if value else "no"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if no section failed (some may be skipped for lack of time), otherwise 1."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--model", choices=get_args(Kind), default="5b")
    parser.add_argument("--steps", type=int, default=50, help="steps of the whole video")
    parser.add_argument("--short", type=int, default=None, help="steps of the short runs (12, quick 6)")
    parser.add_argument("--budget", type=float, default=None, help="seconds for everything (540, quick 240)")
    parser.add_argument("--quick", action="store_true", help="fewer steps, no full run")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU, to test this program")
    given = parser.parse_args(arguments)
    if not (torch.cuda.is_available() or given.tiny):
        print("no CUDA device; --tiny runs this program on a CPU", file=sys.stderr)
        return 2
    device = torch.device("cpu" if given.tiny else "cuda:0")
    steps = min(given.steps, 4) if given.tiny else given.steps
    short = given.short or (3 if given.tiny else 6 if given.quick else 12)
    budget = given.budget or (QUICK_BUDGET if given.quick else BUDGET)
    name = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
    about: dict[str, Any] = {
        "date": report.today(),
        "device": name,
        "arguments": vars(given),
        "machine": report.machine(),
    }
    bench = Bench(given.model, device, "tiny" if given.tiny else "true", steps, short, budget)
    about["built_seconds"] = time.monotonic() - bench.begin
    bench.say(f"{bench.model.info.name} is built")

    def save() -> Path:
        result = result_of(bench, about)
        return report.save(f"{'tiny-' if given.tiny else ''}gpu-{given.model}", name, result, row(result))

    bench.after_section = save  # so that an interrupted run leaves its results so far
    bench.measure(full=not given.quick)
    print(report.table(row(result_of(bench, about))), end="")
    for one in bench.found["rungs"]:
        peak, step = one["peak_reserved_gib"], report.seconds(one["step_seconds"])
        reserved = report.NOT_MEASURED if peak is None else f"{peak:.1f} GiB"
        print(f"{one['rung']}: needs {one['need_gib']:.1f} GiB by estimate, reserved {reserved}, step {step}")
    bench.say(f"written to {save()}")
    return 1 if any(not why.startswith("not measured") for why in bench.errors.values()) else 0


def result_of(bench: Bench, about: dict[str, Any]) -> dict[str, Any]:
    """The whole result so far."""
    plan, model = bench.plan, bench.model
    tiny = about["arguments"]["tiny"]
    return {
        "what": "plain diffusers pipeline against cogvideox-server, same process, same modules, random weights",
        "meaning": "none: a tiny model on a CPU, to test the program" if tiny else "times, memory, bit-equality",
        **about,
        "versions": report.versions(),
        "encoding": how_encoded(),
        "shape": {
            "model": about["arguments"]["model"],
            "task": plan.sampling.task.value,
            "frames": plan.video.num_frames,
            "width": plan.video.width,
            "height": plan.video.height,
            "steps": bench.steps,
            "guidance_scale": plan.sampling.guidance_scale,
            "scheduler": plan.sampling.scheduler,
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights_gib": {name: size / GIB for name, size in asdict(model.weights).items()},
            "step_tflop": step_tera_flop(plan.sampling, model),
            "step_estimate_gib": step_bytes(plan.sampling, model.info) / GIB,
        },
        "found": bench.found,
        "errors": bench.errors,
        "seconds": time.monotonic() - bench.begin,
    }


if __name__ == "__main__":
    sys.exit(main())
