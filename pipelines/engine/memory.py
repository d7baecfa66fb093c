"""Where each component of a model lies during a run: profiles, the choice between them, and the ladder after an OOM.

The profiles:
    none        everything stays on the device
    model       text encoder, transformer and VAE visit the device one after the other
    group       the transformer visits block by block, overlapped with compute
    sequential  every layer visits alone: slowest, smallest

Estimates: the activations of one denoising step take 52 bytes x tokens x width of the transformer. An untiled decode
takes 45.8 kB x pixels of a frame; this number is for a decoder whose first width is 128, and is proportional to that
width. The two numbers were counted on the meta device for 2B, 5B and 1.5-5B in bf16. They agree with the published 33
GB for the whole 5B pipeline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import psutil
import torch

from pipelines.engine_port import MemorySetting
from pipelines.events import Event, Log
from pipelines.models import ModelInfo
from pipelines.plan import SamplingPlan

Profile = Literal["none", "model", "group", "sequential"]
T = TypeVar("T")
GIB = 2**30
STEP_BYTES = 52
DECODE_BYTES = 45_800
TEXT_ROWS = 226
# pixels: 8 for each latent, times 6 and 5, because tiles overlap by a sixth and a fifth
TILE_HEIGHT, TILE_WIDTH = 48, 40
MARGIN = 1 * GIB  # CUDA context, cuDNN workspaces, fragmentation


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: a profile, and whether the VAE works tile by tile."""

    profile: Profile
    tiling: bool

    def __str__(self) -> str:
        return self.profile + (" + VAE tiling" if self.tiling else "")


# only for a host without room for the weights; other hosts use `model`, which is exact
SHORT_OF_RAM = Rung("none", True)
LADDER: tuple[Rung, ...] = (
    Rung("none", False),
    SHORT_OF_RAM,
    Rung("model", False),
    Rung("model", True),
    Rung("group", True),
    Rung("sequential", True),
)


@dataclass(frozen=True)
class Budget:
    """The bytes that are free or hold our own weights, on the device and in the host's memory. `device` is None when
    the CPU computes."""

    device: int | None
    host: int

    @classmethod
    def of(cls, device: torch.device, modules: Iterable[torch.nn.Module] = ()) -> Budget:
        ours = sum(module_bytes(m) for m in modules if next(m.parameters()).device.type == "cpu")
        host = psutil.virtual_memory().available + ours
        if device.type != "cuda":
            return cls(None, host)
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device)  # already ours: weights placed earlier, and reusable blocks
        return cls(free + cached, host)


@dataclass(frozen=True)
class Weights:
    """Bytes of each component."""

    text_encoder: int
    transformer: int
    vae: int

    @property
    def total(self) -> int:
        return self.text_encoder + self.transformer + self.vae


