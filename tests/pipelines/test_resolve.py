"""Resolving a request into a plan: every change gets a note with its reason; `strict` refuses changes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.models import FAMILIES
from pipelines.plan import Source
from pipelines.ranges import MAX_FRAMES, RANGES, check_ranges
from pipelines.request import GenerationRequest, Lora, RequestError, Task, draw_seed
from pipelines.resolve import resolve
from tests.rigs.plans import CLIP, PICTURE, ask, model, plan


def test_nothing_asked_gives_the_model_card() -> None:
    p = plan()
    s, v = p.sampling, p.video
    assert (v.num_frames, s.model_frames, v.width, v.height, v.fps) == (49, 49, 720, 480, 8)
    assert (s.num_inference_steps, s.guidance_scale, s.use_dynamic_cfg, s.scheduler) == (50, 6.0, True, "dpm")
    assert p.notes == ()
    p = plan("cogvideox-2b")
    assert (p.sampling.scheduler, p.sampling.use_dynamic_cfg) == ("ddim", False)
    p = plan("cogvideox-1.5-5b")
    assert (p.video.num_frames, p.video.width, p.video.height, p.video.fps) == (81, 1360, 768, 16)


@pytest.mark.parametrize(
    ("name", "asked", "made"),
    [
        ("cogvideox-5b", 16, 17),
        ("cogvideox-5b", 25, 25),
        ("cogvideox-5b", 48, 49),
        ("cogvideox-5b", 60, 49),
        ("cogvideox-5b", 81, 49),
        ("cogvideox-5b", 1, 9),
        ("cogvideox-1.5-5b", 81, 81),
        ("cogvideox-1.5-5b", 49, 49),
        ("cogvideox-1.5-5b", 50, 65),
        ("cogvideox-1.5-5b", 200, 161),
    ],
)
def test_any_frame_count_is_delivered_exactly(name: str, asked: int, made: int) -> None:
    p = plan(name, num_frames=asked)
    assert (p.video.num_frames, p.sampling.model_frames) == (asked, made)
    assert bool(p.notes) == (asked != made)
    if asked != made:
        with pytest.raises(RequestError, match="num_frames"):
            plan(name, num_frames=asked, strict=True)


def test_image_to_video_of_the_first_generation_always_makes_a_full_clip() -> None:
    p = plan("cogvideox-5b-i2v", image=PICTURE, num_frames=16)
    assert (p.video.num_frames, p.sampling.model_frames) == (16, 49)


@given(
    name=st.sampled_from([f.name for f in FAMILIES]),
    frames=st.integers(1, MAX_FRAMES),
    width=st.integers(8, 2048).map(lambda n: 2 * n),
    height=st.integers(8, 2048).map(lambda n: 2 * n),
    steps=st.integers(1, 100),
    strength=st.none() | st.floats(0, 1),
)
def test_whatever_is_asked_the_model_is_asked_for_something_it_can_do(
    name: str, frames: int, width: int, height: int, steps: int, strength: float | None
) -> None:
    info = model(name)
    i2v = Task.I2V in info.tasks
    request = ask(num_frames=frames, width=width, height=height, num_inference_steps=steps,
                  image=PICTURE if i2v else None, video=CLIP if not i2v and strength is not None else None,
                  strength=None if i2v else strength)  # fmt: skip
    p = resolve(request, info, source=Source(640, 360, 100, 24.0))
    assert (p.video.num_frames, p.video.width, p.video.height) == (frames, width, height)
    assert (p.sampling.model_frames - 1) % info.family.frames.step == 0
    assert info.family.sizes.accepts(p.sampling.model_width, p.sampling.model_height)
    if p.sampling.task is Task.V2V and p.sampling.strength is not None:
        assert int(steps * p.sampling.strength) >= 1
        assert p.sampling.source_frames is not None
        latents = (p.sampling.source_frames - 1) // 4 + 1
        assert latents % info.latent_patch_frames == 0
        assert p.sampling.source_frames >= min(frames, p.sampling.model_frames)


@pytest.mark.parametrize(
    ("width", "height", "fit", "used"),
    [(1440, 960, "auto", "crop"), (1280, 720, "auto", "crop"), (480, 720, "auto", "pad"), (480, 720, "crop", "crop"),
     (512, 512, "auto", "crop"), (512, 512, "pad", "pad"), (480, 720, "stretch", "stretch")],
)  # fmt: skip
def test_other_sizes_are_fitted_and_said(width: int, height: int, fit: str, used: str) -> None:
    p = plan(width=width, height=height, fit=fit)
    assert (p.video.width, p.video.height, p.video.fit) == (width, height, used)
    assert (p.sampling.model_width, p.sampling.model_height) == (720, 480)
    assert [n.field for n in p.notes] == ["size"]
    assert "720x480" in p.notes[0].reason


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_how_a_picture_is_fitted_counts_at_the_native_size_too(fit: str) -> None:
    p = plan("cogvideox-5b-i2v", source=Source(500, 900), image=PICTURE, fit=fit)
    assert (p.video.width, p.video.height, p.video.fit, p.notes) == (720, 480, fit, ())


def test_one_side_gives_the_other_and_odd_sides_become_even_in_mp4() -> None:
    assert (plan(width=360).video.width, plan(width=360).video.height) == (360, 240)
    p = plan(width=721, height=481)
    assert (p.video.width, p.video.height) == (722, 482)
    assert "even" in p.notes[0].reason
    assert (plan(width=721, height=481, output_format="webm").video.width) == 721


def test_a_portrait_picture_makes_a_portrait_video_where_the_model_can() -> None:
    p = plan("cogvideox-1.5-5b-i2v", source=Source(900, 1600), image=PICTURE)
    assert (p.video.width, p.video.height) == (768, 1360)
    p = plan("cogvideox-5b-i2v", source=Source(900, 1600), image=PICTURE)
    assert (p.video.width, p.video.height) == (720, 480)


@pytest.mark.parametrize(
    ("name", "source", "frames", "given"),
    [
        ("cogvideox-5b", Source(720, 480, 61, 30.0), 17, 17),
        ("cogvideox-5b", Source(720, 480, 300, 30.0), 49, 49),
        ("cogvideox-5b", Source(720, 480, 10, 8.0), 10, 17),
        ("cogvideox-1.5-5b", Source(720, 480, 85, 16.0), 85, 85),
        ("cogvideox-1.5-5b", Source(720, 480, 161, 30.0), 86, 93),
    ],
)
def test_a_source_clip_is_taken_at_the_models_rate(name: str, source: Source, frames: int, given: int) -> None:
    p = plan(name, source=source, video=CLIP)
    assert (p.video.num_frames, p.sampling.source_frames) == (frames, given)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_frames", 0), ("num_frames", 1001), ("width", 8), ("height", 5000), ("fps", 0), ("num_inference_steps", 0),
     ("guidance_scale", -1), ("guidance_scale", math.inf), ("guidance_scale", math.nan), ("seed", -1), ("seed", 2**63),
     ("interpolate_fps", 500), ("duration", 0), ("duration", 121)],
)  # fmt: skip
def test_nonsense_names_the_field_and_the_range(field: str, value: float) -> None:
    with pytest.raises(RequestError, match=rf"^{field}: must be between") as e:
        plan(**{field: value})
    assert e.value.field == field


def test_both_ends_of_each_range_are_possible_and_nothing_beyond() -> None:
    for name, ends in RANGES.items():
        more = {"video": CLIP} if name == "strength" else {}
        for value in ends:
            check_ranges(ask(**{name: value}, **more))
        for value in (ends[0] - 1e-7, ends[1] + (1 if name == "seed" else 1e-7), math.nan):
            with pytest.raises(RequestError) as e:
                check_ranges(ask(**{name: value}, **more))
            shown = str(value) if name == "seed" else e.value.message.rpartition(" ")[2]
            assert e.value.message == f"must be between {ends[0]} and {ends[1]}, got {shown}"
            assert math.isnan(value) or float(shown) == value, (
                "the message must show the given number, not a rounded one"
            )


def test_a_side_that_follows_from_the_other_has_the_same_range() -> None:
    with pytest.raises(
        RequestError, match=r"^height: 4000 makes the width 6000 in this shape; it must be between 16 and"
    ):
        plan(height=4000)
    with pytest.raises(RequestError, match=r"^width: 4000 makes the height 6000 in this shape"):
        plan("cogvideox-1.5-5b-i2v", width=4000, image=PICTURE, source=Source(600, 900))
    assert plan(height=2000).video.width == 3000


@pytest.mark.parametrize("text", ["\ud83d", "a\udce9", "a\0b"])
@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "asked_prompt", "prompt_note"])
def test_text_that_nothing_can_write_is_refused_before_anything_is_loaded(field: str, text: str) -> None:
    with pytest.raises(RequestError, match=f"^{field}: must be plain text: it ") as e:
        plan(**{field: text})
    assert e.value.field == field


def test_other_refusals() -> None:
    with pytest.raises(RequestError, match="prompt"):
        plan(prompt=" \n")
    with pytest.raises(RequestError, match=r"CogVideoX-5B does .*text-to-video.*, not image-to-video"):
        plan(image=PICTURE)
    with pytest.raises(RequestError, match="not both"):
        plan(image=PICTURE, video=CLIP)
    with pytest.raises(RequestError, match="strength"):
        plan(strength=0.5)
    with pytest.raises(RequestError, match="seed"):
        resolve(replace(ask(), seed=None), model("cogvideox-5b"))
    with pytest.raises(RequestError, match="GIF"):
        plan(fps=60, output_format="gif")


def test_truncation_is_counted_and_said() -> None:
    p = resolve(ask(), model("cogvideox-5b"), count_tokens=lambda text: 300)
    assert (p.tokens, p.notes[0].field) == (300, "prompt")
    assert resolve(ask(), model("cogvideox-5b"), count_tokens=lambda text: 226).notes == ()
    with pytest.raises(RequestError, match="prompt"):
        resolve(ask(strict=True), model("cogvideox-5b"), count_tokens=lambda text: 300)


def test_rates() -> None:
    assert (plan(fps=24).video.fps, plan(fps=24).video.interpolate_fps) == (24, None)
    p = plan(interpolate_fps=16, fps=16)
    assert (p.video.fps, p.video.interpolate_fps) == (8, 16)
    assert plan(interpolate_fps=8).video.interpolate_fps is None


@pytest.mark.parametrize(
    ("name", "values", "length", "made", "pace"),
    [
        ("cogvideox-5b", {"duration": 5, "fps": 30}, 150, 41, 8),
        ("cogvideox-5b", {"duration": 5, "fps": 60}, 300, 41, 8),
        ("cogvideox-5b", {"duration": 5, "interpolate_fps": 30}, 150, 41, 8),
        ("cogvideox-5b", {"duration": 5}, 40, 41, 8),
        ("cogvideox-5b", {"duration": 5, "fps": 4}, 20, 41, 8),
        ("cogvideox-5b", {"duration": 10, "fps": 30}, 300, 49, 48 * 30 / 299),
        ("cogvideox-5b", {"duration": 10, "interpolate_fps": 60}, 600, 49, 48 * 60 / 599),
        ("cogvideox-5b-i2v", {"duration": 5, "fps": 30, "image": PICTURE}, 150, 49, 8),
        ("cogvideox-1.5-5b", {"duration": 10, "fps": 30}, 300, 161, 16),
        ("cogvideox-1.5-5b", {"duration": 0.1}, 2, 17, 16),
    ],
)
def test_a_duration_keeps_the_motions_speed_as_far_as_the_model_can(
    name: str, values: dict[str, Any], length: int, made: int, pace: float
) -> None:
    p = plan(name, **values)
    assert (p.video.num_frames, p.sampling.model_frames, p.video.pace) == (length, made, pytest.approx(pace))
    assert (p.video.interpolate_fps or p.video.fps) == values.get(
        "fps", values.get("interpolate_fps", p.sampling.model_fps)
    )
    slowed, repeated = pace < p.sampling.model_fps, "fps" in values
    assert [n.field for n in p.notes] == ["duration"] * slowed + ["fps"] * repeated


@given(
    name=st.sampled_from([f.name for f in FAMILIES]),
    seconds=st.floats(0.1, 16),
    rate=st.integers(1, 60),
    interpolated=st.booleans(),
)
def test_frames_that_are_made_reach_to_the_end_of_a_duration(
    name: str, seconds: float, rate: int, interpolated: bool
) -> None:
    info = model(name)
    picture = PICTURE if Task.I2V in info.tasks else None
    p = resolve(ask(duration=seconds, image=picture, **{"interpolate_fps" if interpolated else "fps": rate}), info)
    assert p.video.pace is not None
    last = (p.video.num_frames - 1) * p.video.pace / rate
    assert last <= p.sampling.model_frames - 1 + 1e-9
    assert p.video.pace <= info.family.fps
    assert p.video.pace == info.family.fps or p.sampling.model_frames == info.family.frames.maximum


def test_a_duration_is_no_number_of_frames() -> None:
    with pytest.raises(RequestError, match="not both"):
        plan(duration=5, num_frames=40)
    with pytest.raises(RequestError, match="3600 frames, at most 1000"):
        plan(duration=60, fps=60)
    with pytest.raises(RequestError, match=r"^fps: 30 is not possible"):
        plan(duration=5, fps=30, strict=True)
    assert plan(duration=5, interpolate_fps=30, strict=True).video.num_frames == 150


def test_guidance_of_one_switches_guidance_off_and_says_what_is_lost() -> None:
    p = plan(guidance_scale=1.0, negative_prompt="blurry")
    assert not p.sampling.use_dynamic_cfg
    assert p.notes[0].field == "negative_prompt"


def test_requests_survive_json() -> None:
    request = ask(image=PICTURE, loras=(Lora("a.safetensors", 0.5),), fit="pad")
    assert GenerationRequest.from_dict(request.to_dict()) == request
    assert 0 <= draw_seed() < 2**32
