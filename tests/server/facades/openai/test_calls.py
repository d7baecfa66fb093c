"""OpenAI's façade in every state a video can have, over jobs that end on command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from pipelines.request import GenerationRequest
from server.facades import openai
from server.facades.kit.samples import BLUE, RED
from server.jobs.job import JobError, Status
from server.jobs.order import Order
from tests.rigs import golden, pace
from tests.rigs.clients.fake import VIDEO, FakeIntake, FakeJobs, fail, fake_context, hold

Served = tuple[TestClient, FakeJobs, FakeIntake]
TIMES = ("created_at", "completed_at", "created")


def build(**settings: Any) -> Served:
    context, jobs, intake = fake_context(**settings)
    client = TestClient(openai.FACADE.create(context), base_url="http://here:8000", raise_server_exceptions=False)
    return client, jobs, intake


@pytest.fixture
def served() -> Iterator[Served]:
    client, jobs, intake = build()
    with client:
        yield client, jobs, intake


def video_id(jobs: FakeJobs) -> str:
    return "video_" + jobs.last.id.replace("-", "")


def check(name: str, jobs: FakeJobs, answer: Any) -> None:
    names = {job.id: f"<job {n}>" for n, job in enumerate(jobs.jobs.values(), 1)}
    names |= {f"video_{job_id.replace('-', '')}": name.replace("job", "video") for job_id, name in names.items()}
    golden.check(f"openai/{name}", answer, times=TIMES, replace=names)


def test_a_video_in_every_state(served: Served) -> None:
    client, jobs, _ = served
    jobs.end = hold
    answer = client.post("/v1/videos", files={"prompt": (None, "a"), "seconds": (None, "8"), "seed": (None, "5")})
    check("queued", jobs, answer)
    assert int(answer.headers["openai-poll-after-ms"]) > 0
    path = f"/v1/videos/{answer.json()['id']}"
    assert path.endswith(video_id(jobs))
    assert client.get(path).json() == answer.json()
    jobs.start(jobs.last.id)
    jobs.jobs[jobs.last.id] = replace(jobs.last, step=7, steps=50)
    running = client.get(path)
    check("in_progress", jobs, running)
    assert int(running.headers["openai-poll-after-ms"]) > 0
    jobs.finish(jobs.last.id)
    done = client.get(path)
    check("completed", jobs, done)
    assert "openai-poll-after-ms" not in done.headers
    assert client.get(f"/openai{path}").json() == done.json()


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("failed", fail("out_of_memory", "not enough memory for 1280x720")),
        ("failed_input", fail("media_error", "the file is torn", "image")),
        ("failed_length", fail("invalid_request", "at most 1000 frames are possible", "duration")),
        ("cancelled", lambda jobs, job_id: jobs.cancel(job_id)),
    ],
)
def test_a_video_that_was_not_made(served: Served, name: str, end: Any) -> None:
    client, jobs, _ = served
    jobs.end = end
    client.post("/v1/videos", json={"prompt": "a"})
    path = f"/v1/videos/{video_id(jobs)}"
    check(name, jobs, client.get(path))
    check(f"{name}_content", jobs, client.get(f"{path}/content"))
    jobs.end = hold
    assert client.post(f"{path}/remix", json={"prompt": "b"}).status_code == 400


def test_progress_ends_at_99_until_the_film_is_there(served: Served) -> None:
    client, jobs, _ = served
    jobs.end = hold
    client.post("/v1/videos", json={"prompt": "a"})
    jobs.start(jobs.last.id)
    for step, steps, progress in ((0, 0, 0), (1, 3, 33), (50, 50, 99)):
        jobs.jobs[jobs.last.id] = replace(jobs.last, step=step, steps=steps)
        assert client.get(f"/v1/videos/{video_id(jobs)}").json()["progress"] == progress


def request_of(served: Served, **fields: Any) -> GenerationRequest:
    client, jobs, _ = served
    answer = client.post("/v1/videos", json={"prompt": "a", **fields})
    assert answer.status_code == 200, answer.text
    return jobs.last.request


def frames_of(served: Served) -> int:
    plan = served[1].last.plan
    assert plan is not None
    return int(plan["num_frames"])


def test_defaults(served: Served) -> None:
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
def test_length(served: Served, fields: dict[str, Any], frames: int, fps: int, told: str) -> None:
    request = request_of(served, **fields)
    assert (frames_of(served), request.fps, request.interpolate_fps) == (frames, fps, None)
    assert served[0].get(f"/v1/videos/{video_id(served[1])}").json()["seconds"] == told


@pytest.mark.parametrize(
    ("fields", "smooth"), [({"fps": 24}, 24), ({"fps": 4}, None), ({}, None), ({"fps": 24, "num_frames": 49}, None)]
)
def test_frames_between_the_models_are_drawn_where_they_can_be(
    served: Served, fields: dict[str, Any], smooth: int | None
) -> None:
    served[1].rife_available = True
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
def test_size(served: Served, fields: dict[str, Any], size: tuple[int, int], told: str) -> None:
    request = request_of(served, **fields)
    assert (request.width, request.height) == size
    assert served[0].get(f"/v1/videos/{video_id(served[1])}").json()["size"] == told


def test_the_knobs_of_others(served: Served) -> None:
    knobs = {"negative_prompt": "blurry", "num_inference_steps": "30", "guidance_scale": "7.5", "seed": "3"}
    for fields in (knobs, {"extra_params": knobs}, {"extra_params": json.dumps(knobs), "guidance_scale": ""}):
        if "guidance_scale" in fields and not fields["guidance_scale"]:
            answer = served[0].post("/v1/videos", data={"prompt": "a", **fields})  # an empty box of a form
            assert answer.status_code == 200
            request = served[1].last.request
        else:
            request = request_of(served, **fields)
        assert (request.negative_prompt, request.num_inference_steps) == ("blurry", 30)
        assert (request.guidance_scale, request.seed) == (7.5, 3)


def test_notes_say_what_is_done_otherwise(served: Served) -> None:
    client, _, _ = served
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
def test_pictures(served: Served, sent: dict[str, Any], seen: tuple[str, str | bytes]) -> None:
    client, jobs, intake = served
    assert client.post("/v1/videos", **sent).status_code == 200
    assert intake.seen == [seen]
    assert jobs.last.request.image is not None
    assert len(json.dumps(jobs.last.memo)) < 1000, "no picture in the job table"


def test_a_large_picture_in_a_text_of_a_form(served: Served) -> None:
    client, _, intake = served
    large = "data:image/png;base64," + "A" * (3 * 2**20)
    assert client.post("/v1/videos", files={"prompt": (None, "a"), "input_reference": (None, large)}).status_code == 200
    assert intake.seen == [("input_reference", large)]


def test_forms_that_browsers_and_curl_send(served: Served) -> None:
    client, jobs, intake = served
    raw = b'{"prompt": "a", "seed": 5}'
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "application/json;charset:x;"):
        assert client.post("/v1/videos", content=raw, headers={"content-type": kind}).status_code == 200
        assert jobs.last.request.seed == 5
    assert client.post("/v1/videos", data={"prompt": "b c", "seed": "6"}).status_code == 200
    assert (jobs.last.request.prompt, jobs.last.request.seed) == ("b c", 6)
    empty = {"prompt": (None, "a"), "input_reference": ("", b"", "application/octet-stream"), "model": (None, "")}
    assert client.post("/v1/videos", files=empty).status_code == 200
    assert (jobs.last.request.image, intake.seen) == (None, [])


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
def test_models_that_are_taken(served: Served, name: str | None, told: str, picture: str | None) -> None:
    answer = served[0].post("/v1/videos", json={"prompt": "a", "model": name, "input_reference": picture})
    assert (answer.status_code, answer.json()["model"]) == (200, told)


def test_remix(served: Served) -> None:
    client, jobs, _ = served
    body = {"prompt": "a", "model": "sora-2", "size": "480x720", "negative_prompt": "n", "input_reference": RED}
    client.post("/v1/videos", json=body)
    first, old = video_id(jobs), jobs.last
    jobs.end = hold
    answer = client.post(f"/v1/videos/{first}/remix", json={"prompt": "b"})
    check("remix", jobs, answer)
    assert jobs.last.request == replace(old.request, prompt="b"), "seed, picture and all else stay"
    jobs.start(jobs.last.id)
    jobs.finish(jobs.last.id)
    third = client.post(f"/v1/videos/{video_id(jobs)}/remix", data={"prompt": "c"}).json()
    assert (third["prompt"], third["remixed_from_video_id"]) == ("c", answer.json()["id"])
    assert client.get(f"/v1/videos/{first}").json()["prompt"] == "a"


@pytest.mark.parametrize("asked", [{}, {"extend": False}, {"extra_params": {"extend": False}}])
def test_a_remix_is_extended_where_its_client_said_so(served: Served, asked: dict[str, Any]) -> None:
    """What the server's setting made of the old one is left to the setting."""
    client, jobs, _ = served
    client.post("/v1/videos", json={"prompt": "a", **asked})
    if not asked:
        jobs.jobs[jobs.last.id] = replace(jobs.last, request=replace(jobs.last.request, extend=True))
    assert client.post(f"/v1/videos/{video_id(jobs)}/remix", json={"prompt": "b"}).status_code == 200
    assert jobs.last.request.extend is (False if asked else None)


