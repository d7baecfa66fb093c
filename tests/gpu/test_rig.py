"""Tests on the CPU the code that the GPU tests share, so that its errors are found before a GPU is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from benchmarks.gpu import shortage
from benchmarks.ours_and_plain import ours, plain
from benchmarks.random_checkpoints import build
from pipelines.engine.loader import Loader
from pipelines.engine.memory import LADDER, Placement
from pipelines.frames.upscaler import load
from pipelines.request import GenerationRequest, Task
from tests.rigs import checkpoints
from tests.rigs.gpu import options, rig

CPU = torch.device("cpu")
REQUEST = GenerationRequest("a red circle moves left", num_inference_steps=4, seed=7)


@pytest.mark.slow
def test_the_paths_take_every_task() -> None:
    for kind, task in (("1.5-5b", Task.V2V), ("1.5-5b-i2v", Task.I2V)):
        model = Loader(CPU).load(checkpoints.cached(kind))  # type: ignore[arg-type]
        plan, source = rig.plan_for(model, task, steps=2, num_frames=9)
        placement = Placement(model.modules, CPU)
        placement.apply(LADDER[0])
        a, b = plain(model, plan, CPU, source), ours(model, plan, placement, source)
        assert torch.equal(a.latents, b.latents)
        assert (a.frames == b.frames).all()
        assert a.frames.std() > 1


@pytest.mark.parametrize("encoding", [False, rig.HAS_FFMPEG])
def test_the_engine_runs_over_a_model_in_memory(encoding: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = rig.generate_module(monkeypatch, encoding=encoding)
    finished = rig.run(rig.engine(module, build("5b", CPU, "tiny"), CPU), REQUEST)[-1]
    assert finished.frames == 9
    assert bool(finished.video) is encoding


def test_shortage_makes_the_engine_step_down(monkeypatch: pytest.MonkeyPatch) -> None:
    module = rig.generate_module(monkeypatch, encoding=False)
    model = build("5b", CPU, "tiny")
    engine = rig.engine(module, model, CPU)
    plan, _ = rig.plan_for(model, Task.T2V)
    placement, *_ = engine._memory.place(model.modules, model.weights, model.info, plan.sampling)
    with shortage(CPU, None, placement):
        said = [event.message for event in rig.run(engine, REQUEST) if getattr(event, "level", "") == "WARN"]
    assert len(said) == 2


def test_cancelling_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = rig.generate_module(monkeypatch, encoding=False)
    assert rig.until_cancelled(module, rig.engine(module, build("5b", CPU, "tiny"), CPU), REQUEST, 2) == [1, 2]


@pytest.mark.slow
def test_the_options_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler = options.enlarging(CPU)
    monkeypatch.setattr("pipelines.frames.upscaler.load", lambda *_: upscaler)
    module = rig.generate_module(monkeypatch, encoding=False)
    engine = rig.served(module, CPU, ["5b", "5b-i2v"], "sequential", upscaler=Path("net.pth"))
    short: dict[str, Any] = {"num_frames": 18, "extend": True, "num_inference_steps": 1, "seed": 7}
    styles = (options.style(engine, "5b", tmp_path),)
    plain = rig.made(module, engine, GenerationRequest("a red circle", **short), "5b")
    large = GenerationRequest("a red circle", **short, loras=styles, interpolate_fps=16, width=80, height=60)
    made = rig.made(module, engine, large, "5b")
    assert plain.frames.shape == (18, 48, 64, 3)
    assert made.frames.shape == (36, 60, 80, 3)
    assert sum("style.safetensors" in line for line in made.said) == 2
    assert plain.latents.shape == made.latents.shape
    assert not torch.equal(made.latents, plain.latents)
    again = rig.made(module, engine, GenerationRequest("a red circle", **short), "5b")
    assert (again.frames == plain.frames).all()


@pytest.mark.parametrize("name", get_args(options.Net))
def test_the_interpolating_networks_draw_something_between(name: options.Net) -> None:
    first, *between, last = options.drawn(options.interpolating(name, CPU), CPU)
    assert all(not torch.equal(one, first) and not torch.equal(one, last) for one in between)
    assert not torch.equal(*between)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_enlarging_network_shows_its_tiles_hardly(dtype: torch.dtype) -> None:
    upscaler, given = options.enlarging(CPU, dtype), options.frame(40, 70)
    whole = options.by_tiles(upscaler, given, None)
    assert whole.shape == (3, 160, 280)
    assert 0 < (options.by_tiles(upscaler, given, 48) - whole).abs().max() <= 3


@pytest.mark.parametrize("architecture", get_args(options.Architecture))
def test_the_files_of_upscalers_are_read(
    architecture: options.Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options.spandrel(monkeypatch)
    upscaler = load(options.upscaler_file(architecture, tmp_path), CPU)
    assert options.by_tiles(upscaler, options.frame(20, 30), None).shape == (3, 80, 120)


def test_the_counter_leaves_a_file(tmp_path: Path) -> None:
    with rig.Counter(tmp_path / "video.mp4") as writer:
        writer.write(rig.moving_picture(2, 64, 48))
    assert (tmp_path / "video.mp4").read_bytes() == b""


def test_the_middle_scale_is_about_what_the_memory_test_expects() -> None:
    """Half a GiB in bfloat16, mostly the transformer; counted on the meta device, without allocating weights."""
    weights = build("5b", torch.device("meta"), "middle").weights
    assert 200 * 2**20 < weights.transformer < 700 * 2**20
    assert weights.text_encoder > 50 * 2**20
    assert weights.vae < 50 * 2**20
