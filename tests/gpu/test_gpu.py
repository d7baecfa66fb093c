"""Tests on a CUDA device. They compare every model in its own dtype with the stock pipelines, and cover offloading,
running out of memory, cancelling and the whole engine. test_rig.py tests the test code itself on the CPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import shortage
from benchmarks.ours_and_plain import Run, ours, plain
from benchmarks.random_checkpoints import build
from pipelines.engine.loader import Loader, Model
from pipelines.engine.memory import LADDER, Placement, Rung, need
from pipelines.engine.sample import Sampler
from pipelines.request import GenerationRequest, SchedulerName, Task
from tests.rigs import checkpoints
from tests.rigs.gpu import rig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # the installed versions of torch and its CUDA libraries may give other warnings than the pinned versions
    pytest.mark.filterwarnings("default"),
]

CUDA = torch.device("cuda:0")
CASES: list[tuple[checkpoints.Kind, Task, SchedulerName]] = [
    ("2b", Task.T2V, "ddim"),
    ("2b", Task.V2V, "ddim"),
    ("5b", Task.T2V, "dpm"),
    ("5b", Task.V2V, "dpm"),
    ("5b-i2v", Task.I2V, "dpm"),
    ("1.5-5b", Task.T2V, "dpm"),
    ("1.5-5b", Task.V2V, "dpm"),
    ("1.5-5b-i2v", Task.I2V, "dpm"),
]
UNTILED = [rung for rung in LADDER if not rung.tiling] + [Rung("group", False), Rung("sequential", False)]
REQUEST = GenerationRequest("a red circle moves left", num_inference_steps=4, seed=7)


@pytest.fixture(scope="module")
def middle() -> Model:
    """About half a GiB of weights, so that offloading is measurable; decoding needs a few hundred MiB."""
    return build("5b", CUDA, "middle")


@pytest.fixture(autouse=True)
def free_memory():
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    rig.cuda_bytes(CUDA)


@pytest.mark.parametrize(("kind", "task", "scheduler"), CASES)
def test_frames_equal_the_stock_pipelines(kind: checkpoints.Kind, task: Task, scheduler: SchedulerName) -> None:
    model = rig.in_own_dtypes(Loader(CUDA)).load(checkpoints.cached(kind))
    assert model.transformer.dtype is (torch.float16 if kind == "2b" else torch.bfloat16)
    plan, source = rig.plan_for(model, task, scheduler, num_frames=9)
    placement = Placement(model.modules, CUDA)
    placement.apply(LADDER[0])
    theirs, mine = plain(model, plan, CUDA, source), ours(model, plan, placement, source)
    assert torch.isfinite(mine.latents).all()
    assert mine.frames.std() > 1, "flat frames would make the comparison meaningless"
    assert torch.equal(mine.latents, theirs.latents)
    np.testing.assert_array_equal(mine.frames, theirs.frames)


def on_rung(model: Model, rung: Rung) -> Run:
    placement = Placement(model.modules, CUDA)
    placement.apply(rung)
    plan, _ = rig.plan_for(model, Task.T2V)
    try:
        return ours(model, plan, placement)
    finally:
        placement.release()


def test_offloading_changes_no_frame_and_saves_memory(middle: Model) -> None:
    runs = {rung: on_rung(middle, rung) for rung in UNTILED}
    first = runs[LADDER[0]]
    assert first.frames.std() > 1
    for rung, run in runs.items():
        assert run.climbed == []
        assert torch.equal(run.latents, first.latents), rung
        np.testing.assert_array_equal(run.frames, first.frames, err_msg=str(rung))
    # with VAE tiling, the transformer and not the VAE causes the peak memory use, so the profiles' peaks differ
    tiled = {profile: on_rung(middle, Rung(profile, True)) for profile in ("none", "model", "group", "sequential")}
    peaks = {profile: run.peak_allocated or 0 for profile, run in tiled.items()}
    assert all(torch.equal(run.latents, first.latents) for run in tiled.values())
    assert all(run.frames.shape == first.frames.shape for run in tiled.values())
    assert all(0 < peaks[profile] < peaks["none"] for profile in ("model", "group", "sequential")), peaks
    assert peaks["group"] < peaks["model"], peaks


def test_the_estimate_is_no_less_than_the_peak(middle: Model) -> None:
    plan, _ = rig.plan_for(middle, Task.T2V)
    for rung in LADDER:
        peak = on_rung(middle, rung).peak_reserved or 0
        assert peak <= need(rung, plan.sampling, middle.info, middle.weights), rung


def test_a_module_is_back_to_itself_after_every_profile(middle: Model) -> None:
    before = on_rung(middle, LADDER[0])
    for rung in LADDER:
        on_rung(middle, rung)
    assert torch.equal(on_rung(middle, LADDER[0]).latents, before.latents)


@pytest.mark.parametrize("kind", ["2b", "5b", "1.5-5b"])
def test_a_seed_draws_the_same_noise_on_both_devices(kind: checkpoints.Kind) -> None:
    """The GPU and the CPU use the same dtype, because torch draws different random numbers for bfloat16 and float32."""
    model = rig.in_own_dtypes(Loader(CUDA)).load(checkpoints.cached(kind))
    plan, _ = rig.plan_for(model, Task.T2V)
    embeds = torch.zeros(2, 1, 1)
    drawn = []
    for device in (torch.device("cpu"), CUDA):
        _, state = Sampler(model, plan.sampling, Placement(model.modules, device)).prepare(embeds, None)
        assert state.latents.device.type == device.type
        drawn.append(state.latents.cpu())
    assert torch.equal(*drawn)


def test_a_seed_gives_the_same_frames_twice(middle: Model) -> None:
    first, other, again = on_rung(middle, LADDER[0]), on_rung(middle, Rung("model", False)), on_rung(middle, LADDER[0])
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.frames, other.frames)


def test_out_of_memory_climbs_and_is_remembered(middle: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    # an untiled decode does not fit into a limit between these two peaks, even with nothing else on the device
    untiled, tiled = (on_rung(middle, rung).peak_reserved or 0 for rung in (Rung("model", False), Rung("model", True)))
    assert tiled < 0.8 * untiled, "no limit fits between the two peaks"
    module = rig.generate_module(monkeypatch)
    engine = rig.engine(module, middle, CUDA)
    plan, _ = rig.plan_for(middle, Task.T2V)
    placement, *_ = engine._memory.place(middle.modules, middle.weights, middle.info, plan.sampling)
    try:
        with shortage(CUDA, (untiled + tiled) // 2, placement):
            first, second = rig.run(engine, REQUEST), rig.run(engine, REQUEST)
    finally:
        placement.release()
    said = [[event.message for event in run if getattr(event, "level", "") == "WARN"] for run in (first, second)]
    assert len(said[0]) == 2, said
    assert "out of memory" in said[0][0]
    assert "lowered" in first[-1].memory
    assert first[-1].frames == plan.video.num_frames
    assert said[1] == [], "it ran out of memory again"
    assert "what this size needed before" in second[-1].memory
    assert second[-1].video == first[-1].video


def test_cancelling_gives_the_memory_back(middle: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    module = rig.generate_module(monkeypatch)
    engine = rig.engine(module, middle, CUDA)
    try:
        rig.run(engine, REQUEST)
        before = rig.cuda_bytes(CUDA)
        assert rig.until_cancelled(module, engine, REQUEST, 2) == [1, 2]
        assert rig.cuda_bytes(CUDA) <= before + 2**20
        assert rig.run(engine, REQUEST)[-1].frames == middle.info.family.frames.default
    finally:
        engine._memory._placement.release()


@pytest.mark.skipif(not rig.HAS_FFMPEG, reason="encoding needs imageio-ffmpeg")
def test_the_engine_makes_an_mp4(tmp_path: Path) -> None:
    from pipelines.engine.generate import Engine
    from pipelines.engine_port import EngineSpec
    from pipelines.video import read_manifest, read_video

    engine = Engine(EngineSpec({"5b": checkpoints.cached("5b")}, "cuda"))
    videos = [list(engine.run(REQUEST, "5b"))[-1] for _ in range(2)]
    assert videos[0].video == videos[1].video
    path = tmp_path / "video.mp4"
    path.write_bytes(videos[0].video)
    clip = read_video(path, max_frames=100, max_pixels=1 << 20, max_seconds=60)
    assert clip.frames.shape == (17, 48, 64, 3)
    manifest = read_manifest(path)
    assert manifest["dtype"] == "bfloat16"
    assert manifest["device"] == torch.cuda.get_device_name(CUDA)
    assert videos[0].memory.startswith("none")
