"""Tests the progress and the remaining time that a run reports, with a manual clock and with the tiny models."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import environment, progress
from pipelines.engine import effort
from pipelines.engine.generate import Engine
from pipelines.engine_port import EngineSpec
from pipelines.events import Event, Progress
from pipelines.frames.decode import decode, decoder_calls, watched
from pipelines.frames.finish import finish, frame_counts
from pipelines.frames.upscaler import Upscaler
from pipelines.progress import Meter, sentence, time_left
from pipelines.request import GenerationRequest
from pipelines.resolve import resolve
from pipelines.video import VideoWriter
from tests.pipelines.engine.test_extend import LONG
from tests.pipelines.engine.test_resume import Always, snapshots_of
from tests.rigs import checkpoints
from tests.rigs.engines import Bomb, ask, finished, new_engine
from weights import catalog


class Hand:
    """A clock that tests set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Told:
    """Collects in order all Progress events of a run: those that it yields and those that it passes to the callback."""

    def __init__(self) -> None:
        self.all: list[Progress] = []
        self.events: list[Event] = []

    def run(self, engine: Engine, request: GenerationRequest, model: str, **more: Any) -> Told:
        for event in engine.run(request, model, progress=self.all.append, **more):
            self.events.append(event)
            if isinstance(event, Progress):
                self.all.append(event)
        return self

    def of(self, stage: str) -> list[Progress]:
        return [one for one in self.all if one.stage == stage]


def check(told: Told) -> None:
    """Asserts that shares never decrease and stay below 1, that times are not negative, and that each stage reaches its
    total."""
    shares = [one.share for one in told.all]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] < 1, shares
    assert all(one.eta is None or one.eta >= 0 for one in told.all)
    for stage in {one.stage for one in told.all}:
        counts = [one.done for one in told.of(stage)]
        assert counts == sorted(set(counts)), (stage, counts)
        assert counts[-1] == told.of(stage)[-1].total, (stage, counts)


def test_the_time_left_is_that_of_all_stages() -> None:
    clock = Hand()
    meter = Meter(clock=clock)
    meter.expect("denoise", 4)
    meter.expect("decode", 2)
    assert meter.left() is None, "nothing is measured yet"
    meter.in_steps = {"decode": 3.0}
    etas = []
    for _ in range(4):
        with meter.doing("denoise"):
            clock.now += 10
        progress = meter.advance("denoise")
        assert progress is not None
        etas.append(progress.eta)
    assert etas == [None, 80, 70, 60], (
        "no estimate from the first step; one unit of decoding counts as three steps until measured"
    )
    assert progress.share == pytest.approx(0.4)
    with meter.doing("decode"):
        clock.now += 5
        progress = meter.advance("decode")
    assert progress is not None and (progress.eta, progress.share) == (5, pytest.approx(0.9))


def test_other_stages_do_not_stand_for_a_run_whose_steps_are_unknown() -> None:
    clock = Hand()
    meter = Meter(clock=clock)
    meter.expect("encode", 1)
    meter.expect("denoise", 30, 18)  # resumed
    meter.usual = {"finish": 0.1}
    with meter.doing("encode"):
        clock.now += 1
    meter.count("encode")
    etas = []
    for _ in range(2):
        with meter.doing("denoise"):
            clock.now += 10
        progress = meter.advance("denoise")
        assert progress is not None
        etas.append(progress.eta)
    assert etas == [None, 100]


def test_a_first_unit_that_warms_up_is_left_out() -> None:
    clock = Hand()
    meter = Meter(clock=clock)
    meter.expect("denoise", 10)
    for seconds in (60, 2, 2, 2):
        with meter.doing("denoise"):
            clock.now += seconds
        progress = meter.advance("denoise")
    assert progress is not None and progress.eta == 12


def test_nested_work_counts_once() -> None:
    clock, told = Hand(), []
    meter = Meter(told.append, clock)
    meter.expect("decode", 3)
    meter.expect("write", 3)

    def decoded() -> Any:
        for number in range(3):
            clock.now += 7
            yield number

    for _ in meter.over("write", meter.over("decode", decoded()), counted=False):
        with meter.doing("write"):
            clock.now += 1
        meter.count("write")
    assert meter.measured() == {"decode": 7, "write": 1}
    assert told[-1].eta == 0


def test_units_done_by_an_earlier_run_need_no_time() -> None:
    clock = Hand()
    meter = Meter(clock=clock)
    meter.expect("denoise", 50, 40)
    for _ in range(2):
        with meter.doing("denoise"):
            clock.now += 2
        progress = meter.advance("denoise")
    assert progress is not None and (progress.done, progress.eta, progress.share) == (42, 16, pytest.approx(0.84))


