"""OpenAI's façade answers for videos in every state, without a worker."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pipelines.request import GenerationRequest
from server.facades.kit.samples import BLUE, RED
from server.jobs.job import Status
from tests.rigs import golden
from tests.rigs.facade_rig import Build, Rig, hang_up
from tests.rigs.job_table import POSTER, VIDEO, Table, cancel, fail, hold

TIMES = ("created_at", "completed_at", "created")


def video_id(table: Table) -> str:
    return "video_" + table.last.id.replace("-", "")


def check(name: str, table: Table, answer: Any) -> None:
    names = {job.id: f"<job {n}>" for n, job in enumerate(table.jobs, 1)}
    names |= {f"video_{job_id.replace('-', '')}": name.replace("job", "video") for job_id, name in names.items()}
    names |= {job.video.key: f"key-<job {n}>" for n, job in enumerate(table.jobs, 1) if job.video}
    golden.check(f"openai/{name}", answer, times=TIMES, replace=names)


def test_a_video_in_every_state(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    answer = client.post("/v1/videos", files={"prompt": (None, "a"), "seconds": (None, "8"), "seed": (None, "5")})
    check("queued", table, answer)
    assert int(answer.headers["openai-poll-after-ms"]) > 0
    path = f"/v1/videos/{answer.json()['id']}"
    assert path.endswith(video_id(table))
    assert client.get(path).json() == answer.json()
    table.start(table.last.id)
    table.progress(table.last.id, step=7, steps=50)
    running = client.get(path)
    check("in_progress", table, running)
    assert int(running.headers["openai-poll-after-ms"]) > 0
    table.finish(table.last.id)
    done = client.get(path)
    check("completed", table, done)
    assert "openai-poll-after-ms" not in done.headers
    assert client.get(f"/openai{path}").json() == done.json()


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("failed", fail("out_of_memory", "not enough memory for 1280x720")),
        ("failed_input", fail("media_error", "the file is torn", "image")),
        ("failed_length", fail("invalid_request", "at most 1000 frames are possible", "duration")),
        ("cancelled", cancel),
    ],
)
def test_a_video_that_was_not_made(served: Rig, name: str, end: Any) -> None:
    client, table = served.client, served.table
    table.end = end
    client.post("/v1/videos", json={"prompt": "a"})
    path = f"/v1/videos/{video_id(table)}"
    check(name, table, client.get(path))
    check(f"{name}_content", table, client.get(f"{path}/content"))
    table.end = hold
    assert client.post(f"{path}/remix", json={"prompt": "b"}).status_code == 400


def test_progress_ends_at_99_until_the_film_is_there(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    client.post("/v1/videos", json={"prompt": "a"})
    table.start(table.last.id)
    for step, steps, progress in ((0, 0, 0), (1, 3, 33), (50, 50, 99)):
        table.progress(table.last.id, step=step, steps=steps)
        assert client.get(f"/v1/videos/{video_id(table)}").json()["progress"] == progress


def request_of(served: Rig, **fields: Any) -> GenerationRequest:
    client, table = served.client, served.table
    answer = client.post("/v1/videos", json={"prompt": "a", **fields})
    assert answer.status_code == 200, answer.text
    return table.last.request


def frames_of(served: Rig) -> int:
    plan = served.table.last.plan
    assert plan is not None
    return int(plan["num_frames"])


def test_defaults(served: Rig) -> None:
    request = request_of(served, model=None, seconds=None, input_reference=None)
    assert (frames_of(served), request.fps) == (32, 8), "4 seconds at the model's rate"
    assert (request.width, request.height) == (720, 480)
    assert (request.num_inference_steps, request.guidance_scale, request.negative_prompt) == (None, None, "")
    assert request.image is None


@pytest.mark.parametrize(
    ("fields", "frames", "fps", "told"),
    [
        ({"seconds": 8}, 64, 8, "8"),
        ({"seconds": "12"}, 96, 8, "12"),
        ({"seconds": 1}, 8, 8, "1"),
        ({"seconds": "4", "fps": 24}, 96, 24, "4"),
        ({"num_frames": 49}, 49, 8, "6.125"),
        ({"num_frames": "50", "fps": "25", "seconds": 9}, 50, 25, "2"),
        ({"video_params": {"num_frames": 16}}, 16, 8, "2"),
        ({"video_params": '{"num_frames": 16, "fps": 4}', "fps": 8}, 16, 8, "2"),
        ({"extra_params": '{"num_frames": 16}', "video_params": {"num_frames": 24}}, 24, 8, "3"),
    ],
)
def test_length(served: Rig, fields: dict[str, Any], frames: int, fps: int, told: str) -> None:
    request = request_of(served, **fields)
    assert (frames_of(served), request.fps, request.interpolate_fps) == (frames, fps, None)
    assert served.client.get(f"/v1/videos/{video_id(served.table)}").json()["seconds"] == told


@pytest.mark.parametrize(
    ("fields", "smooth"), [({"fps": 24}, 24), ({"fps": 4}, None), ({}, None), ({"fps": 24, "num_frames": 49}, None)]
)
def test_frames_between_the_models_are_drawn_where_they_can_be(
    build: Build, fields: dict[str, Any], smooth: int | None
) -> None:
    served = build(rife=True)
    request = request_of(served, **fields)
    assert request.interpolate_fps == smooth
    assert frames_of(served) == fields.get("num_frames", 4 * fields.get("fps", 8))


@pytest.mark.parametrize(
    ("fields", "size", "told"),
    [
        ({"size": "1280x720"}, (1280, 720), "1280x720"),
        ({"size": " 480X720 "}, (480, 720), "480x720"),
        ({"size": "1280x720", "width": 320, "height": 240}, (1280, 720), "1280x720"),
        ({"width": 320, "height": "240"}, (320, 240), "320x240"),
        ({"width": 360}, (360, None), "360x240"),
        ({"video_params": {"width": 320, "height": 240}}, (320, 240), "320x240"),
        ({"size": "321x241"}, (321, 241), "322x242"),
    ],
)
def test_size(served: Rig, fields: dict[str, Any], size: tuple[int, int], told: str) -> None:
    request = request_of(served, **fields)
    assert (request.width, request.height) == size
    assert served.client.get(f"/v1/videos/{video_id(served.table)}").json()["size"] == told


def test_the_knobs_of_others(served: Rig) -> None:
    knobs = {"negative_prompt": "blurry", "num_inference_steps": "30", "guidance_scale": "7.5", "seed": "3"}
    for fields in (knobs, {"extra_params": knobs}, {"extra_params": json.dumps(knobs), "guidance_scale": ""}):
        if "guidance_scale" in fields and not fields["guidance_scale"]:
            answer = served.client.post("/v1/videos", data={"prompt": "a", **fields})  # an empty form field
            assert answer.status_code == 200
            request = served.table.last.request
        else:
            request = request_of(served, **fields)
        assert (request.negative_prompt, request.num_inference_steps) == ("blurry", 30)
        assert (request.guidance_scale, request.seed) == (7.5, 3)


def test_notes_say_what_is_done_otherwise(served: Rig) -> None:
    client = served.client
    notes = client.post("/v1/videos", json={"prompt": "a", "size": "1280x720", "seconds": 8}).json()["notes"]
    assert any("1280x720 -> 720x480" in note for note in notes)
    assert any("at most 49 frames" in note for note in notes)
    assert client.post("/v1/videos", json={"prompt": "a"}).json()["notes"] == []


PICTURES: list[tuple[dict[str, Any], tuple[str, str | bytes]]] = [
    ({"files": {"prompt": (None, "a"), "input_reference": ("a.png", b"bytes")}}, ("input_reference", b"bytes")),
    ({"files": {"prompt": (None, "a"), "input_reference[image_url]": (None, RED)}}, ("input_reference", RED)),
    ({"files": {"prompt": (None, "a"), "input_reference": (None, RED)}}, ("input_reference", RED)),
    ({"data": {"prompt": "a", "input_reference": json.dumps({"image_url": RED})}}, ("input_reference", RED)),
    ({"json": {"prompt": "a", "input_reference": RED}}, ("input_reference", RED)),
    ({"json": {"prompt": "a", "input_reference": {"image_url": RED, "file_id": None}}}, ("input_reference", RED)),
    ({"json": {"prompt": "a", "image_reference": {"image_url": BLUE}}}, ("image_reference", BLUE)),
    ({"data": {"prompt": "a", "image_reference": json.dumps({"image_url": BLUE})}}, ("image_reference", BLUE)),
]


@pytest.mark.parametrize(("sent", "seen"), PICTURES)
def test_pictures(served: Rig, sent: dict[str, Any], seen: tuple[str, str | bytes]) -> None:
    client, table, intake = served.client, served.table, served.intake
    assert client.post("/v1/videos", **sent).status_code == 200
    assert intake.seen == [seen]
    assert table.last.request.image is not None
    assert len(json.dumps(table.last.memo)) < 1000, "no image in the job table"


def test_a_large_picture_in_a_text_of_a_form(served: Rig) -> None:
    client, intake = served.client, served.intake
    large = "data:image/png;base64," + "A" * (3 * 2**20)
    assert client.post("/v1/videos", files={"prompt": (None, "a"), "input_reference": (None, large)}).status_code == 200
    assert intake.seen == [("input_reference", large)]


def test_forms_that_browsers_and_curl_send(served: Rig) -> None:
    client, table, intake = served.client, served.table, served.intake
    raw = b'{"prompt": "a", "seed": 5}'
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "application/json;charset:x;"):
        assert client.post("/v1/videos", content=raw, headers={"content-type": kind}).status_code == 200
        assert table.last.request.seed == 5
    assert client.post("/v1/videos", data={"prompt": "b c", "seed": "6"}).status_code == 200
    assert (table.last.request.prompt, table.last.request.seed) == ("b c", 6)
    empty = {"prompt": (None, "a"), "input_reference": ("", b"", "application/octet-stream"), "model": (None, "")}
    assert client.post("/v1/videos", files=empty).status_code == 200
    assert (table.last.request.image, intake.seen) == (None, [])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sora-2", "sora-2"),
        ("sora-2-pro", "sora-2-pro"),
        ("sora-2-2025-12-08", "sora-2-2025-12-08"),
        ("cogvideox-5b", "cogvideox-5b"),
        ("zai-org/CogVideoX-5b", "cogvideox-5b"),
        (None, "cogvideox-5b"),
    ],
)
@pytest.mark.parametrize("picture", [None, RED])
def test_models_that_are_taken(served: Rig, name: str | None, told: str, picture: str | None) -> None:
    answer = served.client.post("/v1/videos", json={"prompt": "a", "model": name, "input_reference": picture})
    used = told if picture is None or told.startswith("sora") else f"{told}-i2v"
    assert (answer.status_code, answer.json()["model"]) == (200, used)


def test_remix(served: Rig) -> None:
    client, table = served.client, served.table
    body = {"prompt": "a", "model": "sora-2", "size": "480x720", "negative_prompt": "n", "input_reference": RED}
    client.post("/v1/videos", json=body)
    first, old = video_id(table), table.last
    table.end = hold
    answer = client.post(f"/v1/videos/{first}/remix", json={"prompt": "b"})
    check("remix", table, answer)
    assert table.last.request == replace(old.request, prompt="b"), "the seed, the image and everything else stay"
    table.start(table.last.id)
    table.finish(table.last.id)
    third = client.post(f"/v1/videos/{video_id(table)}/remix", data={"prompt": "c"}).json()
    assert (third["prompt"], third["remixed_from_video_id"]) == ("c", answer.json()["id"])
    assert client.get(f"/v1/videos/{first}").json()["prompt"] == "a"


@pytest.mark.parametrize("asked", [{}, {"extend": False}, {"extra_params": {"extend": False}}])
def test_a_remix_is_extended_where_its_client_said_so(served: Rig, asked: dict[str, Any]) -> None:
    """A remix keeps the value of `extend` that the client gave. If the client gave no value, the server's setting
    decides again."""
    client, table = served.client, served.table
    table.end = hold
    client.post("/v1/videos", json={"prompt": "a", **asked})
    table.start(table.last.id)
    if not asked:
        extended = replace(table.last.request, extend=True)
        table.progress(table.last.id, request=extended.to_dict())
    table.finish(table.last.id)
    assert client.post(f"/v1/videos/{video_id(table)}/remix", json={"prompt": "b"}).status_code == 200
    assert table.last.request.extend is (False if asked else None)


def test_list_is_paged(served: Rig) -> None:
    client, table = served.client, served.table
    check("list_empty", table, client.get("/v1/videos"))
    ids = [client.post("/v1/videos", json={"prompt": str(n)}).json()["id"] for n in range(5)]
    table.add("fal")
    seen, after = [], ""
    while True:
        page = client.get(f"/v1/videos?limit=2&after={after}").json()
        seen += [video["id"] for video in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert seen == ids[::-1]
    assert [v["id"] for v in client.get("/v1/videos?order=asc").json()["data"]] == ids
    check("list", table, client.get(f"/v1/videos?order=asc&limit=1&after={ids[1]}"))


def test_a_program_that_deletes_what_it_lists_meets_all(served: Rig) -> None:
    client, table = served.client, served.table
    for n in range(5):
        client.post("/v1/videos", json={"prompt": str(n)})
    path, deleted = "/v1/videos?limit=2", 0
    while True:
        page = client.get(path).json()
        for video in page["data"]:
            assert client.delete(f"/v1/videos/{video['id']}").status_code == 200
            deleted += 1
        if not page["has_more"]:
            break
        path = f"/v1/videos?limit=2&after={page['last_id']}"
    assert (deleted, table.jobs) == (5, [])


def test_delete(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    client.post("/v1/videos", json={"prompt": "a"})
    table.start(table.last.id)
    path = f"/v1/videos/{video_id(table)}"
    golden.check("openai/deleted", client.delete(path), replace={path.rpartition("/")[2]: "<video 1>"})
    assert client.get(path).status_code == client.delete(path).status_code == 404


def test_content(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    client.post("/v1/videos", json={"prompt": "a"})
    path = f"/v1/videos/{video_id(table)}/content"
    check("content_early", table, client.get(path))
    table.start(table.last.id)
    check("content_early", table, client.get(f"{path}?variant=thumbnail"))
    table.finish(table.last.id)
    for query, content, kind in (
        ("", VIDEO, "video/mp4"),
        ("?variant=video", VIDEO, "video/mp4"),
        ("?variant=thumbnail", POSTER, "image/jpeg"),
    ):
        answer = client.get(path + query, headers={"accept": "application/binary"})
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, content, kind)
        assert answer.headers["content-length"] == str(len(content))
    check("content_unknown_variant", table, client.get(f"{path}?variant=poster"))


def test_sync(served: Rig) -> None:
    client, table = served.client, served.table
    answer = client.post("/v1/videos/sync", files={"prompt": (None, "a"), "num_frames": (None, "9")})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, VIDEO, "video/mp4")
    assert (answer.headers["x-request-id"], answer.headers["x-model"]) == (video_id(table), "cogvideox-5b")
    assert float(answer.headers["x-inference-time-s"]) >= 0
    assert table.last.request.num_frames == 9
    assert client.get(f"/v1/videos/{answer.headers['x-request-id']}/content").content == VIDEO


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("sync_failed", fail("worker_lost", "the worker died")),
        ("sync_failed_input", fail("media_error", "the file is torn", "image")),
        ("sync_cancelled", cancel),
    ],
)
def test_sync_that_fails_is_not_sent_again(served: Rig, name: str, end: Any) -> None:
    client, table = served.client, served.table
    table.end = end
    answer = client.post("/v1/videos/sync", json={"prompt": "a"})
    check(name, table, answer)
    assert answer.status_code == 400 or answer.headers["x-should-retry"] == "false"


def test_hanging_up_ends_a_sync_call(served: Rig) -> None:
    table = served.table
    table.end = hold
    hang_up(served, "/v1/videos/sync", b'{"prompt": "a"}')
    assert table.last.status is Status.CANCELLED


def test_models(served: Rig) -> None:
    client, table = served.client, served.table
    check("models", table, client.get("/v1/models"))
    for name in ("cogvideox-5b", "cogvideox-5b-i2v", "sora-2"):
        answer = client.get(f"/v1/models/{name}")
        assert (answer.status_code, answer.json()["id"], answer.json()["object"]) == (200, name, "model")
    check("model_unknown", table, client.get("/v1/models/gpt-4"))


def test_other_keys_see_nothing(build: Build) -> None:
    rig = build(keys="mine,yours")
    client, table = rig.client, rig.table
    mine, yours = ({"authorization": f"Bearer {key}"} for key in ("mine", "yours"))
    path = f"/v1/videos/{client.post('/v1/videos', json={'prompt': 'a'}, headers=mine).json()['id']}"
    assert client.get(path, headers=mine).status_code == 200
    for answer in (
        client.get(path, headers=yours),
        client.get(f"{path}/content", headers=yours),
        client.delete(path, headers=yours),
        client.post(f"{path}/remix", json={"prompt": "b"}, headers=yours),
    ):
        assert answer.status_code == 404
    assert client.get("/v1/videos", headers=yours).json()["data"] == []
    assert client.get(f"/v1/videos?after={path.rpartition('/')[2]}", headers=yours).status_code == 400
    assert len(table.jobs) == 1


def test_browsers(served: Rig) -> None:
    client = served.client
    answer = client.post("/v1/videos", json={}, headers={"origin": "http://page"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (400, "*")
    asked = {"origin": "http://page", "access-control-request-method": "DELETE"}
    assert client.options("/v1/videos/video_x", headers=asked).status_code == 200


def test_schemas_are_documented(served: Rig) -> None:
    document = served.app.openapi()
    schemas = document["components"]["schemas"]
    assert {"CreateVideo", "RemixVideo", "CreateFile", "ExpiresAfter"} <= set(schemas)
    for name in ("CreateVideo", "RemixVideo", "CreateFile"):
        for field, spec in schemas[name]["properties"].items():
            assert len({json.dumps(example) for example in spec["examples"]}) == 2, f"{name}.{field}"
    content = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    listed = document["paths"]["/v1/videos"]["get"]["parameters"]
    assert {one["name"] for one in listed} == {"after", "limit", "order"}
    shown = document["paths"]["/v1/videos/{video_id}/content"]["get"]["parameters"]
    assert {one["name"] for one in shown} == {"video_id", "variant"}


@pytest.mark.parametrize("field", ["input_reference", "image_reference", "video_params", "extra_params", "prompt"])
def test_documented_examples_are_taken(served: Rig, field: str) -> None:
    from server.facades.openai.models import CreateVideo

    for example in CreateVideo.model_json_schema()["properties"][field]["examples"]:
        assert served.client.post("/v1/videos", json={"prompt": "a", field: example}).status_code == 200
