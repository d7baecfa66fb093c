"""Zhipu's façade without a worker: how the body maps to the engine's request, the notes, and the results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.request import GenerationRequest
from server.facades.kit.samples import BLUE
from server.facades.zhipu.app import MOUNTS
from server.facades.zhipu.models import PICTURES
from server.facades.zhipu.request_ids import Repeated, RequestIds
from tests.rigs.facade_rig import Build, Rig
from tests.rigs.facades.zhipu import ASKED, BASE, CREATE, UNIFIED
from tests.rigs.job_table import hold


def made(served: Rig, path: str = CREATE, **fields: Any) -> GenerationRequest:
    answer = served.client.post(path, json={**ASKED, **fields})
    assert answer.status_code == 200, answer.text
    return served.table.last.request


def notes_of(served: Rig, path: str = CREATE, **fields: Any) -> list[str]:
    """Creates a task and returns the notes of the answer; the result must repeat them."""
    answer = served.client.post(path, json={**ASKED, **fields}).json()
    result = served.client.get(f"{BASE}/async-result/{answer.get('id') or answer['task_id']}").json()
    assert result["notes"] == answer["notes"]
    return list(answer["notes"])


def test_nothing_asked_is_five_seconds_at_thirty_with_the_models_own_size(served: Rig) -> None:
    request = made(served)
    assert (request.prompt, request.duration, request.fps, request.interpolate_fps) == ("a red circle", 5, 30, None)
    assert (request.width, request.height, request.num_frames, request.negative_prompt) == (None, None, None, "")
    assert (request.num_inference_steps, request.image) == (25, None)
    plan = served.table.last.plan or {}
    assert (plan["num_frames"], plan["fps"], plan["model_frames"]) == (150, 30, 41)


def test_nulls_and_empty_values_are_left_out(served: Rig) -> None:
    """zai-sdk sends every argument, even the ones that the program did not give."""
    names = "image_url quality with_audio size duration fps style aspect_ratio off_peak movement_amplitude"
    nulls = dict.fromkeys([*names.split(), "sensitive_word_check", "request_id", "user_id", "watermark_enabled"])
    assert dataclasses.replace(made(served, **nulls), seed=1) == dataclasses.replace(made(served), seed=1)
    assert made(served, size="", fps=" ", image_url=[], image={}).duration == 5


@pytest.mark.parametrize("duration", [10, "10", 10.0])
@pytest.mark.parametrize("fps", [60, "60"])
def test_numbers_may_be_text(served: Rig, duration: Any, fps: Any) -> None:
    request = made(served, duration=duration, fps=fps)
    assert (request.duration, request.fps) == (10, 60)
    assert type(request.fps) is int


@pytest.mark.parametrize("rife", [False, True])
def test_the_rate_is_reached_by_interpolation_where_there_is_rife(build: Build, rife: bool) -> None:
    served = build(rife=rife)
    request = made(served, fps=60, duration=10)
    assert request.interpolate_fps == (60 if rife else None)
    plan = served.table.last.plan or {}
    assert (plan["num_frames"], plan["interpolate_fps"] or plan["fps"]) == (600, 60)
    said = " ".join(note for note in notes_of(served, fps=60) if note.startswith("fps: "))
    assert ("with frames drawn" in said, "repeated" in said) == (rife, not rife)
    assert "RIFE" not in said, "the plan's own note names the network"


@pytest.mark.parametrize(
    ("quality", "steps"),
    [("speed", 25), ("quality", None), (True, None), (False, 25), ("true", None), ("False", 25), ("Quality", None),
     (1, None), ("0", 25), (None, 25)],
)  # fmt: skip
def test_quality_is_a_number_of_steps(served: Rig, quality: Any, steps: int | None) -> None:
    assert made(served, quality=quality).num_inference_steps == steps
    asked = "quality" if steps is None else "speed"
    assert f"quality: {asked} -> {steps or 50} steps" in notes_of(served, quality=quality)


@pytest.mark.parametrize("size", ["720x480", "1280x960", "1080X1920", "2048*1080", " 3840x2160 "])
def test_sizes_are_the_files(served: Rig, size: str) -> None:
    request = made(served, size=size)
    assert f"{request.width}x{request.height}" == size.strip().lower().replace("*", "x")
    said = [note for note in notes_of(served, size=size) if note.startswith("size: ")]
    assert bool(said) == (size != "720x480")
    assert not said or "made at 720x480" in said[0]


@pytest.mark.parametrize("path", [CREATE, UNIFIED])
@pytest.mark.parametrize(
    ("size", "sides"),
    [
        *(("480p", (854, 480)), ("480P", (854, 480)), (" 720P ", (1280, 720)), ("1080P", (1920, 1080))),
        *(("1080p", (1920, 1080)), ("2K", (1920, 1080)), ("4k", (3840, 2160))),
    ],
)
def test_a_size_may_be_a_word(served: Rig, path: str, size: str, sides: tuple[int, int]) -> None:
    request = made(served, path, size=size)
    assert (request.width, request.height) == sides
    assert served.table.last.plan is not None and served.table.last.plan["width"] == sides[0]


def test_a_word_has_the_shape_that_302_is_told(served: Rig) -> None:
    request = made(served, UNIFIED, size="720P", aspect_ratio="9:16")
    assert (request.width, request.height) == (720, 1280)
    assert (made(served, UNIFIED, size="720x480", aspect_ratio="9:16").width) == 720


@pytest.mark.parametrize("name", ["CogVideoX-3", "zai-org/CogVideoX-5b", "THUDM/CogVideoX-2b", "cogvideox-1.5-5b"])
@pytest.mark.parametrize("path", [CREATE, UNIFIED])
def test_names_of_checkpoints(served: Rig, path: str, name: str) -> None:
    assert f"model: {name} -> cogvideox-5b (what this server has)" in notes_of(served, path, model=name)


def test_unknown_fields_are_named(served: Rig) -> None:
    said = notes_of(served, negative_prompt="blurry", loop=True)
    assert [note for note in said if "no such field" in note] == [
        "loop: ignored (this server has no such field)",
        "negative_prompt: ignored (this server has no such field)",
    ]
    assert not any("negative_prompt" in note for note in notes_of(served, UNIFIED, negative_prompt="blurry"))


def test_notes_say_what_is_otherwise(served: Rig) -> None:
    always = ["model: cogvideox-2 -> cogvideox-5b (what this server has)"]
    always += ["size: none -> 720x480 (the model's own)", "quality: speed -> 25 steps"]
    repeated = "fps: 30 -> the model's frames, some repeated (CogVideoX-5B makes 8 a second and no frames between them "
    repeated += "are drawn)"
    assert notes_of(served) == [*always, repeated]
    assert notes_of(served, watermark_enabled=False, with_audio=False, off_peak=False, user_id="user-1") == [
        *always,
        repeated,
    ]
    slow = (
        "duration: 10 s -> 6.12 s of motion, slowed down to fill it (CogVideoX-5B makes at most 49 frames, 8 a second)"
    )
    assert notes_of(served, duration=10) == [*always, slow, repeated]
    for field, value in (
        ("with_audio", "true"),
        ("watermark_enabled", True),
        ("off_peak", True),
        ("style", "anime"),
        ("aspect_ratio", "9:16"),
        ("movement_amplitude", {"any": "thing"}),
        ("sensitive_word_check", {"type": "ALL", "status": "ENABLE"}),
    ):
        assert [note.partition(":")[0] for note in notes_of(served, **{field: value})[4:]] == [field]
        assert made(served, **{field: value}).to_dict() | {"seed": 0} == made(served).to_dict() | {"seed": 0}


@pytest.mark.parametrize(
    "image_url",
    [BLUE, {"url": BLUE}, [BLUE], [{"url": BLUE}], [BLUE, None], [None, {"url": BLUE}]],
)
def test_a_picture_comes_in_several_forms(served: Rig, image_url: Any) -> None:
    request = made(served, image_url=image_url)
    assert served.intake.seen == [("image_url", BLUE)]
    assert request.image is not None


def test_a_picture_is_not_kept_with_the_job(served: Rig) -> None:
    made(served, image_url=f"data:image/png;base64,{'A' * 2**20}")
    assert len(json.dumps(served.table.last.memo)) < 1500


def test_a_picture_alone_gets_words_and_says_so(served: Rig) -> None:
    request = made(served, prompt=None, image_url=PICTURES[0])
    assert request.prompt.startswith("The scene comes to life")
    assert any(note.startswith("prompt: none -> 'The scene") for note in notes_of(served, prompt="", image_url=BLUE))


@pytest.mark.parametrize(
    ("content", "status", "code", "text"),
    [
        (b"\x89PNG\r\n\x1a\n...", 200, "", ""),
        (b"\xff\xd8\xff\xe0...", 200, "", ""),
        (b"GIF89a...", 400, "1214", "image_url: must be a PNG or a JPEG"),
        (b"RIFF....WEBP", 400, "1214", "image_url: must be a PNG or a JPEG"),
        (b"\xff\xd8\xff" + bytes(5 * 2**20 - 3), 200, "", ""),
        (b"\xff\xd8\xff" + bytes(5 * 2**20 - 2), 435, "1220", "image_url: the file is larger than 5 MB"),
    ],
)
def test_pictures_are_png_or_jpeg_of_five_megabytes(
    served: Rig, tmp_path: Path, content: bytes, status: int, code: str, text: str
) -> None:
    (tmp_path / "picture").write_bytes(content)
    served.intake.path = str(tmp_path / "picture")
    client, table = served.client, served.table
    answer = client.post(CREATE, json={**ASKED, "image_url": BLUE})
    assert answer.status_code == status
    assert bool(table.jobs) == (status == 200)
    if status != 200:
        assert answer.json() == {"error": {"code": code, "message": text}}


@pytest.mark.parametrize("mount", MOUNTS)
def test_every_address(served: Rig, mount: str) -> None:
    client, table = served.client, served.table
    kind = {"content-type": "application/json;charset:utf-8;"}
    answer = client.post(f"{mount}/videos/generations", content=json.dumps(ASKED), headers=kind)
    assert answer.status_code == 200
    address = f"{mount}/async-result/{answer.json()['id']}"
    result = client.get(f"{address}?geo=global", headers=kind)
    assert (result.status_code, result.json()["task_status"]) == (200, "SUCCESS")
    assert client.post(f"{address}/", content=b"no matter").json() == result.json()
    film = result.json()["video_result"][0]
    assert film == {
        "url": served.url(table.last.video),
        "cover_image_url": served.url(table.last.poster),
    }
    assert client.get(f"/302/v2/video/fetch/{table.last.id}").json()["video_url"] == film["url"]


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_json_of_any_type(served: Rig, kind: str) -> None:
    assert served.client.post(CREATE, content=json.dumps(ASKED), headers={"content-type": kind}).status_code == 200


def test_several_at_once(served: Rig) -> None:
    client, table = served.client, served.table
    done = client.post(CREATE, json=ASKED).json()["id"]
    table.end = hold
    waiting = client.post(CREATE, json=ASKED).json()["id"]
    answer = client.post("/cogvideox/v4/async-results", json={"ids": [done, "nothing", waiting]}).json()
    assert [one["task_status"] for one in answer["data"]] == ["SUCCESS", "FAIL", "PROCESSING"]
    assert answer["data"][0] == client.get(f"{BASE}/async-result/{done}").json()
    assert answer["data"][1]["error"]["message"] == "id: there is no task nothing"
    for bad in ({}, {"ids": []}, {"ids": "x"}, {"ids": [5]}, {"ids": ["x"] * 101}):
        refused = client.post("/cogvideox/v4/async-results", json=bad)
        assert refused.status_code == 400
        assert "ids" in refused.json()["error"]["message"]


def test_a_request_id_is_echoed_and_serves_once(served: Rig) -> None:
    client, table = served.client, served.table
    named = {**ASKED, "request_id": "mine-1"}
    first = client.post(CREATE, json=named).json()
    assert first["request_id"] == client.get(f"{BASE}/async-result/{first['id']}").json()["request_id"] == "mine-1"
    again = client.post(f"/zhipu{CREATE}", json=named)
    assert (again.status_code, again.json()["error"]["code"]) == (400, "1231")
    assert client.post(CREATE, json={**ASKED, "request_id": 17}).json()["request_id"] == "17"
    others = {client.post(CREATE, json=ASKED).json()["request_id"] for _ in range(3)}
    assert len(others) == 3
    assert not others & {job.id for job in table.jobs}, "generated request ids are not task ids"


def test_a_refused_request_keeps_its_name(served: Rig) -> None:
    client, table = served.client, served.table
    named = {**ASKED, "request_id": "mine-2"}
    table.raises = RuntimeError("now")
    assert client.post(CREATE, json=named).status_code == 500
    table.raises = None
    assert client.post(CREATE, json={**named, "image_url": "http://x/y"}).status_code == 400
    assert client.post(CREATE, json=named).status_code == 200
    assert client.post(CREATE, json=named).status_code == 400


def test_names_are_each_keys_own_and_the_oldest_go(build: Build) -> None:
    client = build(keys="one,two").client
    named = {**ASKED, "request_id": "ours"}
    for key in ("one", "two"):
        assert client.post(CREATE, json=named, headers={"authorization": f"Bearer {key}"}).status_code == 200
    ids = RequestIds(most=2)
    for name in ("a", "b", "c", "a"):
        with ids.taken("me", name):
            pass
    for name in ("a", "b", "c"):  # the ids of one key do not displace the ids of another key
        with ids.taken("you", name):
            pass
    with pytest.raises(Repeated), ids.taken("me", "c"):
        pass


def test_only_ones_own_tasks_are_found(build: Build) -> None:
    rig = build(keys="one,two")
    client, table = rig.client, rig.table
    task = client.post(CREATE, json=ASKED, headers={"authorization": "one"}).json()["id"]
    assert client.get(f"{BASE}/async-result/{task}", headers={"authorization": "Bearer one"}).status_code == 200
    for path in (f"{BASE}/async-result/{task}", f"/302/v2/video/fetch/{task}"):
        assert client.get(path, headers={"authorization": "Bearer two"}).status_code == 404
    theirs = table.add("fal")
    assert client.get(f"{BASE}/async-result/{theirs.id}", headers={"authorization": "one"}).status_code == 404


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (None, None)),
        ({"resolution": "1080p"}, (1920, 1080)),
        ({"resolution": "720p", "aspect_ratio": "9:16"}, (720, 1280)),
        ({"resolution": "4K", "aspect_ratio": "1:1"}, (2160, 2160)),
        ({"aspect_ratio": "9:16"}, (480, 854)),
        ({"aspect_ratio": "4:3"}, (640, 480)),
        ({"resolution": "1280x720", "aspect_ratio": "9:16"}, (1280, 720)),
        ({"size": "1024x1024", "resolution": "720p"}, (1024, 1024)),
    ],
)
def test_the_unified_form_has_its_own_words_for_size(
    served: Rig, fields: dict[str, Any], size: tuple[int | None, int | None]
) -> None:
    request = made(served, UNIFIED, **fields)
    assert (request.width, request.height) == size
    assert not any(note.startswith("aspect_ratio") for note in notes_of(served, UNIFIED, **fields))


def test_the_unified_form(served: Rig) -> None:
    client, table, intake = served.client, served.table, served.intake
    body = {"model": "CogVideoX_2-T2V", "prompt": "p", "negative_prompt": "blurry", "duration": "10", "image": [BLUE]}
    answer = client.post(f"{UNIFIED}?webhook=http://x/hook", json=body).json()
    assert any(note.startswith("webhook: ignored") for note in answer["notes"])
    request = table.last.request
    assert (request.negative_prompt, request.duration, intake.seen) == ("blurry", 10, [("image", BLUE)])
    result = client.get(f"/302/v2/video/fetch/{answer['task_id']}").json()
    assert (result["model"], result["mode"], result["status"]) == ("CogVideoX_2-T2V", "i2v", "completed")
    assert result["raw_response"] == client.get(f"{BASE}/async-result/{answer['task_id']}").json()


def test_the_unified_form_takes_files(served: Rig) -> None:
    client, table, intake = served.client, served.table, served.intake
    fields = {"model": "cogvideox-3", "prompt": "p", "fps": "60", "end_image": "", "quality": "true"}
    assert client.post(UNIFIED, data=fields, files={"image": ("a.png", b"bytes")}).status_code == 200
    assert intake.seen == [("image", b"bytes")]
    assert (table.last.request.fps, table.last.request.num_inference_steps) == (60, None)
    broken = client.post(UNIFIED, content=b"--x\r\nnothing", headers={"content-type": "multipart/form-data"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "1210")


def test_schemas_are_documented(served: Rig) -> None:
    document = served.app.openapi()
    assert set(document["paths"]) == {
        CREATE,
        f"{BASE}/async-result/{{task_id}}",
        "/cogvideox/v4/async-results",
        UNIFIED,
        "/302/v2/video/fetch/{task_id}",
    }
    for name in ("VideoGeneration", "UnifiedVideo", "Tasks"):
        for field in document["components"]["schemas"][name]["properties"].values():
            assert len(field["examples"]) == 2
            assert field["examples"][0] != field["examples"][1]
    content = document["paths"][UNIFIED]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}


def test_browsers(served: Rig) -> None:
    answer = served.client.post(CREATE, json={}, headers={"origin": "http://page"})
    assert answer.headers["access-control-allow-origin"] == "*"
