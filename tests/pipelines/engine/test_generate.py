"""Tests the whole engine on tiny checkpoints: exact lengths and sizes, seeds, memory, cancelling and bad output."""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines.engine.generate import Engine, pick_device
from pipelines.engine_port import EngineSpec
from pipelines.errors import GenerationCancelled, GenerationError
from pipelines.events import Event, Log, Progress, Stage, Started
from pipelines.request import GenerationRequest, Lora, Media, RequestError
from pipelines.resolve import resolve
from pipelines.video import read_manifest
from tests.pipelines.frames.test_rife import state_dict
from tests.rigs import checkpoints
from tests.rigs.engines import Bomb, ask, clip_file, finished, frames_of, new_engine, picture_file
from weights import interpolation


@pytest.fixture(scope="module")
def engine() -> Engine:
    return new_engine()


def test_says_what_happens_in_order(engine: Engine) -> None:
    events = list(engine.run(ask(), "5b"))
    stages = [e.name for e in events if isinstance(e, Stage)]
    assert stages == ["load", "encode", "denoise", "decode", "finish"]
    steps = [e for e in events if isinstance(e, Progress)]
    assert [(s.done, s.total) for s in steps] == [(1, 3), (2, 3), (3, 3)]
    assert steps[-1].eta and steps[-1].eta > 0, "decoding still takes time"
    assert steps[1].eta and steps[1].eta > 0
    started = next(e for e in events if isinstance(e, Started))
    assert started.plan["seed"] == 5
    assert started.plan["tokens"] > 1
    result = finished(events)
    assert set(result.timings) == {"load", "encode", "denoise", "decode"}
    assert "none" in result.memory
    assert Image.open(io.BytesIO(result.poster)).size == (64, 48)


@pytest.mark.parametrize("count", [1, 9, 16, 17, 25, 60])
def test_any_count_of_frames_is_in_the_file(engine: Engine, count: int, tmp_path: Path) -> None:
    result = finished(engine.run(ask(num_frames=count, num_inference_steps=1), "5b"))
    frames = frames_of(result, tmp_path)
    assert (result.frames, len(frames)) == (count, count)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (720, 480), (50, 90), (100, 38), (33, 47)])
def test_any_size_is_in_the_file(engine: Engine, width: int, height: int, tmp_path: Path) -> None:
    kind: Any = "webm" if width % 2 else "mp4"
    result = finished(engine.run(ask(width=width, height=height, num_inference_steps=1, output_format=kind), "5b"))
    assert (result.width, result.height) == (width, height)
    assert frames_of(result, tmp_path).shape == (9, height, width, 3)


@pytest.mark.parametrize("output_format", ["mp4", "gif", "webm"])
def test_the_same_request_gives_the_same_bytes(engine: Engine, output_format: Any) -> None:
    request = ask(output_format=output_format, num_inference_steps=2)
    first, second = (finished(engine.run(request, "5b")) for _ in range(2))
    assert first.video == second.video
    assert first.poster == second.poster
    other = finished(engine.run(replace(request, seed=6), "5b"))
    assert other.video != first.video


def test_a_fresh_engine_gives_the_same_bytes_too(engine: Engine) -> None:
    finished(engine.run(ask(seed=9), "2b"))  # earlier runs must not change the result
    first = finished(engine.run(ask(), "5b"))
    assert finished(new_engine().run(ask(), "5b")).video == first.video


def test_prompt_guidance_and_negative_prompt_matter(engine: Engine) -> None:
    base = finished(engine.run(ask(), "5b")).video
    for change in ({"prompt": "a blue square"}, {"guidance_scale": 1.0}, {"negative_prompt": "a red star"},
                   {"num_inference_steps": 4}, {"scheduler": "dpm"}):  # fmt: skip
        request = ask(**change)
        if "scheduler" in change:
            assert resolve(ask(), engine.loader.load(engine.models["5b"], "5b").info).sampling.scheduler == "ddim"
        assert finished(engine.run(request, "5b")).video != base, change


