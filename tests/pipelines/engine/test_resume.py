"""Snapshots: a run interrupted at any step and resumed by another engine gives a byte-identical file."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from pipelines.engine.snapshot import DIGEST, Saver, Unusable, load
from pipelines.errors import GenerationCancelled, GenerationPaused
from pipelines.events import Event, Finished, Log, Progress, Snapshot, Stage
from pipelines.plan import KEY_VERSION
from pipelines.request import GenerationRequest, Media
from tests.rigs.engines import ask, clip_file, finished, new_engine, picture_file

STEPS = 4


class Always(Saver):
    def due(self) -> bool:
        return True


def snapshots_of(events: list[Event]) -> list[Snapshot]:
    return [event for event in events if isinstance(event, Snapshot)]


def steps_of(events: list[Event]) -> list[int]:
    return [event.done for event in events if isinstance(event, Progress)]


@pytest.fixture
def picture(tmp_path: Path) -> Media:
    return picture_file(tmp_path)


def asked(task: str, picture: Media, tmp_path: Path, **more: Any) -> GenerationRequest:
    given: dict[str, Any] = {"num_inference_steps": STEPS, **more}
    if task == "i2v":
        given["image"] = picture
    if task == "v2v":
        given |= {"video": clip_file(tmp_path, fps=8), "strength": 0.9, "num_inference_steps": 5}
    return ask(**given)


@pytest.mark.parametrize(
    ("kind", "task", "more"),
    [
        ("5b", "t2v", {}),
        ("5b", "t2v", {"scheduler": "dpm"}),
        ("5b", "t2v", {"guidance_scale": 1.0, "use_dynamic_cfg": True}),
        ("5b-i2v", "i2v", {"num_frames": 17}),
        ("1.5-5b", "t2v", {"scheduler": "dpm"}),
        ("1.5-5b-i2v", "i2v", {}),
        ("5b", "v2v", {"scheduler": "dpm"}),
    ],
)
def test_interrupted_after_any_step(kind: str, task: str, more: dict[str, Any], picture: Media, tmp_path: Path) -> None:
    request = asked(task, picture, tmp_path, **more)
    events = list(new_engine().run(request, kind, saver=Always()))
    whole = finished(events)
    saved = snapshots_of(events)
    assert [point.step for point in saved] == steps_of(events) == [1, 2, 3, 4]
    for point in saved:
        rest = list(new_engine().run(request, kind, resume=point.data))
        assert steps_of(rest) == [step for step in range(1, STEPS + 1) if step > point.step]
        result = finished(rest)
        assert (result.video, result.poster, result.manifest) == (whole.video, whole.poster, whole.manifest)


def test_clean_latents_need_neither_prompt_nor_model(picture: Media, tmp_path: Path) -> None:
    """The last snapshot suffices to make the video at another rate, size or format."""
    request = ask()
    last = snapshots_of(list(new_engine().run(request, "5b")))[-1]
    other = replace(request, fps=24, width=96, height=64, output_format="gif")
    rest = list(new_engine().run(other, "5b", resume=last.data))
    assert [event.name for event in rest if isinstance(event, Stage)] == ["load", "decode", "finish"]
    assert finished(rest).video == finished(new_engine().run(other, "5b")).video


def test_what_does_not_fit_is_passed_over(picture: Media, tmp_path: Path) -> None:
    request = asked("i2v", picture, tmp_path)
    last = snapshots_of(list(new_engine().run(request, "5b-i2v")))[-1]
    turned = tmp_path / "turned.png"
    Image.open(picture.path).rotate(180).save(turned)
    for other in (
        replace(request, seed=6),
        replace(request, prompt="a blue circle"),
        replace(request, num_inference_steps=5),
        replace(request, scheduler="dpm"),
        replace(request, num_frames=17),
        replace(request, image=Media.of(turned)),
    ):
        events = list(new_engine().run(other, "5b-i2v", resume=last.data))
        assert any(isinstance(e, Log) and "another request" in e.message for e in events)
        assert finished(events).video == finished(new_engine().run(other, "5b-i2v")).video


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "junk"])
def test_torn_ones_are_noticed(harm: str) -> None:
    request = ask(num_inference_steps=2)
    last = snapshots_of(events := list(new_engine().run(request, "5b")))[-1]
    torn = {
        "cut": last.data[:-1],
        "flip": last.data[:-10] + bytes([last.data[-10] ^ 1]) + last.data[-9:],
        "empty": b"",
        "junk": b"\0" * 1000,
    }[harm]
    with pytest.raises(Unusable):
        load(torn)
    again = list(new_engine().run(request, "5b", resume=torn))
    assert finished(again).video == finished(events).video and steps_of(again) == [1, 2]


@pytest.mark.parametrize("version", [None, str(KEY_VERSION - 1)])
def test_a_snapshot_of_another_version_is_refused(version: str | None) -> None:
    """The snapshot is intact and has the right key, but another version may have given its fields other meanings."""
    request = ask(num_inference_steps=2)
    last = snapshots_of(events := list(new_engine().run(request, "5b")))[-1]
    body = last.data[DIGEST:]
    size = int.from_bytes(body[:8], "little")
    metadata = json.loads(body[8 : 8 + size])["__metadata__"]
    assert metadata.pop("version") == str(KEY_VERSION)
    body = save_tensors(load_tensors(body), {**metadata, **({} if version is None else {"version": version})})
    older = hashlib.sha256(body).digest() + body
    with pytest.raises(Unusable, match="another version"):
        load(older)
    again = list(new_engine().run(request, "5b", resume=older))
    assert any(isinstance(e, Log) and e.level == "WARN" and "another version" in e.message for e in again)
    assert finished(again).video == finished(events).video and steps_of(again) == [1, 2]


def test_saving_takes_its_share_and_no_more() -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    clock = Clock()
    saver = Saver(share=0.01, every=1.0, clock=clock)
    saved_at = []
    while clock.now < 300:
        clock.now += 0.5  # a step
        if saver.due():
            begin, clock.now = clock.now, clock.now + 0.2  # a slow disk
            saver.saved(begin)
            saved_at.append(begin)
    assert saved_at[0] == 1.0, "the first snapshot comes early"
    gaps = [b - a for a, b in itertools.pairwise(saved_at)]
    assert len(saved_at) >= 10 and min(gaps) >= 20, "saving takes 1 %: 0.2 s of 20 s"


def test_cancelled_runs_leave_what_they_have() -> None:
    """A cancelled run has already yielded its latest snapshot, from which it can be resumed."""
    seen: list[Event] = []

    def enough() -> bool:
        return len(snapshots_of(seen)) == 2

    with pytest.raises(GenerationCancelled):
        for event in new_engine().run(ask(num_inference_steps=STEPS), "5b", enough, saver=Always()):
            seen.append(event)
    last = snapshots_of(seen)[-1]
    assert last.step == 2 and not any(isinstance(e, Finished) for e in seen)


def test_a_paused_run_saves_first() -> None:
    request, seen = ask(num_inference_steps=STEPS), []
    whole = finished(new_engine().run(request, "5b"))
    with pytest.raises(GenerationPaused):
        for event in new_engine().run(request, "5b", paused=lambda: steps_of(seen) == [1, 2]):
            seen.append(event)
    saved = snapshots_of(seen)[-1]
    assert saved.step == 2
    assert finished(new_engine().run(request, "5b", resume=saved.data)).video == whole.video


def test_a_cancel_is_heeded_within_a_block() -> None:
    """The interrupted step has no side effects: after the interruption, the same engine makes the same video as
    before."""
    engine = new_engine()
    whole = finished(engine.run(ask(), "5b"))
    blocks = engine.loader.load(engine.models["5b"], "5b").transformer.transformer_blocks
    begun: list[int] = []
    hooks = [
        block.register_forward_pre_hook(lambda *_, n=n: begun.append(n))  # type: ignore[misc]
        for n, block in enumerate(blocks)
    ]
    with pytest.raises(GenerationCancelled):
        list(engine.run(ask(), "5b", lambda: len(begun) > len(blocks)))
    for hook in hooks:
        hook.remove()
    assert len(blocks) > 1 and begun == [*range(len(blocks)), 0], "the run stops after the current block"
    assert finished(engine.run(ask(), "5b")).video == whole.video