def test_wording() -> None:
    assert sentence(Progress("denoise", 3, 50, 0.1, 94.0)) == "step 3 of 50, about 94 s left"
    assert sentence(Progress("decode", 3, 13, 0.5, 12.3)) == "decoding 3 of 13, about 12 s left"
    assert sentence(Progress("write", 49, 49, 0.9, 0.2)) == "encoding the video 49 of 49, less than 1 s left"
    assert sentence(Progress("enlarge", 1, 49, 0.0, None)) == "enlarging 1 of 49"
    assert time_left(600) == "about 10 min left"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return new_engine()


def test_every_stage_is_counted(engine: Engine) -> None:
    told = Told().run(engine, ask(num_frames=17), "5b")
    check(told)
    assert {one.stage for one in told.all} - {"finish"} == {"denoise", "decode", "write"}
    assert told.of("denoise")[-1].total == 3 and told.of("write")[-1].total == 17
    assert told.of("decode")[-1].total == 2, "five latent frames: a group of three, then a pair"
    last = told.of("denoise")[-1]
    assert last.eta and last.eta > 0 and last.share < 0.95, "other stages follow sampling"


def test_frames_that_are_enlarged_and_interpolated_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine()
    net = torch.nn.Upsample(scale_factor=2)
    upscaler = Upscaler(net, 2, engine.device, weights=1000)
    monkeypatch.setattr(engine.networks, "upscaler", lambda plan: upscaler)
    told = Told().run(engine, ask(num_frames=9, width=128, height=96, interpolate_fps=16), "5b")
    check(told)
    assert told.of("enlarge")[-1].total == 9
    assert told.of("interpolate")[-1].total == told.of("write")[-1].total == finished(told.events).frames == 18


def test_clips_that_continue_each_other_are_one_whole(engine: Engine) -> None:
    told = Told().run(engine, ask(**LONG), "5b")
    check(told)
    clips = told.of("denoise")[-1].total // 2
    assert [one.done for one in told.of("denoise")] == list(range(1, 2 * clips + 1))
    first = told.of("denoise")[1]
    assert first.eta and first.eta > 2 * (clips - 1) * 0.001, "the estimate includes the other clips"
    assert first.share < 0.6


def test_a_run_that_resumes_counts_from_there(engine: Engine) -> None:
    events = list(engine.run(ask(), "5b", saver=Always()))
    for point in snapshots_of(events):
        told = Told().run(engine, ask(), "5b", resume=point.data)
        check(told)
        assert [one.done for one in told.of("denoise")] == list(range(point.step + 1, 4))


def test_frames_begun_again_after_memory_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine()
    vae = engine.loader.load(engine.models["5b"], "5b").vae
    Bomb(vae.decoder, {2}, monkeypatch)
    told = Told().run(engine, ask(num_frames=17), "5b")
    shares = [one.share for one in told.all]
    assert shares == sorted(shares)
    assert told.of("write")[-1].done == 17 and finished(told.events).frames == 17


def test_a_second_run_knows_how_long_it_takes_from_the_first_step(engine: Engine) -> None:
    request = ask(num_frames=17, width=64, height=48)
    first = Told().run(engine, request, "5b")
    second = Told().run(engine, request, "5b")
    assert engine._speeds.usual("5b", {"decode": 1.0, "write": 1.0, "denoise": 1.0}).keys() == {
        "decode",
        "write",
        "denoise",
    }
    assert first.all[1].eta and second.all[0].eta


@pytest.mark.parametrize(("frames", "tiling"), [(1, False), (3, False), (5, False), (5, True), (4, True)])
def test_calls_of_the_decoder_are_foreseen(frames: int, tiling: bool) -> None:
    vae = new_engine().loader.load(checkpoints.cached("5b"), "5b").vae
    if tiling:
        vae.enable_tiling(tile_sample_min_height=32, tile_sample_min_width=32)
    try:
        latents, calls = torch.zeros(1, frames, vae.config.latent_channels, 6, 8), []
        with watched(vae, lambda: calls.append(1)):
            list(decode(vae, latents))
        assert len(calls) == decoder_calls(vae, frames, 6, 8)
        assert (len(calls) > 2) == tiling
    finally:
        vae.disable_tiling()
    before = len(calls)
    list(decode(vae, latents))
    assert len(calls) == before, "calls are no longer counted"


