"""Tests on a CUDA device. They cover LoRAs under every memory profile, interpolation, upscaling and videos of several
clips. test_rig.py tests the test code itself on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from pipelines.engine.memory import Profile
from pipelines.frames import upscaler as upscalers
from pipelines.frames.fit import Mode, fit
from pipelines.request import GenerationRequest
from tests.rigs import checkpoints
from tests.rigs.gpu import options, rig
from weights.interpolation import SHIPPED

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # the installed versions of torch and its CUDA libraries may give other warnings than the pinned versions
    pytest.mark.filterwarnings("default"),
]

CUDA = torch.device("cuda:0")
SHORT = {"num_frames": 9, "num_inference_steps": 2, "seed": 7}
LONG = {"num_frames": 40, "num_inference_steps": 2, "seed": 7, "extend": True}  # the tiny models make at most 17 frames
NEAR = 2e-4  # tolerance for values in 0..1: a GPU and a CPU add float32 values in different orders
# TF32, torch's default for convolutions, has 10 bits of mantissa instead of 23. When TF32 was emulated on a CPU, these
# frames changed by at most 2 levels of 255, and by 8e-5 of the range on average.
NEAR_TF32, NEAR_TF32_MEAN = 4 / 255, 3e-4
SEAM = 3  # levels of 255 by which a tiled frame may differ at tile borders


def ask(**values: Any) -> GenerationRequest:
    return GenerationRequest("a red circle moves left", **values)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    return rig.generate_module(monkeypatch, encoding=False)


@pytest.fixture(autouse=True)
def free_memory() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    rig.cuda_bytes(CUDA)


# --- LoRA


@pytest.mark.parametrize("memory", get_args(Profile))
@pytest.mark.parametrize(("kind", "dtype"), [("2b", torch.float16), ("5b", torch.bfloat16)])
def test_a_lora_acts_and_leaves_no_trace(
    kind: checkpoints.Kind, dtype: torch.dtype, memory: str, module: Any, tmp_path: Path
) -> None:
    engine = rig.served(module, CUDA, [kind], memory)
    assert engine.loader.load(engine.models[kind], kind).transformer.dtype is dtype
    styled = ask(**SHORT, loras=(options.style(engine, kind, tmp_path),))
    before, acting, after = (rig.made(module, engine, one, kind) for one in (ask(**SHORT), styled, ask(**SHORT)))
    assert all(one.finished.memory.startswith(memory) for one in (before, acting, after))
    assert any("style.safetensors" in line and "8 modules" in line for line in acting.said), acting.said
    assert before.frames.std() > 1, "flat frames would make the comparison meaningless"
    assert not np.array_equal(acting.frames, before.frames)
    assert torch.equal(after.latents, before.latents)
    np.testing.assert_array_equal(after.frames, before.frames)
    wanted = rig.made(module, rig.served(module, CUDA, [kind], "none"), styled, kind)
    assert torch.equal(acting.latents, wanted.latents), "the LoRA has the same effect in every memory profile"


# --- interpolation


@pytest.mark.parametrize("name", get_args(options.Net))
def test_a_network_draws_what_it_draws_on_a_cpu(name: options.Net, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    wanted = options.drawn(options.interpolating(name, cpu), cpu)
    net = options.interpolating(name, CUDA)
    assert {one.dtype for one in net.parameters()} == {torch.float32}
    usual = (options.drawn(net, CUDA) - wanted).abs()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    exact = (options.drawn(net, CUDA) - wanted).abs()
    found = (
        f"{name}: at most {exact.max():.1e} in float32, {usual.max():.1e} by default ({usual.mean():.1e} on average)"
    )
    assert exact[[0, -1]].max() == 0, "the original frames are unchanged"
    assert exact.max() < NEAR, found
    assert usual.max() < NEAR_TF32, found
    assert usual.mean() < NEAR_TF32_MEAN, found


@pytest.mark.parametrize("memory", ["none", "model"])
@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({"interpolate_fps": 16}, 18),
        ({"interpolate_fps": 30}, 34),
        ({"interpolate_fps": 24, "num_frames": None, "duration": 1.5}, 36),
    ],
)
def test_interpolated_videos_have_the_right_length(
    values: dict[str, Any], count: int, memory: str, module: Any
) -> None:
    engine = rig.served(module, CUDA, ["5b"], memory)
    made = rig.made(module, engine, ask(**{**SHORT, **values}), "5b")
    assert (len(made.frames), made.finished.frames, made.finished.fps) == (count, count, values["interpolate_fps"])
    assert made.finished.manifest["interpolator"]["file"] == SHIPPED.name
    if count == 18:
        plain = rig.made(module, engine, ask(**SHORT), "5b")
        np.testing.assert_array_equal(made.frames[::2], plain.frames, err_msg="the model's own frames are kept")
        assert not np.array_equal(made.frames[1:-1:2], plain.frames[:-1])


# --- upscaling


@pytest.mark.parametrize("size", [(160, 120), (90, 200), (33, 21)])
@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize(("dtype", "most"), [(torch.uint8, 1), (torch.float32, 1e-4), (torch.float16, 1e-3)])
def test_resizing_is_what_it_is_on_a_cpu(dtype: torch.dtype, most: float, mode: Mode, size: tuple[int, int]) -> None:
    frames = torch.from_numpy(rig.moving_picture(9, 64, 48)).permute(0, 3, 1, 2)
    given = frames if dtype is torch.uint8 else (frames / 255).to(dtype)
    wanted, found = fit(given, *size, mode), fit(given.to(CUDA), *size, mode)
    assert (found.device.type, found.dtype, found.shape) == (CUDA.type, dtype, (9, 3, size[1], size[0]))
    assert (found.cpu().float() - wanted.float()).abs().max() <= most


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tiles_make_the_whole_frame(dtype: torch.dtype) -> None:
    upscaler, given = options.enlarging(CUDA, dtype), options.frame(136, 200)
    assert upscaler.tile is None, "a GPU upscales whole frames while its memory suffices"
    whole = options.by_tiles(upscaler, given, None)
    assert whole.shape == (3, 544, 800)
    assert whole.float().std() > 1
    for tile in (128, 64):
        difference = (options.by_tiles(upscaler, given, tile) - whole).abs()
        assert difference.max() <= SEAM, tile
        assert difference.float().mean() < 0.1, tile
    cpu = options.by_tiles(options.enlarging(torch.device("cpu")), given, None)
    assert (whole - cpu).abs().max() <= (1 if dtype is torch.float32 else 2)


def test_a_frame_too_large_for_the_memory_is_made_by_tiles() -> None:
    """An activation of 32 channels at 2048x2048 in float32 takes half a GiB, and two activations exist at once. A
    1024x1024 tile needs a quarter of this memory."""
    upscaler, given = options.enlarging(CUDA, width=32), options.frame(512, 512)
    whole = options.by_tiles(upscaler, given, None)
    room = rig.cuda_bytes(CUDA) + 700 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(CUDA).total_memory, CUDA)
    tiled = options.by_tiles(upscaler, given, None)
    assert upscaler.tile == 256
    assert (tiled - whole).abs().max() <= SEAM


@pytest.mark.parametrize("interpolate_fps", [None, 16])
def test_an_enlarged_video(interpolate_fps: int | None, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler = options.enlarging(CUDA, torch.float16)
    monkeypatch.setattr(upscalers, "load", lambda *_: upscaler)
    plain, enlarging = (rig.served(module, CUDA, ["5b"], upscaler=one) for one in (None, Path("net.pth")))
    native = rig.made(module, plain, ask(**SHORT), "5b").frames
    request = ask(**SHORT, width=160, height=120, interpolate_fps=interpolate_fps)
    resized, enlarged = rig.made(module, plain, request, "5b"), rig.made(module, enlarging, request, "5b")
    frames = 18 if interpolate_fps else 9
    assert resized.frames.shape == enlarged.frames.shape == (frames, 120, 160, 3)
    assert upscaler._net.calls == 9  # type: ignore[attr-defined]
    assert enlarged.finished.manifest["upscaler"]["file"] == "net.pth"
    assert not np.array_equal(enlarged.frames, resized.frames)
    wanted = fit(torch.from_numpy(native).permute(0, 3, 1, 2), 160, 120, "crop").permute(0, 2, 3, 1)
    every = 2 if interpolate_fps else 1
    assert np.abs(resized.frames[::every].astype(int) - wanted.numpy()).max() <= 1


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("architecture", get_args(options.Architecture))
def test_files_that_spandrel_reads(
    architecture: options.Architecture, half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks that do not support half precision run in float32."""
    spandrel = options.spandrel(monkeypatch)
    path, given = options.upscaler_file(architecture, tmp_path), options.frame(96, 160)
    read = spandrel.ModelLoader.load_from_file

    def declared(loader: Any, file: Path) -> Any:
        found = read(loader, file)
        found.supports_half = half
        return found

    monkeypatch.setattr(spandrel.ModelLoader, "load_from_file", declared)
    upscaler = upscalers.load(path, CUDA)
    assert upscaler._dtype is (torch.float16 if half else torch.float32)
    whole = options.by_tiles(upscaler, given, None)
    assert whole.shape == (3, 384, 640)
    assert (options.by_tiles(upscaler, given, 64) - whole).abs().max() <= SEAM
    cpu = options.by_tiles(upscalers.load(path, torch.device("cpu")), given, None)
    assert (whole - cpu).abs().max() <= 2


