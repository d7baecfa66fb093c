"""ModelsLab's fields: how they map to the engine's request, which values are capped, and which are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.request import GenerationRequest
from server.errors import DiskFull, NoModel, QueueFull
from server.facades.kit.errors import Unavailable
from server.facades.modelslab.calls import I2V, I2V_ULTRA, T2V, T2V_ULTRA, Kind
from tests.rigs import golden
from tests.rigs.api_tables import tables
from tests.rigs.facade_rig import Rig
from tests.rigs.stand_ins import PICTURE

ROOM = "/api/v6/video/"
SECOND_PASS = ("upscale_strength", "upscale_guidance_scale", "upscale_num_inference_steps")
KINDS = (T2V, I2V, T2V_ULTRA, I2V_ULTRA)


def made(served: Rig, call: str, **fields: Any) -> tuple[GenerationRequest, list[str]]:
    """Calls the API, and returns the engine's request and the notes of the façade."""
    client, table = served.client, served.table
    usual: dict[str, Any] = {"model_id": "cogvideox", "prompt": "a"}
    if call.startswith("img"):
        usual["init_image"] = PICTURE
    answer = client.post(ROOM + call, content=json.dumps(usual | fields)).json()
    assert answer["status"] == "success", answer
    return table.last.request, table.last.memo["notes"]


def ignored(name: str, kind: Kind = T2V) -> str:
    return f"{name}: ignored ({kind.input.IGNORED[name][1]})"


def numbers(request: GenerationRequest) -> tuple[Any, ...]:
    return (
        request.width,
        request.height,
        request.num_frames,
        request.num_inference_steps,
        request.guidance_scale,
        request.fps,
        request.output_format,
    )


def test_defaults_are_modelslabs(served: Rig) -> None:
    assert numbers(made(served, "text2video")[0]) == (512, 512, 25, 20, 7, 8, "gif")
    assert numbers(made(served, "img2video")[0]) == (512, 512, 16, 20, 7, 8, "mp4")
    assert numbers(made(served, "text2video_ultra")[0]) == (854, 480, 92, None, None, 16, "mp4")
    assert numbers(made(served, "img2video_ultra")[0]) == (568, 320, 92, None, None, 16, "mp4")
    for call in ("text2video", "img2video"):
        absent = made(served, call, width=None, height="", num_frames=None, seed="", webhook=None, output_type=None)
        assert numbers(absent[0])[:3] == (512, 512, {"text2video": 25, "img2video": 16}[call])
        assert absent[1] == []


def test_everything_as_text(served: Rig) -> None:
    """ModelsLab's web page for this model sends numbers as text."""
    request, notes = made(
        served,
        "text2video",
        num_frames="16",
        num_inference_steps="35",
        guidance_scale="7.5",
        clip_skip="2",
        upscale_height="1024",
        upscale_width="1024",
        upscale_strength="0.7",
        upscale_guidance_scale="6.5",
        upscale_num_inference_steps="40",
        use_improved_sampling=True,
        improved_sampling_seed="42",
        fps="16",
        seed="5",
        output_type="MP4",
    )
    assert numbers(request) == (1024, 1024, 16, 35, 7.5, 16, "mp4")
    assert request.seed == 5
    assert notes == ["size: 512x512 -> 1024x1024 (upscale_*)", *map(ignored, T2V.input.IGNORED)]


