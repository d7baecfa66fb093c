"""The demo's training in miniature: every step of `make demo-model`, on a few clips, into a folder of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipelines import lora_file, rife
from weights.training import __main__ as making
from weights.training import (
    dataset,
    evaluate,
    sheet,
    train_decoder,
    train_lora,
    train_rife,
    train_transformer,
    train_vae,
)
from weights.training.dataset import held_out
from weights.training.shapes import FILM, MOTIONS, Scene, render, sample_scene
from weights.training.words import caption, loose_caption, place_of, reserved, vocabulary
from weights.verify import verify


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two films of each size, one step of everything."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(making, "CACHE", cache)
    monkeypatch.setattr(making, "WEIGHTS", tmp_path)
    monkeypatch.setattr(making, "LESSONS", 1)
    monkeypatch.setattr(train_vae, "STEPS", 1)
    monkeypatch.setattr(train_vae.train, "__defaults__", (1,))
    monkeypatch.setattr(train_decoder, "STEPS", 2)
    monkeypatch.setattr(train_transformer, "STEPS", 2)
    monkeypatch.setattr(train_transformer, "BATCH_TOKENS", 400)
    monkeypatch.setattr(dataset, "BUCKETS", tuple(replace(b, count=2) for b in dataset.BUCKETS[:2]))
    return cache


def test_the_whole_way(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    making.main(train_more=True)
    assert verify(tmp_path / "demo").ok
    assert verify(tmp_path / "demo-i2v").ok
    size = sum(f.stat().st_size for f in tmp_path.glob("demo*/**/*.safetensors") if not f.is_symlink())
    assert size < 25e6
    made = load_file(tmp_path / "demo" / "transformer" / "diffusion_pytorch_model.safetensors")
    again = torch.load(cache / "transformer.pt")
    assert again["step"] == 2

    # taken up after one step it comes to the same
    (cache / "transformer.pt").unlink()
    data = dataset.load(train_vae.trained(cache), cache)
    scale = making.scaling_factor(data)
    for steps in (1, 2):
        train_transformer.train(making.untrained(), data, scale, cache, steps)
    both = torch.load(cache / "transformer.pt")
    rate = [train_transformer.learning_rate(step, steps) for step, steps in ((0, 1), (0, 2))]
    assert rate[0] == rate[1], "the first step of both was the same one"
    for name, value in again["average"].items():
        torch.testing.assert_close(both["average"][name], value, msg=name)
    assert set(made) == {n.removeprefix("transformer.") for n in again["model"] if n.startswith("transformer.")}

    # the decoder that ships was trained twice, the encoder once
    first, second = torch.load(cache / "vae.pt")["model"], torch.load(cache / "decoder.pt")["model"]
    made = load_file(tmp_path / "demo" / "vae" / "diffusion_pytorch_model.safetensors")
    for name, value in second.items():
        torch.testing.assert_close(made[f"decoder.{name}"], value.half(), msg=name)
    assert any(not torch.equal(value, first[f"decoder.{name}"]) for name, value in second.items())
    kept = "encoder.conv_in.conv.weight"
    torch.testing.assert_close(made[kept], first[kept].half())


def test_a_lora(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    making.main(train_more=True)
    for name, value in (("CACHE", cache), ("TARGET", tmp_path / "lora"), ("STEPS", 1)):
        monkeypatch.setattr(train_lora, name, value)
    monkeypatch.setattr(train_lora, "BUCKETS", dataset.BUCKETS)
    monkeypatch.setattr(train_lora, "BUCKET", replace(train_lora.BUCKET, count=2))
    train_lora.main()
    tensors = load_file(tmp_path / "lora" / "outline.safetensors")
    assert len(tensors) == 2 * 6 * len(train_lora.LAYERS)
    assert {v.dtype for v in tensors.values()} == {torch.float16}
    assert lora_file.read(tmp_path / "lora" / "outline.safetensors")


def test_an_interpolation_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_rife, "CACHE", tmp_path)
    monkeypatch.setattr(train_rife, "TARGET", tmp_path / "made" / "flownet.safetensors")
    monkeypatch.setattr(train_rife, "MATCHING", 1)
    monkeypatch.setattr(train_rife, "STEPS", 1)
    train_rife.main()
    net = rife.load(tmp_path / "made" / "flownet.safetensors", "cpu")
    frames = list(rife.interpolate(net, [torch.zeros(3, 64, 96), torch.ones(3, 64, 96)], 8, 16))
    assert [frame.shape for frame in frames] == [(3, 64, 96)] * 3
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 2


def test_every_shorter_clip_is_the_beginning_of_the_film() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scene = sample_scene(rng, FILM, two=0.3)
        np.testing.assert_array_equal(render(replace(scene, frames=9), 64, 96), render(scene, 64, 96)[:9])


def test_latents_of_a_beginning_are_the_beginning_of_the_latents() -> None:
    torch.manual_seed(0)
    vae = train_vae.build().eval()
    film = train_vae.to_tensor(render(Scene("star", "red", "blue", "left", "big", FILM, 0, 0), 64, 96))[None]
    with torch.no_grad():
        whole = vae.encode(film).latent_dist.mean
        for frames in (9, 17):
            begin = vae.encode(film[:, :, :frames]).latent_dist.mean
            torch.testing.assert_close(begin, whole[:, :, : begin.shape[2]], atol=1e-5, rtol=1e-4)


def test_captions_say_all_that_a_scene_is_and_nothing_unknown() -> None:
    """What is not said is always the same: the middle, a medium size."""
    rng, known = np.random.default_rng(0), set(vocabulary())
    for _ in range(300):
        scene = sample_scene(rng, FILM, two=0.3)
        text = caption(scene, rng)
        words = [w.strip(",.") for w in text.split()]
        assert set(words) - {""} <= known, text
        if place_of(scene) != (0, 0):
            assert set(words) & {"left", "right", "top", "bottom", "upper", "lower", "Left", "Right"}, text
        if scene.size != "medium":
            sizes = {"small", "little", "tiny", "big", "large", "huge"}
            assert {w.lower() for w in words} & sizes, text
        loose_caption(scene, rng)


def test_what_is_measured_is_not_what_was_learned() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        text = dataset.say(sample_scene(rng, FILM), rng)
        assert not text or not reserved(text)
    for index in range(30):
        _, scene = dataset.draw(dataset.BUCKETS[0], index)
        assert scene is None or not held_out(scene)
    asked = evaluate.asked(100)
    assert {scene.motion for scene, _ in asked} == set(MOTIONS)


def test_contact_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "PROMPTS", sheet.PROMPTS[:1])
    sheet.main(tmp_path / "sheet.png")
    picture = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert picture.shape[0] == 2 * (64 + sheet.LINE + 2 * sheet.MARGIN)
    assert np.ptp(picture) > 200