# --- videos of several clips


@pytest.mark.parametrize("kind", ["5b", "2b", "5b-i2v"])
def test_clips_that_continue_each_other(kind: checkpoints.Kind, module: Any, tmp_path: Path) -> None:
    """The clips come from one checkpoint, from two checkpoints, or from two checkpoints with different dtypes."""
    image = options.picture(tmp_path) if kind == "5b-i2v" else None
    runs = {}
    for memory in get_args(Profile):
        engine = rig.served(module, CUDA, [kind, "5b-i2v"], memory)
        runs[memory] = rig.made(module, engine, ask(**LONG, image=image), kind)
        assert (len(runs[memory].frames), runs[memory].finished.frames) == (40, 40), memory
        assert any("3 clips of" in line for line in runs[memory].said), runs[memory].said
        assert torch.isfinite(runs[memory].latents).all()
    # "model" and "none" decode without tiles; each further clip starts from a decoded frame, so tiles would change it
    np.testing.assert_array_equal(runs["model"].frames, runs["none"].frames)
    first = ask(**{**LONG, "extend": None, "num_frames": 17}, image=image)
    alone = rig.made(module, rig.served(module, CUDA, [kind], "none"), first, kind)
    assert alone.frames.std() > 1
    np.testing.assert_array_equal(runs["none"].frames[:17], alone.frames)


@pytest.mark.parametrize("memory", ["none", "model"])
def test_everything_at_once(memory: str, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscalers, "load", lambda *_: options.enlarging(CUDA, torch.float16))
    engine = rig.served(module, CUDA, ["5b", "5b-i2v"], memory, upscaler=Path("net.pth"))
    styles = (options.style(engine, "5b", tmp_path),)
    plain = rig.made(module, engine, ask(**LONG), "5b")
    made = rig.made(module, engine, ask(**LONG, loras=styles, interpolate_fps=16, width=160, height=120), "5b")
    assert made.frames.shape == (79, 120, 160, 3)
    assert sum("style.safetensors" in line for line in made.said) == 3, made.said
    assert not torch.equal(made.latents, plain.latents)
    np.testing.assert_array_equal(rig.made(module, engine, ask(**LONG), "5b").frames, plain.frames)