def test_the_manifest_inside_makes_the_video_again(engine: Engine, tmp_path: Path) -> None:
    result = finished(engine.run(ask(width=96, height=64), "5b"))
    path = tmp_path / "a.mp4"
    path.write_bytes(result.video)
    manifest = read_manifest(path)
    assert manifest == result.manifest
    again = GenerationRequest.from_dict(manifest["request"])
    assert finished(engine.run(again, manifest["model"]["name"])).video == result.video
    assert manifest["versions"]["diffusers"]
    assert not any("/" in str(v) for v in (manifest["request"]["image"], manifest["request"]["video"]))


def test_image_to_video_uses_the_picture(engine: Engine, tmp_path: Path) -> None:
    picture = picture_file(tmp_path)
    one = finished(engine.run(ask(image=picture, num_frames=17), "5b-i2v"))
    flipped = tmp_path / "flipped.png"
    Image.open(picture.path).rotate(180).save(flipped)
    other = finished(engine.run(ask(image=Media.of(flipped), num_frames=17), "5b-i2v"))
    assert one.video != other.video
    assert one.manifest["request"]["image"] == {"sha256": picture.sha256}


@pytest.mark.parametrize("kind", ["5b", "1.5-5b"])
def test_video_to_video_keeps_the_length_and_at_low_strength_the_picture(
    engine: Engine, kind: str, tmp_path: Path
) -> None:
    clip = clip_file(tmp_path, frames=21, fps=16 if kind.startswith("1.5") else 8)
    request = ask(video=clip, num_frames=None, strength=0.2, num_inference_steps=5, width=64, height=48)
    result = finished(engine.run(request, kind))
    assert result.frames == 17, "21 frames exceed this tiny model's maximum"
    remade = finished(engine.run(replace(request, strength=1.0), kind))
    assert remade.video != result.video


def test_a_clip_too_short_for_the_model_is_filled_and_trimmed(engine: Engine, tmp_path: Path) -> None:
    clip = clip_file(tmp_path, frames=5)
    result = finished(engine.run(ask(video=clip, num_frames=None, num_inference_steps=3), "5b"))
    assert result.frames == 5


def test_a_torn_picture_or_clip_is_named(engine: Engine, tmp_path: Path) -> None:
    for field, kind in (("image", "5b-i2v"), ("video", "5b")):
        torn = tmp_path / field
        torn.write_bytes(b"\x89PNG\r\n\x1a\n but no more")
        with pytest.raises(GenerationError) as e:
            finished(engine.run(ask(**{field: Media.of(torn)}), kind))
        assert (e.value.code, e.value.field) == ("media_error", field)