@pytest.mark.parametrize(
    "more",
    [
        {"num_frames": 9},
        {"num_frames": 60},
        {"num_frames": 17, "interpolate_fps": 24},
        {"num_frames": 17, "interpolate_fps": 30},
        {"num_frames": None, "duration": 1.5, "interpolate_fps": 24},
        {"num_frames": None, "duration": 1.0, "interpolate_fps": 60},
        {"num_frames": None, "duration": 2.0},
    ],
)
def test_frames_are_counted_as_they_are_made(engine: Engine, more: dict[str, Any]) -> None:
    info = engine.loader.load(engine.models["5b"], "5b").info
    plan = resolve(ask(**more), info, source=None)
    net = engine.networks.interpolator(plan)
    made: dict[str, int] = {}

    def over(stage: str, items: Any) -> Any:
        for item in items:
            made[stage] = made.get(stage, 0) + 1
            yield item

    size = (plan.sampling.total_frames, 3, plan.sampling.model_height, plan.sampling.model_width)
    frames = torch.randint(0, 255, size, dtype=torch.uint8)
    upscaler = lambda frame: frame.repeat_interleave(2, 1).repeat_interleave(2, 2)  # noqa: E731
    made["write"] = sum(len(one) for one in finish([frames], plan, net, upscaler, over))
    assert made == frame_counts(plan, net is not None, True)


def test_on_the_demo_the_time_left_is_near_the_truth() -> None:
    """For an engine's first video, the decoding time is estimated from the architecture alone."""
    environment.prepare()
    folder = catalog.find("demo", Path("nowhere"))
    assert folder is not None
    engine = Engine(EngineSpec({"demo": folder}, "cpu"))
    at: list[tuple[float, Progress]] = []
    request = ask(num_frames=17, num_inference_steps=4)
    for event in engine.run(request, "demo", progress=lambda p: at.append((time.monotonic(), p))):
        if isinstance(event, Progress):
            at.append((time.monotonic(), event))
    end = time.monotonic()
    sampled, last_step = [(when, one) for when, one in at if one.stage == "denoise"][-1]
    really = end - sampled
    assert last_step.eta is not None and really / 10 < last_step.eta < really * 20, (last_step, really)
    decoding = [one.eta for _, one in at if one.stage == "decode"]
    assert len(decoding) == 2 and decoding[0] and decoding[1] is not None and 0 <= decoding[1] < decoding[0]


def test_a_file_that_is_encoded_at_its_end_is_counted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GIF has one palette for the whole clip, so encoding starts after the last frame."""
    lefts = iter([17, 17, 12, 12, 3, 0])

    def slowly(writer: VideoWriter) -> None:
        for left in lefts:
            writer._closing(left)
        whole(writer)

    whole = VideoWriter._encode_the_rest
    monkeypatch.setattr(VideoWriter, "_encode_the_rest", slowly)
    monkeypatch.setattr(progress, "REPORT_EVERY", 0)
    told = Told().run(engine, ask(num_frames=17, output_format="gif"), "5b")
    check(told)
    assert [(one.done, one.total) for one in told.of("finish")][:2] == [(13, 25), (22, 25)], (
        "computing the palette counts as half the frames"
    )
    assert all(one.eta for one in told.of("finish")[:-1])
    assert finished(told.events).frames == 17


def test_a_gif_takes_longer_than_an_mp4(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any measurement, the formats' estimates differ. A measurement of one format is not used for another
    format."""
    engine = Engine(EngineSpec(engine.models, "cpu"))
    estimates: list[dict[str, float]] = []
    prepare = effort.prepare

    def noting(run: Any, speeds: effort.Speeds) -> None:
        prepare(run, speeds)
        estimates.append(dict(run.meter.usual))

    monkeypatch.setattr(effort, "prepare", noting)
    for kind in ("mp4", "gif"):
        finished(engine.run(ask(width=256, height=256, output_format=kind), "5b"))
    mp4, gif = estimates
    pixels = 256 * 256
    assert (gif["write"], gif["finish"]) == (pixels / effort.TAKEN["gif"], pixels / effort.ENCODED["gif"])
    assert gif["finish"] > 10 * mp4["finish"]
    known = engine._speeds
    assert known.usual("5b", {"finish": 1.0}, "gif") != known.usual("5b", {"finish": 1.0}, "mp4")
    assert known.usual("5b", {"finish": 1.0}, "webm") == {}


def test_what_closes_a_file_may_end_it(tmp_path: Path) -> None:
    """If the callback raises an exception (on a cancel, for example), no file remains and ffmpeg ends."""

    def closing(left: int) -> None:
        raise InterruptedError

    path = tmp_path / "video.gif"
    with pytest.raises(InterruptedError), VideoWriter(path, 64, 48, 8, "gif", {}, closing) as writer:
        writer.write(np.zeros((4, 48, 64, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
    assert writer._process.poll() is not None
