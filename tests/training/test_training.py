"""Tests a very small training of the demo model: every step of `make demo-model` runs with few clips in a temporary
folder."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipelines.frames import rife
from pipelines.lora import file as lora_file
from pipelines.request import GenerationRequest
from tests.rigs import pace
from training import __main__ as making
from training import dataset, evaluate, loop, sheet, train_decoder, train_lora, train_rife, train_transformer, train_vae
from training.dataset import held_out
from training.judge import look
from training.shapes import FILM, MOTIONS, Scene, render, sample_scene
from training.words import (
    COLOR_WORDS,
    PLACE_WORDS,
    SHAPE_WORDS,
    caption,
    empty_caption,
    loose_caption,
    place_of,
    reserved,
    vocabulary,
)
from weights.verify import verify


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of a short training: it has two clips of each of two sizes, and each stage takes one or two
    steps."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(making, "CACHE", cache)
    monkeypatch.setattr(making, "WEIGHTS", tmp_path)
    monkeypatch.setattr(making, "LESSONS", 1)
    monkeypatch.setattr(train_vae, "STEPS", 1)
    monkeypatch.setattr(train_decoder, "STEPS", 2)
    monkeypatch.setattr(train_transformer, "STEPS", 2)
    monkeypatch.setattr(train_transformer, "BATCH_TOKENS", 400)
    monkeypatch.setattr(dataset, "BUCKETS", tuple(replace(b, count=2) for b in dataset.BUCKETS[:2]))
    return cache


@pytest.mark.slow
def test_the_whole_way(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    making.main(train_more=True)
    assert verify(tmp_path / "demo").ok
    assert verify(tmp_path / "demo-i2v").ok
    size = sum(f.stat().st_size for f in tmp_path.glob("demo*/**/*.safetensors") if not f.is_symlink())
    assert size < 25e6
    made = load_file(tmp_path / "demo" / "transformer" / "diffusion_pytorch_model.safetensors")
    again = torch.load(cache / "transformer.pt")
    assert again["step"] == 2

    # resuming after one step gives the same result
    (cache / "transformer.pt").unlink()
    data = dataset.load(train_vae.trained(cache), cache)
    scale = making.scaling_factor(data)
    for steps in (1, 2):
        train_transformer.train(making.untrained(), data, scale, cache, steps)
    both = torch.load(cache / "transformer.pt")
    rate = [train_transformer.learning_rate(step, steps) for step, steps in ((0, 1), (0, 2))]
    assert rate[0] == rate[1], "the first steps have the same learning rate"
    for name, value in again["average"].items():
        torch.testing.assert_close(both["average"][name], value, msg=name)
    assert set(made) == {n.removeprefix("transformer.") for n in again["model"] if n.startswith("transformer.")}

    # of the shipped VAE, the decoder was trained twice and the encoder once
    first, second = torch.load(cache / "vae.pt")["model"], torch.load(cache / "decoder.pt")["model"]
    made = load_file(tmp_path / "demo" / "vae" / "diffusion_pytorch_model.safetensors")
    for name, value in second.items():
        torch.testing.assert_close(made[f"decoder.{name}"], value.half(), msg=name)
    assert any(not torch.equal(value, first[f"decoder.{name}"]) for name, value in second.items())
    kept = "encoder.conv_in.conv.weight"
    torch.testing.assert_close(made[kept], first[kept].half())

    # a second export is identical; once the transformer changes, the decoder trained for it is ignored
    made = hashes(tmp_path)
    making.main(train_more=False)
    assert hashes(tmp_path) == made
    assert "is ignored" not in capsys.readouterr().out
    both["average"]["transformer.proj_out.weight"] += 1
    torch.save(both, cache / "transformer.pt")
    making.main(train_more=False)
    assert "decoder.pt was made from other weights or videos and is ignored" in capsys.readouterr().out
    made = load_file(tmp_path / "demo" / "vae" / "diffusion_pytorch_model.safetensors")
    for name in second:
        torch.testing.assert_close(made[f"decoder.{name}"], first[f"decoder.{name}"].half(), msg=name)


def hashes(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.glob("demo*/**/*")) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
def test_latents_of_another_autoencoder_or_of_other_films_are_made_anew(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vae, bucket = train_vae.build().eval(), dataset.BUCKETS[0]
    monkeypatch.setattr(dataset, "BUCKETS", (bucket,))
    file = cache / "latents-64x96.pt"
    first = dataset.load(vae, cache)[bucket]
    written = file.stat().st_mtime_ns
    torch.testing.assert_close(dataset.load(vae, cache)[bucket].latents, first.latents)
    assert file.stat().st_mtime_ns == written
    assert "is ignored" not in capsys.readouterr().out

    torch.nn.init.zeros_(vae.encoder.conv_out.conv.weight)
    second = dataset.load(vae, cache)[bucket]
    assert "latents-64x96.pt was made from other weights" in capsys.readouterr().out
    assert not torch.equal(second.latents, first.latents)
    monkeypatch.setattr(dataset, "SEED", dataset.SEED + 1)
    assert dataset.load(vae, cache)[bucket].scenes != second.scenes
    assert "latents-64x96.pt was made from other weights" in capsys.readouterr().out

    torch.save(first, file)  # an older version saved files without `basis`
    torch.testing.assert_close(dataset.load(vae, cache)[bucket].latents, first.latents)


def test_a_checkpoint_is_taken_up_on_its_own_basis_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, done = tmp_path / "some" / "net.pt", []

    def train(steps: int, basis: str) -> float:
        """Trains one weight and returns it; every step decreases the weight by 1."""
        net = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(net.weight)

        def loss_of(step: int) -> tuple[torch.Tensor, float]:
            done.append(step)
            return net.weight.sum(), 0.0

        def load(saved: dict[str, Any]) -> None:
            net.load_state_dict(saved["model"])

        optimizer = torch.optim.SGD(net.parameters())
        state = {"model": net.state_dict()}
        loop.run(
            "net", file, steps, [optimizer], lambda _: 1.0, loss_of, lambda: state, load, [net.weight], basis=basis
        )
        return round(net.weight.item(), 3)

    one, other = (loop.digest(torch.tensor([number])) for number in (1.0, 1.5))
    assert one == loop.digest(torch.ones(1)) != other
    assert (train(2, one), done) == (-2, [0, 1])
    assert (train(3, one), done) == (-3, [0, 1, 2])
    assert not capsys.readouterr().out
    # an unsuitable file stays until a new file replaces it
    assert (train(0, other), torch.load(file)["step"]) == (0, 3)
    assert (train(1, other), done) == (-1, [0, 1, 2, 0])
    assert capsys.readouterr().out.count("net.pt was made from other weights or videos and is ignored") == 2
    older = torch.load(file)
    del older["basis"]
    torch.save(older, file)
    assert (train(2, one), done) == (-2, [0, 1, 2, 0, 1])


def test_what_is_committed_is_small() -> None:
    files = (file for file in (Path(__file__).parents[2] / "weights").glob("demo*/**/*") if file.is_file())
    sizes = {file.resolve(): file.stat().st_size for file in files}
    assert max(sizes.values()) > 1e6
    assert sum(sizes.values()) < 25e6


@pytest.mark.slow
def test_a_lora(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    making.main(train_more=True)
    for name, value in (("CACHE", cache), ("TARGET", tmp_path / "lora"), ("STEPS", 1)):
        monkeypatch.setattr(train_lora, name, value)
    monkeypatch.setattr(train_lora, "BUCKET", replace(train_lora.BUCKET, count=2))
    train_lora.main()
    tensors = load_file(tmp_path / "lora" / "outline.safetensors")
    assert len(tensors) == 2 * 6 * len(train_lora.LAYERS)
    assert {v.dtype for v in tensors.values()} == {torch.float16}
    assert lora_file.read(tmp_path / "lora" / "outline.safetensors")
    assert (tmp_path / "lora" / "outline.safetensors").stat().st_mode & 0o777 == 0o644
    kept = (torch.load(cache / f"{name}.pt", weights_only=False) for name in ("lora", "latents-outlined"))
    assert len({part["basis"] for part in kept} - {""}) == 2


@pytest.mark.slow
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


def test_every_shorter_clip_is_a_part_of_the_film() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scene = sample_scene(rng, FILM, two=0.3)
        film = render(scene, 64, 96)
        np.testing.assert_array_equal(render(replace(scene, frames=9), 64, 96), film[:9])
        np.testing.assert_array_equal(render(replace(scene, frames=9, begin=20), 64, 96), film[20:29])


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
    """An attribute that the caption does not mention has a fixed value (a medium size, for example)."""
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


def test_what_says_nothing_names_no_colour_place_shape_or_motion() -> None:
    groups = (COLOR_WORDS, PLACE_WORDS, SHAPE_WORDS)
    telling = {word for group in groups for words in group.values() for word in words}
    rng = np.random.default_rng(2)
    texts = [empty_caption(rng) for _ in range(200)]
    assert 60 < texts.count("") < 140
    for text in texts:
        assert not telling & {word.strip(",.").lower() for word in text.split()}, text


def test_what_is_measured_is_not_what_was_learned() -> None:
    rng = np.random.default_rng(1)
    told = {word for words in COLOR_WORDS.values() for word in words}
    for _ in range(200):
        text = dataset.say(sample_scene(rng, FILM), rng)
        says_something = any(w.strip(",.").lower() in told for w in text.split())
        assert not says_something or not reserved(text)
    for index in range(30):
        _, scene = dataset.draw(dataset.BUCKETS[0], index)
        assert scene is None or not held_out(scene)
    asked = evaluate.asked(100)
    assert {scene.motion for scene, _ in asked} == set(MOTIONS)


@pytest.mark.slow
def test_contact_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "PROMPTS", sheet.PROMPTS[:1])
    quick = partial(GenerationRequest, num_frames=17, num_inference_steps=20)
    monkeypatch.setattr(sheet, "GenerationRequest", quick)
    sheet.main(tmp_path / "sheet.png")
    picture = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    height, step = 64 + sheet.LINE + 2 * sheet.MARGIN, 96 + sheet.MARGIN
    assert picture.shape == (2 * height, sheet.SHOWN * step - sheet.MARGIN, 3)
    top = sheet.LINE + sheet.MARGIN
    shown = [
        np.stack([line[top : top + 64, n * step : n * step + 96] for n in range(sheet.SHOWN)])
        for line in (picture[:height], picture[height:])
    ]
    first, moved = (look(frames) for frames in shown)
    assert sheet.PROMPTS[0] == "a red circle moves left on a blue background"
    assert (first.color, first.background) == ("red", "blue")
    assert (moved.color, moved.background) == (sheet.PICTURE.color, sheet.PICTURE.background)


@pytest.mark.slow
def test_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The evaluation runs with few steps and ignores the machine's settings."""
    post, bodies = httpx.Client.post, []

    def quickly(client: httpx.Client, url: str, json: dict[str, object]) -> httpx.Response:
        bodies.append(json)
        return post(client, url, json={**json, "input_frames": 17, "steps": 25})

    monkeypatch.setattr(httpx.Client, "post", quickly)
    for limit in ("START_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(evaluate, limit, pace.seconds(getattr(evaluate, limit)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COGVIDEOX_API_KEYS", "secret")
    (tmp_path / ".env").write_text("COGVIDEOX_DEVICE=nonsense\n")
    evaluate.main(["--count", "1"])
    lines = capsys.readouterr().out.splitlines()
    unseen = ", unseen combinations"
    kinds = ["text to video", f"text to video{unseen}", "image to video", f"image to video{unseen}"]
    assert [line.partition(":")[0] for line in lines] == kinds
    assert all(" of 1, " in line for line in lines)
    assert sum("background 100.0 %" in line for line in lines) >= 3
    assert ["first frame" in line for line in lines] == [False, False, True, True]
    assert len({str(body["prompt"]) for body in bodies}) == 2, "the same prompts with and without an image"


def test_evaluation_of_a_server_that_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(RuntimeError, match=r"did not start: cogvideox: .*data"), evaluate.server(tmp_path):
        pass