def test_a_task_the_model_does_not_do(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does image-to-video, not text-to-video"):
        finished(engine.run(ask(), "5b-i2v"))
    with pytest.raises(GenerationError, match="no model 'nope' here"):
        finished(engine.run(ask(), "nope"))


def test_equal_components_are_loaded_once(engine: Engine, tmp_path: Path) -> None:
    """Components are compared by content: each published checkpoint contains its own copy of the same T5 and VAE."""
    load, one = engine.loader.load, engine.models["5b"]
    shutil.copytree(engine.models["5b-i2v"], tmp_path / "i2v")
    for part in ("vae", "text_encoder"):
        shutil.rmtree(tmp_path / "i2v" / part)
        shutil.copytree(one / part, tmp_path / "i2v" / part)
    a, b = load(one, "5b"), load(tmp_path / "i2v", "i2v")
    assert a.vae is b.vae
    assert a.text_encoder is b.text_encoder
    assert a.transformer is not b.transformer
    assert load(engine.models["5b-i2v"], "5b-i2v").vae is not a.vae, "different weights: a different VAE"
    assert load(engine.models["2b"], "2b").vae is not a.vae, "a different scaling factor: a different VAE"


# cancelling, and output that must not be delivered ------------------------------------------------------------------


def test_cancel_takes_effect_within_a_step_and_skips_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine()
    model = engine.loader.load(engine.models["5b"], "5b")
    decoder = Bomb(model.vae.decoder, set(), monkeypatch)
    seen: list[Event] = []
    with pytest.raises(GenerationCancelled):
        for event in engine.run(ask(num_inference_steps=20), "5b", lambda: len(steps_in(seen)) >= 2):
            seen.append(event)
    assert len(steps_in(seen)) == 2
    assert decoder.calls == 0
    assert finished(engine.run(ask(), "5b")).frames == 9


def steps_in(events: list[Event]) -> list[Progress]:
    return [e for e in events if isinstance(e, Progress)]


def test_nan_latents_fail_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine()
    transformer = engine.loader.load(engine.models["5b"], "5b").transformer
    forward = transformer.forward
    monkeypatch.setattr(transformer, "forward", lambda *a, **k: (forward(*a, **k)[0] * float("nan"),))
    with pytest.raises(GenerationError, match=r"NaN; the checkpoint's weights may be damaged") as e:
        finished(engine.run(ask(), "5b"))
    assert e.value.code == "bad_output"


@pytest.mark.parametrize(("value", "cause"), [(-1.0, "black"), (0.3, "same colour")])
def test_flat_frames_are_not_delivered(value: float, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine()
    decoder = engine.loader.load(engine.models["5b"], "5b").vae.decoder
    forward = decoder.forward

    def flat(*args: Any, **kwargs: Any) -> Any:
        frames, cache = forward(*args, **kwargs)
        return torch.full_like(frames, value), cache

    monkeypatch.setattr(decoder, "forward", flat)
    with pytest.raises(GenerationError, match=cause) as e:
        finished(engine.run(ask(), "5b"))
    assert e.value.code == "bad_output"


def test_nothing_is_contacted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError(f"the engine opened a connection: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert finished(new_engine().run(ask(), "1.5-5b")).frames == 9


def test_portrait_on_a_landscape_base() -> None:
    """CogVideoX 1.5's base size is landscape. With a portrait base size, the same weights make the same video."""
    made = []
    for tall, wide in ((4, 8), (8, 4)):
        folder = checkpoints.cached("1.5-5b", transformer={"sample_height": tall, "sample_width": wide})
        made.append(finished(Engine(EngineSpec({"m": folder}, "cpu")).run(ask(width=32, height=64), "m")))
    assert (made[0].width, made[0].height) == (32, 64)
    assert made[0].video == made[1].video


@pytest.mark.parametrize("own", [False, True])
def test_interpolation_keeps_the_duration_and_says_which_network_draws(own: bool, tmp_path: Path) -> None:
    weights = tmp_path / "rife.pth"
    torch.save(state_dict("4.25"), weights)
    events = list(new_engine(rife=weights if own else None).run(ask(interpolate_fps=16), "5b"))
    result = finished(events)
    assert (result.frames, result.fps) == (18, 16)
    assert len(frames_of(result, tmp_path)) == 18
    logs = " ".join(e.message for e in events if isinstance(e, Log))
    file = weights if own else interpolation.SHIPPED
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert result.manifest["interpolator"] == {"file": file.name, "sha256": sha256}
    small = "small network that ships with this project"
    assert (small in logs) == (small in str(result.manifest["notes"])) == (not own)


def test_no_network_to_interpolate_with_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(interpolation, "SHIPPED", tmp_path / "gone.safetensors")
    with pytest.raises(RequestError, match="RIFE weights"):
        finished(new_engine().run(ask(interpolate_fps=16), "5b"))
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    engine = new_engine(rife=tmp_path / "broken.safetensors")
    with pytest.raises(GenerationError, match=r"broken\.safetensors is not a file of tensors"):
        finished(engine.run(ask(interpolate_fps=16), "5b"))
    assert finished(engine.run(ask(), "5b")).frames == 9


def test_a_lora_changes_the_video_and_leaves_no_trace(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    engine = new_engine()
    before = finished(engine.run(ask(), "5b")).video
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"transformer.transformer_blocks.{i}.attn1.to_{one}.lora_{side}.weight": torch.randn(
            (4, 32) if side == "A" else (32, 4), generator=generator
        )
        for i in range(2)
        for one in "qkv"
        for side in "AB"
    }
    path = tmp_path / "style.safetensors"
    save_file(tensors, path)
    events = list(engine.run(ask(loras=(Lora(str(path), 0.7),)), "5b"))
    assert finished(events).video != before
    assert any(isinstance(e, Log) and "style.safetensors: scale 0.7, rank 4" in e.message for e in events)
    assert finished(engine.run(ask(), "5b")).video == before
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(RequestError, match=r"style\.safetensors"):
        finished(engine.run(ask(loras=(Lora(str(path)),)), "5b"))


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    for name in ("tpu7", "cuda:99"):
        with pytest.raises(GenerationError, match=name):
            pick_device(name)