def step_bytes(plan: SamplingPlan, model: ModelInfo) -> int:
    latent_frames = (plan.model_frames - 1) // 4 + 1
    tokens = -(-latent_frames // model.latent_patch_frames) * (plan.model_width // 16) * (plan.model_height // 16)
    return STEP_BYTES * (tokens + TEXT_ROWS) * model.inner_dim


def decode_bytes(plan: SamplingPlan, model: ModelInfo, tiling: bool) -> int:
    pixels = plan.model_width * plan.model_height
    per_pixel = DECODE_BYTES * model.decoder_width // 128
    if not tiling:
        return per_pixel * pixels
    return per_pixel * min(pixels, model.tile_pixels) + 6 * pixels * plan.model_frames


def need(rung: Rung, plan: SamplingPlan, model: ModelInfo, weights: Weights) -> int:
    """Peak bytes on the device, estimated."""
    step, decode = step_bytes(plan, model), decode_bytes(plan, model, rung.tiling)
    if rung.profile == "none":
        return weights.total + max(step, decode) + MARGIN
    whole = {"model": 1.0, "group": 0.06, "sequential": 0.02}[rung.profile]
    text, dit = int(weights.text_encoder * whole), int(weights.transformer * whole)
    return max(text + GIB // 4, dit + step, weights.vae + decode) + MARGIN


def choose(
    setting: MemorySetting, plan: SamplingPlan, model: ModelInfo, weights: Weights, budget: Budget
) -> tuple[Rung, str]:
    """The first rung that fits, and the reason as text."""
    if setting not in get_args(MemorySetting):
        raise ValueError(f"memory: must be one of {', '.join(get_args(MemorySetting))}, got {setting!r}")
    if budget.device is None:
        if setting == "auto":
            return LADDER[0], "none: a CPU has nothing to offload"
        return next(r for r in LADDER if r.profile == setting), f"{setting}: as set"
    free = budget.device
    rungs = [r for r in LADDER if setting in ("auto", r.profile) and r != SHORT_OF_RAM]
    if weights.total > budget.host and setting in ("auto", "none"):
        rungs = list(LADDER[:2])  # the host has no room for offloaded weights
    for rung in rungs:
        wants = need(rung, plan, model, weights)
        if wants <= free:
            chosen = "as set" if setting != "auto" else "chosen"
            return rung, f"{rung}: {chosen}; needs about {wants / GIB:.1f} GiB of {free / GIB:.1f} GiB free"
    last = rungs[-1]
    return last, (
        f"{last}: the smallest {'profile' if setting == 'auto' else 'rung of the profile set'}; needs about"
        f" {need(last, plan, model, weights) / GIB:.1f} GiB of {free / GIB:.1f} GiB free and may not fit"
    )


def module_bytes(module: torch.nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


class Placement:
    """Moves the three modules of one pipeline between device and host according to the rung. On a CPU nothing moves."""

    def __init__(self, modules: dict[str, torch.nn.Module], device: torch.device) -> None:
        self.modules = modules
        self.device = device
        self.rung = LADDER[0]
        self._hooked: Profile | None = None

    def apply(self, rung: Rung) -> None:
        """Change to `rung` from the rung applied before."""
        self.rung = rung
        hook = rung.profile if rung.profile in ("group", "sequential") else None
        if self._hooked is not None and self._hooked != hook:
            self._unhook()
        if hook is not None and self._hooked is None:
            self._hook(rung.profile)
        if rung.profile == "none":
            for module in self.modules.values():
                module.to(self.device)
        elif self.device.type != "cpu":
            for name, module in self.modules.items():
                if hook is None or name == "vae":
                    module.to("cpu")
            self._empty_cache()
        vae: Any = self.modules["vae"]
        if rung.tiling:
            # NOTE: if a tile's sides are no multiples of these, the tiles' overlaps are rounded down to whole latents
            # and the video gets another size
            vae.enable_tiling(
                tile_sample_min_height=-(-vae.tile_sample_min_height // TILE_HEIGHT) * TILE_HEIGHT,
                tile_sample_min_width=-(-vae.tile_sample_min_width // TILE_WIDTH) * TILE_WIDTH,
            )
        else:
            vae.disable_tiling()
        vae.enable_slicing()

    @contextlib.contextmanager
    def on_device(self, name: str) -> Iterator[Any]:
        """The module, on the device for the duration of the block."""
        module = self.modules[name]
        visits = self.rung.profile != "none" and (self._hooked is None or name == "vae")
        if not visits or self.device.type == "cpu":
            yield module
            return
        module.to(self.device)
        try:
            yield module
        finally:
            module.to("cpu")
            self._empty_cache()

    def release(self) -> None:
        """Free the device."""
        self._unhook()
        if self.device.type != "cpu":
            for module in self.modules.values():
                module.to("cpu")
            self._empty_cache()

    def _hook(self, profile: Profile) -> None:
        streams = self.device.type == "cuda"
        for name in ("text_encoder", "transformer"):
            module = self.modules[name]
            module.to("cpu")  # accelerate puts the weights back where it found them
            if profile == "sequential":
                from accelerate import cpu_offload

                # an adapter reads the weights of its layer, so adapter and layer must be on the device together
                cpu_offload(module, execution_device=self.device, preload_module_classes=["Linear", "Conv2d"])
            else:
                from diffusers.hooks import apply_group_offloading

                apply_group_offloading(
                    module,
                    onload_device=self.device,
                    offload_device=torch.device("cpu"),
                    # block_level does not find T5's blocks, which are one level deeper
                    offload_type="block_level" if name == "transformer" else "leaf_level",
                    num_blocks_per_group=1,
                    use_stream=streams,
                    low_cpu_mem_usage=streams and not self._room_to_pin(),
                )
        self._hooked = profile

    def _room_to_pin(self) -> bool:
        """Whether the host has room for a second copy of the weights in pinned memory, from which streams copy
        fastest."""
        hooked = module_bytes(self.modules["text_encoder"]) + module_bytes(self.modules["transformer"])
        return psutil.virtual_memory().available > hooked + 4 * GIB

    def _unhook(self) -> None:
        for name in ("text_encoder", "transformer"):
            module = self.modules[name]
            if self._hooked == "sequential":
                from accelerate.hooks import remove_hook_from_module

                remove_hook_from_module(module, recurse=True)
            elif self._hooked == "group":
                from diffusers.hooks import HookRegistry

                registry = HookRegistry.check_if_exists_or_initialize(module)
                for hook in ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading"):
                    registry.remove_hook(hook, recurse=True)
                module.to("cpu")
        self._hooked = None

    def _empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class OutOfMemory(RuntimeError):
    """The lowest rung needs more memory than the device has."""


class Ladder:
    """Repeats work one rung lower after the device ran out of memory."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.stepped_down = False

    def retry(self, work: Callable[[], T], doing: str) -> Generator[Event, None, T]:
        """Call `work` until it returns. After each OOM, go one rung lower and yield a warning. Raises OutOfMemory if
        there is no lower rung."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as e:
                rung = self.next_rung(doing, e)
            # outside the handler: the traceback would keep the failed attempt's tensors alive
            yield self.step_down(rung, doing)

    def next_rung(self, doing: str, error: Exception) -> Rung:
        """Raises OutOfMemory if there is no lower rung."""
        below = [r for r in LADDER[LADDER.index(self.placement.rung) + 1 :] if r != SHORT_OF_RAM]
        if not below:
            raise OutOfMemory(f"out of memory while {doing}, even with {self.placement.rung}") from error
        return below[0]

    def step_down(self, rung: Rung, doing: str) -> Log:
        self.stepped_down = True
        if self.placement.device.type == "cuda":
            torch.cuda.empty_cache()
        self.placement.apply(rung)
        return Log(f"out of memory while {doing}: continuing with {rung}", "WARN")


class Memory:
    """Gives the device to one model at a time, and remembers the rung that each size needed."""

    def __init__(self, device: torch.device, setting: MemorySetting) -> None:
        self.device = device
        self.setting = setting
        self._placement: Placement | None = None
        self._needed: dict[tuple[str, int, int, int], Rung] = {}

    def place(
        self, modules: dict[str, torch.nn.Module], weights: Weights, info: ModelInfo, plan: SamplingPlan
    ) -> tuple[Placement, Rung, str]:
        """The model's placement, the rung to begin with, and the reason for it. `weights` include the adapters."""
        if self._placement is None or self._placement.modules != modules:
            if self._placement is not None:
                self._placement.release()
            self._placement = Placement(modules, self.device)
        rung, why = choose(self.setting, plan, info, weights, Budget.of(self.device, modules.values()))
        needed = self._needed.get(_size(plan))
        if needed is not None and LADDER.index(needed) > LADDER.index(rung):
            rung, why = needed, f"{needed}: what this size needed before"
        return self._placement, rung, why

    def remember(self, ladder: Ladder, plan: SamplingPlan) -> None:
        if ladder.stepped_down:
            self._needed[_size(plan)] = ladder.placement.rung


def _size(plan: SamplingPlan) -> tuple[str, int, int, int]:
    return plan.model, plan.model_frames, plan.model_width, plan.model_height