def test_more_than_the_maximum_is_taken_for_the_maximum(served: Rig) -> None:
    over = {"width": 720, "height": 9999, "num_frames": 30, "num_inference_steps": 60, "guidance_scale": 7.5, "fps": 24}
    request, notes = made(served, "text2video", **over, upscale_guidance_scale=12, upscale_num_inference_steps=99)
    assert numbers(request)[:6] == (512, 512, 25, 50, 7.5, 16)
    assert set(map(ignored, SECOND_PASS[1:])) < set(notes)
    told = sorted(note.partition(":")[0] for note in notes)
    assert told == sorted({*over, *SECOND_PASS[1:]} - {"guidance_scale"})
    assert "num_frames: 30 -> 25 (the maximum)" in notes
    request, notes = made(served, "img2video", guidance_scale=9, num_frames=10**400)
    assert (request.guidance_scale, request.num_frames) == (8, 25)
    assert len(str(notes)) < 600
    request, _ = made(served, "text2video_ultra", resolution=720, num_frames=500, fps=30)
    assert numbers(request)[:3] == (854, 480, 161)
    assert request.fps == 18


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"upscale_width": 1024, "upscale_height": 640}, (1024, 640)),
        ({"upscale_width": 1024}, (1024, 1024)),
        ({"upscale_height": 600, "width": 256, "height": 200}, (768, 600)),
        ({"upscale_height": 1024, "width": 512, "height": 16}, (1024, 1024)),
        ({"upscale_width": 4000, "upscale_height": 4000}, (1024, 1024)),
        ({"upscale_width": 400, "upscale_height": 640}, (512, 512)),
        ({"upscale_width": None, "upscale_height": ""}, (512, 512)),
    ],
)
def test_upscaling(served: Rig, given: dict[str, Any], size: tuple[int, int]) -> None:
    request, notes = made(served, "text2video", **given)
    assert (request.width, request.height) == size
    assert any("(upscale_*)" in note for note in notes) == (size != (512, 512))
    sent = [name for name in ("upscale_height", "upscale_width") if given.get(name)]
    told = [f"{name}: ignored (nothing is made smaller)" for name in sent]
    assert [note for note in notes if "ignored" in note] == (told if size == (512, 512) else [])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_is_ignored_is_told_to_the_client(served: Rig, kind: Kind) -> None:
    for name, (usual, _) in kind.input.IGNORED.items():
        sent = "yes" if usual is False else "42"
        body = {"model_id": "cogvideox", "prompt": "a", "init_image": PICTURE, name: sent}
        answer = served.client.post(ROOM + kind.name, json=body).json()
        again = served.client.post(f"{ROOM}fetch/{answer['id']}").json()
        assert [note for note in answer["notes"] if note.startswith(name)] == [ignored(name, kind)]
        assert again["notes"] == answer["notes"]
        assert str(answer["meta"][name]).removesuffix(".0") == sent
        for absent in (usual, None, "", str(usual or "")):
            assert ignored(name, kind) not in made(served, kind.name, **{name: absent})[1]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_field_said_to_be_ignored_is_told(kind: Kind) -> None:
    rows = tables("modelslab")[f"POST {ROOM}{kind.name}"]
    assert {row.field for row in rows if row.word == "ignored"} == set(kind.input.IGNORED)


def test_ultra(served: Rig) -> None:
    fields = {"resolution": "240", "portrait": "yes", "num_inference_steps": 6, "guidance_scale": 1.5}
    request, notes = made(served, "img2video_ultra", **fields, sample_shift=3, model_id="wan2.1", num_frames=82)
    assert (request.width, request.height, request.num_frames) == (240, 426, 82)
    assert (request.num_inference_steps, request.guidance_scale) == (None, None)
    assert any("distilled" in note for note in notes)
    client = served.client
    assert client.post(f"{ROOM}text2video_ultra", json={"prompt": "a"}).json()["status"] == "success"


@pytest.mark.parametrize("word", [True, "yes", "true", "1", 1, "Yes", "TRUE"])
def test_words_for_true(served: Rig, word: Any) -> None:
    client, table = served.client, served.table
    made(served, "text2video", temp=word)
    assert table.last.keep_seconds == 86400
    assert client.post(f"{ROOM}fetch/1").json()["meta"]["temp"] == "yes"


@pytest.mark.parametrize("word", [False, "no", "false", "0", 0, "No", None, ""])
def test_words_for_false(served: Rig, word: Any) -> None:
    client, table = served.client, served.table
    made(served, "text2video", temp=word)
    assert table.last.keep_seconds is None
    assert client.post(f"{ROOM}fetch/1").json()["meta"]["temp"] == "no"


def test_seeds(served: Rig) -> None:
    assert made(served, "text2video", seed=2**53 + 1)[0].seed == 2**53 + 1
    drawn = {made(served, "text2video", seed=seed)[0].seed for seed in (None, -1, None, -1)}
    assert len(drawn) > 1
    client, table = served.client, served.table
    assert client.post(f"{ROOM}fetch/1").json()["meta"]["seed"] == 2**53 + 1
    assert client.post(f"{ROOM}fetch/2").json()["meta"]["seed"] == table.jobs[1].seed