def test_list_is_paged(served: Served) -> None:
    client, jobs, _ = served
    check("list_empty", jobs, client.get("/v1/videos"))
    ids = [client.post("/v1/videos", json={"prompt": str(n)}).json()["id"] for n in range(5)]
    jobs.refuse(Order("fal", "x", ""), JobError("internal", "m"))
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
    check("list", jobs, client.get(f"/v1/videos?order=asc&limit=1&after={ids[1]}"))


def test_a_program_that_deletes_what_it_lists_meets_all(served: Served) -> None:
    client, jobs, _ = served
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
    assert (deleted, jobs.jobs) == (5, {})


def test_delete(served: Served) -> None:
    client, jobs, _ = served
    jobs.end = hold
    client.post("/v1/videos", json={"prompt": "a"})
    jobs.start(jobs.last.id)
    path = f"/v1/videos/{video_id(jobs)}"
    known = jobs.last
    answer = client.delete(path)
    jobs.jobs[known.id] = known
    check("deleted", jobs, answer)
    del jobs.jobs[known.id]
    assert client.get(path).status_code == client.delete(path).status_code == 404


def test_content(served: Served) -> None:
    client, jobs, _ = served
    jobs.end = hold
    client.post("/v1/videos", json={"prompt": "a"})
    path = f"/v1/videos/{video_id(jobs)}/content"
    check("content_early", jobs, client.get(path))
    jobs.start(jobs.last.id)
    check("content_early", jobs, client.get(f"{path}?variant=thumbnail"))
    jobs.finish(jobs.last.id)
    for query, kind in (("", "video/mp4"), ("?variant=video", "video/mp4"), ("?variant=thumbnail", "image/jpeg")):
        answer = client.get(path + query, headers={"accept": "application/binary"})
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, VIDEO, kind)
        assert answer.headers["content-length"] == str(len(VIDEO))
    check("content_unknown_variant", jobs, client.get(f"{path}?variant=poster"))


