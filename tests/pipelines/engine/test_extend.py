"""Tests videos that are longer than the model's maximum: their clips, the joints, and resuming after any step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.engine.snapshot import Saver, load
from pipelines.errors import GenerationCancelled, GenerationPaused
from pipelines.events import Event, Log, Progress, Snapshot
from pipelines.extend import further_lengths
from pipelines.frames.stitch import MOST, clip_frames, matching
from pipelines.models import FAMILIES, FrameRule
from pipelines.plan import Plan
from pipelines.ranges import MAX_FRAMES
from pipelines.request import GenerationRequest, Lora, Media, RequestError, Task
from pipelines.resolve import resolve
from tests.rigs.engines import Bomb, ask, finished, frames_of, new_engine, picture_file
from tests.rigs.loras import draw, write
from tests.rigs.plans import CLIP, PICTURE, model
from tests.rigs.plans import ask as asked

STEPS = 2
LONG = {"extend": True, "num_frames": 40, "num_inference_steps": STEPS}  # the tiny checkpoints make at most 17 frames


class Always(Saver):
    def due(self) -> bool:
        return True


def plan(name: str = "cogvideox-5b", *others: str, **values: Any) -> Plan:
    return resolve(asked(extend=True, **values), model(name), others=[model(one) for one in others])


@pytest.mark.parametrize(
    ("names", "values", "extension"),
    [
        (("cogvideox-5b", "cogvideox-5b-i2v"), {"num_frames": 49}, ()),
        (("cogvideox-5b", "cogvideox-5b-i2v"), {"num_frames": 50}, (49,)),
        (("cogvideox-5b", "cogvideox-1.5-5b-i2v", "cogvideox-5b-i2v"), {"num_frames": 97}, (49,)),
        (("cogvideox-5b", "cogvideox-5b-i2v"), {"num_frames": 98}, (49, 49)),
        (("cogvideox-5b", "cogvideox-5b-i2v"), {"duration": 10}, (49,)),
        (("cogvideox-5b", "cogvideox-5b-i2v"), {"duration": 30, "fps": 30}, (49, 49, 49, 49)),
        (("cogvideox-5b", "cogvideox-5b-i2v"), {"duration": 10, "interpolate_fps": 60}, (49,)),
        (("cogvideox-5b-i2v",), {"num_frames": 97, "image": PICTURE}, (49,)),
        (("cogvideox-1.5-5b", "cogvideox-1.5-5b-i2v"), {"duration": 15}, (81,)),
        (("cogvideox-1.5-5b", "cogvideox-1.5-5b-i2v"), {"num_frames": 162}, (17,)),
    ],
)
def test_as_many_clips_as_it_takes(names: tuple[str, ...], values: dict[str, Any], extension: tuple[int, ...]) -> None:
    # the request asks for an extension, so strict mode accepts it
    p = plan(*names, strict="fps" not in values, **values)
    by = p.sampling.extender
    assert (p.sampling.extension, by and by.model) == (extension, names[-1] if extension else None)
    assert [n.field for n in p.notes] == ["fps"] * ("fps" in values) + ["extend"] * bool(extension)
    assert p.video.pace in (None, p.sampling.model_fps), "motion keeps the model's own speed"
    assert p.to_dict()["extension"] == list(extension)


@given(name=st.sampled_from([f.name for f in FAMILIES]), frames=st.integers(1, MAX_FRAMES), seconds=st.floats(0.1, 120))
def test_there_are_frames_enough(name: str, frames: int, seconds: float) -> None:
    info, others = model(name), [model(f.name) for f in FAMILIES]
    image = PICTURE if Task.I2V in info.tasks else None
    for length in ({"num_frames": frames}, {"duration": seconds, "fps": 8}):
        p = resolve(asked(extend=True, image=image, **length), info, others=others)
        shown = (
            p.video.num_frames
            if p.video.pace is None
            else int((p.video.num_frames - 1) * p.video.pace / p.video.fps) + 1
        )
        longest = max((p.sampling.model_frames, *p.sampling.extension))
        assert shown <= p.sampling.total_frames <= shown + max(longest, 49) and longest <= info.family.frames.maximum


@pytest.mark.parametrize(
    ("missing", "lengths"),
    [(1, (9,)), (48, (49,)), (49, (33, 25)), (51, (33, 25)), (96, (49, 49)), (104, (41, 33, 33))],
)
def test_no_clip_is_much_shorter_than_it_has_to_be(missing: int, lengths: tuple[int, ...]) -> None:
    """The clips of a video have similar lengths (33 and 25 frames, for example, and not 49 and 9)."""
    assert further_lengths(missing, FrameRule(step=8, minimum=9, maximum=49, default=49)) == lengths


def test_what_cannot_be_extended() -> None:
    with pytest.raises(RequestError, match=r"^extend: .*an image-to-video checkpoint.*none is served"):
        plan(num_frames=50)
    with pytest.raises(RequestError, match=r"720x480 at 8 frames a second; CogVideoX1.5-5B-I2V does not"):
        plan("cogvideox-5b", "cogvideox-1.5-5b-i2v", num_frames=50)
    with pytest.raises(RequestError, match=r"^extend: a clip is remade up to CogVideoX-5B's 49"):
        plan("cogvideox-5b", "cogvideox-5b-i2v", num_frames=50, video=CLIP)
    with pytest.raises(RequestError, match=r"^duration: .* at most 1000"):
        plan("cogvideox-5b", "cogvideox-5b-i2v", duration=120, fps=60)
    p = resolve(asked(num_frames=98), model("cogvideox-5b"), others=[model("cogvideox-5b-i2v")])
    assert p.sampling.extension == () and "repeated" in str(p.notes[0]), "extension was not requested"


def test_the_joint_is_shown_once_and_colours_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    scene = torch.randint(60, 160, (17, 3, 24, 32), generator=generator, dtype=torch.uint8)
    brighter = (scene.float() * 1.1 + 12).round().to(torch.uint8)

    def decode(vae: Any, frames: torch.Tensor) -> Iterator[torch.Tensor]:
        yield from (frames[:9], frames[9:])

    monkeypatch.setattr("pipelines.frames.stitch.decode", decode)
    first = torch.cat(list(clip_frames(None, scene, None)))
    assert torch.equal(first, scene)
    again = torch.cat([scene[-1:], brighter[1:]])
    plain = torch.cat(list(clip_frames(None, again, scene[-1])))
    assert torch.equal(plain, brighter[1:]), "a clip that begins with the right colours is not changed"
    shifted = torch.cat([(scene[-1:].float() * 1.1 + 12).round().to(torch.uint8), brighter[1:]])
    mended = torch.cat(list(clip_frames(None, shifted, scene[-1])))
    assert mended.shape == (16, 3, 24, 32)
    assert (mended.float() - scene[1:].float()).abs().max() <= 1.5


def test_colours_are_never_torn() -> None:
    flat, contrast = torch.full((3, 8, 8), 90, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)
    contrast[..., ::2] = 255
    assert torch.equal(matching(flat, contrast)(flat).float().round(), torch.full((3, 8, 8), 128.0))
    faint = flat.clone()
    faint[..., ::2] += 8
    stretched = matching(faint, contrast)(faint).float()
    assert stretched.max() - stretched.min() == pytest.approx(8 * MOST, abs=1.1)


def points(events: list[Event]) -> list[Snapshot]:
    return [event for event in events if isinstance(event, Snapshot)]


def image_of(frame: torch.Tensor, path: Path) -> Media:
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(path)
    return Media.of(path)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        pytest.param("5b", {}, marks=pytest.mark.slow),
        ("2b", {}),
        pytest.param("5b-i2v", {"image": True}, marks=pytest.mark.slow),
        pytest.param("1.5-5b", {"num_frames": 20, "width": 64, "height": 64}, marks=pytest.mark.slow),
    ],
)
def test_extended_and_interrupted_after_any_step(kind: str, values: dict[str, Any], tmp_path: Path) -> None:
    """After the 2B's first clip, another checkpoint generates the further clips; the two checkpoints' VAEs differ."""
    if "image" in values:
        values = {"image": picture_file(tmp_path)}
    request = ask(**{**LONG, **values})
    events = list(new_engine().run(request, kind, saver=Always()))
    whole = finished(events)
    clips = 2 if kind == "1.5-5b" else 3
    assert [e.done for e in events if isinstance(e, Progress)] == list(range(1, clips * STEPS + 1))
    assert {e.total for e in events if isinstance(e, Progress)} == {clips * STEPS}
    assert (whole.frames, len(frames_of(whole, tmp_path))) == (request.num_frames, request.num_frames)
    assert any("clips of" in note for note in whole.manifest["notes"])
    assert ("extender" in whole.manifest) == (kind != "5b-i2v")
    for point in points(events):
        rest = list(new_engine().run(request, kind, resume=point.data))
        assert [e.done for e in rest if isinstance(e, Progress)] == list(range(point.step + 1, clips * STEPS + 1))
        assert any(isinstance(e, Log) and f"resumed after step {point.step} of" in e.message for e in rest)
        result = finished(rest)
        assert (result.video, result.manifest) == (whole.video, whole.manifest)


def test_a_further_clip_is_made_from_the_last_frame(tmp_path: Path) -> None:
    engine, request = new_engine(), ask(**{**LONG, "num_frames": 33, "image": picture_file(tmp_path)})
    last = load(points(list(engine.run(request, "5b-i2v")))[-1].data)
    vae = engine.loader.load(engine.models["5b-i2v"], "5b-i2v").vae
    joint = torch.cat(list(clip_frames(vae, last.finished[0], None)))[-1]
    alone = replace(request, image=image_of(joint, tmp_path / "j.png"), extend=False, num_frames=17, seed=6)
    same = load(points(list(engine.run(alone, "5b-i2v")))[-1].data)
    assert torch.equal(same.sampling.latents, last.sampling.latents)
    first = load(points(list(engine.run(replace(request, extend=False, num_frames=17), "5b-i2v")))[-1].data)
    assert torch.equal(first.sampling.latents, last.finished[0])


def test_a_lora_acts_on_every_clip_or_is_refused_before_the_first(tmp_path: Path) -> None:
    """Another checkpoint generates the further clips, so a LoRA must fit both checkpoints."""
    engine, request = new_engine(), ask(**LONG)
    first = engine.loader.load(engine.models["5b"], "5b")
    style = Lora(str(write(tmp_path / "style.safetensors", draw(first.transformer))), 2.0)
    events = list(engine.run(replace(request, loras=(style,)), "5b", saver=Always()))
    assert sum(isinstance(e, Log) and e.message.startswith("lora style") for e in events) == 3
    last = load(points(events)[-1].data)
    joint = torch.cat(list(clip_frames(first.vae, last.finished[0], None)))[-1]
    second = ask(num_frames=17, num_inference_steps=STEPS, image=image_of(joint, tmp_path / "j.png"), seed=6)
    alone, without = (
        load(points(list(engine.run(replace(second, loras=loras), "5b-i2v")))[-1].data).sampling.latents
        for loras in ((style,), ())
    )
    assert torch.equal(alone, last.finished[1]) and not torch.equal(without, last.finished[1])
    # in this layer, image-to-video checkpoints have twice as many input channels as text-to-video checkpoints
    first_only = draw(first.transformer, ["patch_embed.proj"])
    narrow = Lora(str(write(tmp_path / "narrow.safetensors", first_only)))
    seen: list[Event] = []
    with pytest.raises(RequestError, match=r"^loras: narrow\.safetensors: .*; 5b-i2v makes the further clips$"):
        seen.extend(engine.run(replace(request, loras=(narrow,)), "5b"))
    assert not any(isinstance(e, Progress) for e in seen)
    finished(engine.run(replace(request, loras=(narrow,), num_frames=17), "5b"))


def test_what_was_saved_of_another_video_is_not_used(tmp_path: Path) -> None:
    request = ask(**LONG)
    saved = next(point for point in points(list(new_engine().run(request, "5b", saver=Always()))) if point.step == 4)
    for other in (replace(request, seed=6), replace(request, prompt="a blue circle")):
        events = list(new_engine().run(other, "5b", resume=saved.data))
        assert any(isinstance(e, Log) and "another request" in e.message for e in events)
        assert finished(events).video == finished(new_engine().run(other, "5b")).video
    longer = replace(request, num_frames=49)
    events = list(new_engine().run(longer, "5b", resume=saved.data))
    assert [e.done for e in events if isinstance(e, Progress)] == [5, 6], "shared clips are not generated again"
    assert finished(events).video == finished(new_engine().run(longer, "5b")).video


def test_paused_and_cancelled_between_clips() -> None:
    request, seen = ask(**LONG), []
    whole = finished(new_engine().run(request, "5b"))

    def three() -> bool:
        return sum(isinstance(e, Progress) for e in seen) == 3

    with pytest.raises(GenerationPaused):
        for event in new_engine().run(request, "5b", paused=three):
            seen.append(event)
    last = points(seen)[-1]
    assert last.step == 3
    assert finished(new_engine().run(request, "5b", resume=last.data)).video == whole.video
    engine = new_engine()
    seen.clear()
    with pytest.raises(GenerationCancelled):
        for event in engine.run(request, "5b", three):
            seen.append(event)
    assert finished(engine.run(request, "5b")).video == whole.video, "the engine still works"


def test_memory_that_runs_out_in_a_further_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    request, engine = ask(**LONG), new_engine()
    whole = finished(engine.run(request, "5b"))
    transformer = engine.loader.load(engine.models["5b-i2v"], "5b-i2v").transformer
    bomb = Bomb(transformer, {2}, monkeypatch)
    result = finished(events := list(engine.run(request, "5b")))
    assert bomb.calls > 2 and result.video == whole.video
    assert any(isinstance(e, Log) and "step 2 of 2: continuing with" in e.message for e in events), "step of this clip"


def test_the_request_says_so() -> None:
    assert GenerationRequest.from_dict({"prompt": "a"}).extend is None
    assert GenerationRequest.from_dict(ask(**LONG).to_dict()).extend is True
