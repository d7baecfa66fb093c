"""Tests how the engine chooses a memory profile, and which profile it falls back to when memory runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.engine.loader import Loader
from pipelines.engine.memory import LADDER, Budget, Placement, Rung, Weights, choose, need
from pipelines.errors import GenerationError
from pipelines.events import Event, Log
from pipelines.frames.decode import decode
from pipelines.resolve import resolve
from tests.rigs import checkpoints
from tests.rigs.engines import Bomb, ask, finished, new_engine
from tests.rigs.plans import model as published
from weights.catalog import find

GIB = 2**30


def test_out_of_memory_while_sampling_climbs_and_keeps_the_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = finished(new_engine().run(ask(scheduler="dpm"), "5b"))
    engine = new_engine()
    transformer = engine.loader.load(engine.models["5b"], "5b").transformer
    with monkeypatch.context() as patch:
        bomb = Bomb(transformer, {2}, patch)
        events = list(engine.run(ask(scheduler="dpm"), "5b"))
        assert bomb.calls == 4, "three steps and the failed one: no step is repeated"
    result = finished(events)
    warnings = [e.message for e in events if isinstance(e, Log) and e.level == "WARN"]
    assert warnings == ["out of memory while step 2 of 3: continuing with model"]
    assert result.video == plain.video
    assert result.memory.startswith("model: lowered after running out of memory")
    again = finished(engine.run(ask(scheduler="dpm"), "5b"))
    assert again.memory.startswith("model: what this size needed before")
    assert finished(engine.run(ask(num_frames=17), "5b")).memory.startswith("none"), "each size has its own rung"


def test_out_of_memory_while_decoding_does_not_sample_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine()
    model = engine.loader.load(engine.models["5b"], "5b")
    with monkeypatch.context() as patch:
        decoder, transformer = Bomb(model.vae.decoder, {1}, patch), Bomb(model.transformer, set(), patch)
        result = finished(engine.run(ask(), "5b"))
        assert (decoder.calls > 1, transformer.calls) == (True, 3)
    assert result.video == finished(new_engine().run(ask(), "5b")).video


def test_out_of_memory_below_the_last_rung_is_an_error_and_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine()
    transformer = engine.loader.load(engine.models["5b"], "5b").transformer
    with monkeypatch.context() as patch:
        Bomb(transformer.patch_embed, set(range(1, 99)), patch)
        events: list[Event] = []
        with pytest.raises(GenerationError, match="even with sequential") as e:
            events.extend(engine.run(ask(), "5b"))
        assert e.value.code == "out_of_memory"
    engine._memory._needed.clear()
    assert finished(engine.run(ask(), "5b")).video == finished(new_engine().run(ask(), "5b")).video


FIVE_B = Weights(int(8.87 * GIB), int(10.38 * GIB), int(0.4 * GIB))


@pytest.mark.parametrize(
    ("name", "free", "expected"),
    [("cogvideox-5b", 80, Rung("none", False)), ("cogvideox-5b", 24, Rung("model", False)),
     ("cogvideox-5b", 16, Rung("model", True)), ("cogvideox-5b", 8, Rung("group", True)),
     ("cogvideox-5b", 4, Rung("sequential", True)), ("cogvideox-1.5-5b", 80, Rung("none", False)),
     ("cogvideox-1.5-5b", 24, Rung("model", True)), ("cogvideox-1.5-5b", 12, Rung("group", True))],
)  # fmt: skip
def test_the_profile_is_chosen_by_what_is_free(name: str, free: int, expected: Rung) -> None:
    plan = resolve(ask(num_frames=None), published(name)).sampling
    rung, why = choose("auto", plan, published(name), FIVE_B, Budget(free * GIB, 64 * GIB))
    assert rung == expected
    assert f"of {free}.0 GiB free" in why


def test_a_host_that_cannot_hold_the_weights_keeps_them_on_the_device() -> None:
    plan = resolve(ask(num_frames=None), published("cogvideox-5b")).sampling
    for free, tiling in ((80, False), (28, True)):
        rung, _ = choose("auto", plan, published("cogvideox-5b"), FIVE_B, Budget(free * GIB, 8 * GIB))
        assert rung == Rung("none", tiling)


def test_the_estimates_agree_with_the_published_peak() -> None:
    """diffusers' documentation states 33 GB for the whole 5B pipeline at 480x720."""
    plan = resolve(ask(num_frames=None), published("cogvideox-5b")).sampling
    assert 33 <= need(LADDER[0], plan, published("cogvideox-5b"), FIVE_B) / GIB <= 37


def test_a_profile_that_is_set_is_kept() -> None:
    plan = resolve(ask(num_frames=None), published("cogvideox-5b")).sampling
    for profile in ("none", "model", "group", "sequential"):
        rung, why = choose(profile, plan, published("cogvideox-5b"), FIVE_B, Budget(80 * GIB, 64 * GIB))
        assert rung.profile == profile
        assert "as set" in why
    rung, why = choose("none", plan, published("cogvideox-5b"), FIVE_B, Budget(8 * GIB, 64 * GIB))
    assert rung.profile == "none"
    assert "may not fit" in why


@pytest.mark.parametrize("memory", ["model", "group", "sequential"])
def test_every_profile_makes_a_video(memory: Any) -> None:
    engine = new_engine(memory=memory)
    assert finished(engine.run(ask(), "5b")).memory.startswith(memory)
    assert finished(engine.run(ask(), "2b")).frames == 9, "the offload hooks also work after switching models"
    assert finished(engine.run(ask(), "5b")).frames == 9


@pytest.mark.parametrize("kind", ["demo", "5b"])
def test_tiles_give_the_same_picture_of_the_same_size(kind: str) -> None:
    """Tiles must keep the frame's size with any VAE. (With the tile size from a small VAE's config, 64x96 became
    70x110.)"""
    folder = find("demo", Path()) if kind == "demo" else checkpoints.cached("5b")
    assert folder is not None
    model = Loader(torch.device("cpu")).load(folder)
    width, height = (192, 128) if kind == "demo" else (96, 96)
    latents = torch.randn(1, 3, 16, height // 8, width // 8, generator=torch.Generator().manual_seed(0))
    placement = Placement(model.modules, torch.device("cpu"))
    placement.apply(LADDER[0])
    whole = torch.cat(list(decode(model.vae, latents)))
    placement.apply(Rung("model", True))
    tiled = torch.cat(list(decode(model.vae, latents)))
    placement.apply(LADDER[0])
    assert tiled.shape == whole.shape == (9, 3, height, width)
    error = (tiled.float() - whole.float()).square().mean()
    assert 0 < error < 0.3 * whole.float().var(), "close to the untiled result, but really tiled"