def test_sync(served: Served) -> None:
    client, jobs, _ = served
    answer = client.post("/v1/videos/sync", files={"prompt": (None, "a"), "num_frames": (None, "9")})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, VIDEO, "video/mp4")
    assert (answer.headers["x-request-id"], answer.headers["x-model"]) == (video_id(jobs), "cogvideox-5b")
    assert float(answer.headers["x-inference-time-s"]) >= 0
    assert jobs.last.request.num_frames == 9
    assert client.get(f"/v1/videos/{answer.headers['x-request-id']}/content").content == VIDEO


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("sync_failed", fail("worker_lost", "the worker died")),
        ("sync_failed_input", fail("media_error", "the file is torn", "image")),
        ("sync_cancelled", lambda jobs, job_id: jobs.cancel(job_id)),
    ],
)
def test_sync_that_fails_is_not_sent_again(served: Served, name: str, end: Any) -> None:
    client, jobs, _ = served
    jobs.end = end
    answer = client.post("/v1/videos/sync", json={"prompt": "a"})
    check(name, jobs, answer)
    assert answer.status_code == 400 or answer.headers["x-should-retry"] == "false"


def test_hanging_up_ends_a_sync_call() -> None:
    context, jobs, _ = fake_context()
    jobs.end = hold
    app = openai.FACADE.create(context)
    messages = [{"type": "http.request", "body": b'{"prompt": "a"}', "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        while not jobs.jobs:
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/videos/sync", "query_string": b"", "root_path": ""}
    asyncio.run(asyncio.wait_for(app({**scope, "headers": [(b"host", b"here")]}, receive, send), pace.seconds(30)))
    assert jobs.last.status is Status.CANCELLED


def test_models(served: Served) -> None:
    client, jobs, _ = served
    check("models", jobs, client.get("/v1/models"))
    for name in ("cogvideox-5b", "cogvideox-5b-i2v", "sora-2"):
        answer = client.get(f"/v1/models/{name}")
        assert (answer.status_code, answer.json()["id"], answer.json()["object"]) == (200, name, "model")
    check("model_unknown", jobs, client.get("/v1/models/gpt-4"))


def test_other_keys_see_nothing() -> None:
    client, jobs, _ = build(keys="mine,yours")
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
    assert len(jobs.jobs) == 1


def test_browsers(served: Served) -> None:
    client, _, _ = served
    answer = client.post("/v1/videos", json={}, headers={"origin": "http://page"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (400, "*")
    asked = {"origin": "http://page", "access-control-request-method": "DELETE"}
    assert client.options("/v1/videos/video_x", headers=asked).status_code == 200


def test_schemas_are_documented() -> None:
    context, _, _ = fake_context()
    document = openai.FACADE.create(context).openapi()
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
def test_documented_examples_are_taken(served: Served, field: str) -> None:
    from server.facades.openai.models import CreateVideo

    for example in CreateVideo.model_json_schema()["properties"][field]["examples"]:
        assert served[0].post("/v1/videos", json={"prompt": "a", field: example}).status_code == 200