@pytest.mark.parametrize("name", ["zai-org/CogVideoX-2b", "THUDM/CogVideoX1.5-5B", "cogvideox-1.5-5b", "CogVideoX-2B"])
def test_names_of_checkpoints(served: Rig, name: str) -> None:
    made(served, "text2video", model_id=name)
    refused = served.client.post(
        f"{ROOM}text2video", json={"prompt": "a", "model_id": "zai-org/CogVideoX-5b-I2V"}
    ).json()
    assert refused["message"].startswith("Model not found: zai-org/cogvideox-5b-i2v")
    made(served, "img2video", model_id="zai-org/CogVideoX-5b-I2V")


def test_another_checkpoint_than_the_named_one_is_said(served: Rig) -> None:
    for asked, answers in (("THUDM/CogVideoX-2b", True), ("zai-org/CogVideoX-5b", False), ("cogvideox", False)):
        notes = served.client.post(f"{ROOM}text2video", json={"prompt": "a", "model_id": asked}).json()["notes"]
        said = f"model_id: {asked.lower()} -> cogvideox-5b (what this server has)"
        assert (said in notes) is answers, notes


def test_unknown_fields_are_named(served: Rig) -> None:
    for kind in KINDS:
        _, notes = made(served, kind.name, aspect_ratio="16:9", duration=5)
        unknown = [f"{name}: ignored (this server has no such field)" for name in ("aspect_ratio", "duration")]
        assert notes[-2:] == unknown


@pytest.mark.parametrize("name", ["cogvideox", "cogvideox-2", "CogVideoX-5b", "wanx"])
def test_models(served: Rig, name: str) -> None:
    client = served.client
    made(served, "text2video", model_id=name)
    made(served, "img2video", model_id="svd")
    assert client.post(f"{ROOM}fetch/1").json()["meta"]["model_id"] == name.lower()


def test_pictures(served: Rig) -> None:
    table, intake = served.table, served.intake
    made(served, "img2video", init_image=PICTURE)
    assert intake.seen[-1] == ("init_image", PICTURE)
    long = "A" * 3_000_000
    made(served, "img2video", init_image=long, prompt="  ", base64="yes", min_guidance_scale=1, motion_bucket_id=127)
    assert intake.seen[-1] == ("init_image", long)
    assert len(json.dumps(table.last.memo)) < 2000
    assert table.last.request.prompt == "The scene comes to life with natural, smooth motion."
    assert any(note.startswith("prompt: none") for note in table.last.memo["notes"])


INVALID = [
    ({}, "model_id is required"),
    ({"prompt": "a"}, "model_id is required"),
    ({"model_id": "cogvideox"}, "prompt is required"),
    ({"prompt": "  "}, "prompt is required"),
    ({"prompt": None}, "prompt is required"),
    ({"prompt": 5}, "prompt must be a string"),
    ({"prompt": "x" * 20_001}, "prompt must be at most 20000 characters"),
    ({"prompt": "a\0"}, "prompt must be plain text"),
    ({"prompt": "\ud800"}, "prompt must be plain text"),
    ({"model_id": "svd"}, "Model not found: svd"),
    ({"model_id": 5}, "model_id must be a string"),
    ({"width": 15}, "width must be between 16 and 512, got 15"),
    ({"height": "8"}, "height must be between 16 and 512, got 8"),
    ({"num_frames": 0}, "num_frames must be between 1 and 25, got 0"),
    ({"num_frames": "many"}, "num_frames must be an integer, got 'many'"),
    ({"num_frames": 20.5}, "num_frames must be an integer, got 20.5"),
    ({"num_frames": True}, "num_frames must be a number"),
    ({"num_frames": []}, "num_frames must be an integer"),
    ({"num_inference_steps": -1}, "num_inference_steps must be between 1 and 50"),
    ({"guidance_scale": -0.5}, "guidance_scale must be between 0 and 8, got -0.5"),
    ({"guidance_scale": "x"}, "guidance_scale must be a number"),
    ({"guidance_scale": "nan"}, "guidance_scale must be a number"),
    ({"clip_skip": -1}, "clip_skip must be 0 or more"),
    ({"upscale_strength": "strong"}, "upscale_strength must be a number"),
    ({"fps": 0}, "fps must be between 1 and 16"),
    ({"seed": -2}, "seed must be between 0 and 9223372036854775807, or -1"),
    ({"seed": 2**63}, "seed must be between 0 and"),
    ({"seed": "lucky"}, "seed must be an integer"),
    ({"output_type": "webm"}, "output_type must be mp4 or gif, got 'webm'"),
    ({"temp": "perhaps"}, "temp must be true or false"),
    ({"instant_response": 2}, "instant_response must be true or false"),
    ({"webhook": "ftp://x/y"}, "webhook must be an http or https URL"),
    ({"webhook": "http://"}, "webhook must be an http or https URL"),
    ({"webhook": "http://x:99999/"}, "webhook must be an http or https URL"),
    ({"webhook": "http://[x"}, "webhook must be an http or https URL"),
    ({"webhook": 5}, "webhook must be a string"),
    ({"track_id": ["a"]}, "track_id must be a string"),
]


@pytest.mark.parametrize(("fields", "text"), INVALID)
def test_refused(served: Rig, fields: dict[str, Any], text: str) -> None:
    client, table = served.client, served.table
    body = fields if "is required" in text else {"model_id": "cogvideox", "prompt": "a", **fields}
    answer = client.post(f"{ROOM}text2video", content=json.dumps(body))
    assert answer.status_code == 200
    assert set(answer.json()) == {"status", "message", "tip"}
    assert answer.json()["status"] == "error"
    assert text in answer.json()["message"]
    assert len(answer.text) < 800
    assert not table.jobs


def test_refused_together(served: Rig) -> None:
    answer = served.client.post(f"{ROOM}img2video", json={"model_id": "nothing", "width": 3, "output_type": "avi"})
    golden.check("modelslab/refused", answer)


def test_refused_pictures(served: Rig) -> None:
    client = served.client
    usual = {"model_id": "cogvideox", "prompt": "a"}
    for image, text in ((None, "is required"), ("", "is required"), (5, "must be a string"), ("a\0", "plain text")):
        answer = client.post(f"{ROOM}img2video", json={**usual, "init_image": image}).json()
        assert answer["message"].startswith("init_image") and text in answer["message"]
    lost = client.post(f"{ROOM}img2video", json={**usual, "init_image": "https://x/y.png"})
    golden.check("modelslab/picture_not_fetched", lost)
    golden.check("modelslab/picture_too_large", client.post(f"{ROOM}img2video", json={**usual, "init_image": "big"}))


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense", ""]
)
def test_any_content_type(served: Rig, kind: str) -> None:
    raw = b'{"model_id": "cogvideox", "prompt": "a"}'
    answer = served.client.post(f"{ROOM}text2video", content=raw, headers={"content-type": kind})
    assert answer.json()["status"] == "success"


@pytest.mark.parametrize("raw", [b"{", b"\xff", b'{"fps": NaN}', b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}"])
def test_broken_json(served: Rig, raw: bytes) -> None:
    answer = served.client.post(f"{ROOM}text2video", content=raw)
    assert (answer.status_code, answer.json()["status"]) == (200, "error")
    assert "not valid JSON" in answer.json()["message"]


def test_odd_bodies(served: Rig) -> None:
    client = served.client
    golden.check("modelslab/broken_json", client.post(f"{ROOM}text2video", content=b"{"))
    golden.check("modelslab/no_object", client.post(f"{ROOM}text2video", json=[]))


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (QueueFull(3), "queue_full"),
        (DiskFull("no room"), "disk_full"),
        (NoModel("text-to-video", "no such model here"), "no_model"),
        (Unavailable("the server has stopped working"), "unavailable"),
        (RuntimeError("secret"), "internal"),
    ],
)
def test_turned_away(served: Rig, error: Exception, name: str) -> None:
    client, table = served.client, served.table
    table.raises = error
    answer = client.post(f"{ROOM}text2video", json={"model_id": "cogvideox", "prompt": "a"})
    golden.check(f"modelslab/{name}", answer)
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/api/v6/images/text2img", "not_found"),
        ("POST", "/api/v1/enterprise/video/restart_server", "not_found"),
        ("GET", "/api/v7", "not_found"),
        ("GET", f"{ROOM}text2video", "wrong_method"),
        ("PUT", f"{ROOM}fetch/1", "wrong_method"),
        ("GET", "/generations/nothing.mp4", "no_film"),
        ("GET", "/generations/d9428888-122b-41e1-b85c-61cf3a6b5a4f.mp4", "no_film"),
    ],
)
def test_no_such_address(served: Rig, method: str, path: str, name: str) -> None:
    golden.check(f"modelslab/{name}", served.client.request(method, path))
