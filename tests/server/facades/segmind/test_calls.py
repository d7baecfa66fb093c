"""Segmind's façade answers for every job state and every error, without a worker."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from server.errors import DiskFull, NoModel, QueueFull
from server.facades.kit.errors import Unavailable
from server.jobs.job import Status
from tests.rigs.facade_rig import Build, Rig, hang_up
from tests.rigs.facades.segmind import I2V, T2V
from tests.rigs.job_table import VIDEO, cancel, fail, hold
from tests.rigs.stand_ins import PICTURE


def test_defaults_are_segminds(served: Rig) -> None:
    client, table = served.client, served.table
    assert client.post(T2V, json={"prompt": "a", "steps": None}).status_code == 200
    request = table.last.request
    assert (request.num_frames, request.num_inference_steps, request.guidance_scale, request.fps) == (49, 45, 6, 8)
    assert (request.seed, request.negative_prompt) == (806286757407563, "low quality, blurry")
    assert client.post(I2V, json={"prompt": "a", "image": PICTURE}).status_code == 200
    request = table.last.request
    assert (request.num_frames, request.num_inference_steps, request.guidance_scale, request.fps) == (None,) * 4
    assert (request.seed, request.negative_prompt.count(".")) == (42, 3)


def test_a_seed_of_minus_one_is_drawn(served: Rig) -> None:
    client, table = served.client, served.table
    answer = client.post(T2V, json={"prompt": "a", "seed": -1})
    assert answer.headers["x-seed-value"] == str(table.last.request.seed)
    assert 0 <= int(answer.headers["x-seed-value"]) < 2**32


def test_binary_form(served: Rig) -> None:
    client, table = served.client, served.table
    answer = client.post(T2V, json={"prompt": "a"})
    assert answer.content == VIDEO
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-length"] == str(len(VIDEO))
    assert answer.headers["x-request-id"] == table.last.id
    assert float(answer.headers["x-generation-time"]) >= 0
    assert answer.headers["x-cost"] == "0"
    assert int(answer.headers["x-remaining-credits"]) > 0
    body = client.get(f"/v2/requests/{table.last.id}").json()
    assert (body["status"], body["seed"]) == ("COMPLETED", 806286757407563)


def test_json_form(served: Rig) -> None:
    client, table = served.client, served.table
    answer = client.post(f"{T2V}?response=json", json={"prompt": "a"})
    body = answer.json()
    url = served.url(table.last.video)
    assert set(body) == {"status", "request_id", "error", "metrics", "video", "output", "seed"}
    assert (body["status"], body["error"], body["output"], body["seed"]) == ("COMPLETED", None, url, 806286757407563)
    assert body["video"] == {
        "url": url,
        "content_type": "video/mp4",
        "file_name": "film.mp4",
        "file_size": len(VIDEO),
    }
    assert set(body["metrics"]) == {
        "inference_time",
        "queue_time",
        "total_time",
        "cost",
        "remaining_credits",
        "retry_count",
    }
    assert answer.headers["x-request-id"] == body["request_id"] == table.last.id
    assert client.get(f"/v1/requests/{table.last.id}").json() == body
    assert client.get(f"/segmind/v2/requests/{table.last.id}/").json() == body


def test_base64(served: Rig) -> None:
    client, table = served.client, served.table
    body = client.post(T2V, json={"prompt": "a", "base64": "yes"}).json()
    assert base64.b64decode(body["video"]["base64"]) == VIDEO
    assert client.get(f"/v2/requests/{table.last.id}").json() == body


INVALID = [
    ({}, "prompt is required"),
    ({"prompt": "  "}, "prompt must not be blank"),
    ({"prompt": 5}, "prompt must be a string"),
    ({"prompt": "x" * 20_001}, "prompt must be at most 20000 characters"),
    ({"prompt": "a\0"}, "prompt must be plain text"),
    ({"prompt": "\ud800"}, "prompt must be plain text"),
    ({"prompt": "a", "input_frames": 61}, "input_frames must be between 16 and 60, got 61"),
    ({"prompt": "a", "input_frames": 15}, "input_frames must be between 16 and 60, got 15"),
    ({"prompt": "a", "input_frames": "x"}, "input_frames must be an integer between 16 and 60"),
    ({"prompt": "a", "input_frames": 20.5}, "input_frames must be an integer between 16 and 60"),
    ({"prompt": "a", "steps": 24}, "steps must be between 25 and 50, got 24"),
    ({"prompt": "a", "guidance_scale": 11}, "guidance_scale must be between 5 and 10, got 11"),
    ({"prompt": "a", "guidance_scale": []}, "guidance_scale must be a number between 5 and 10"),
    ({"prompt": "a", "frame_rate": 7}, "frame_rate must be between 8 and 10, got 7"),
    ({"prompt": "a", "seed": -2}, "seed must be between 0 and 9007199254740991, or -1"),
    ({"prompt": "a", "seed": 2**53}, "seed must be between 0 and 9007199254740991, or -1"),
    ({"prompt": "a", "seed": 10**400}, "seed must be between"),
    ({"prompt": "a", "seed": True}, "seed must be a number between -1 and 9007199254740991, got True"),
    ({"prompt": "a", "steps": True}, "steps must be a number between 25 and 50, got True"),
    ({"prompt": "a", "base64": "perhaps"}, "base64 must be true or false"),
    ({"prompt": "a", "steps": 1, "frame_rate": 1}, "frame_rate must be between"),
    ([], "must be a JSON object"),
]


@pytest.mark.parametrize(("body", "text"), INVALID)
@pytest.mark.parametrize("version", ["/v1", "/v2", "/segmind/v1"])
def test_invalid_input(served: Rig, version: str, body: Any, text: str) -> None:
    client, table = served.client, served.table
    answer = client.post(f"{version}/cog-video-5b-t2v", content=json.dumps(body))
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert text in answer.json()["error"]
    assert len(answer.json()["error"]) < 500
    assert not table.jobs


def test_invalid_image(served: Rig) -> None:
    client = served.client
    for image, text in ((None, "image is required"), (5, "image must be a string"), ("", "image"), ("a\0", "image")):
        answer = client.post(I2V, json={"prompt": "a", "image": image})
        assert answer.status_code == 400
        assert text in answer.json()["error"]
    answer = client.post(I2V, json={"prompt": "a", "image": "https://x/y.png"})
    assert answer.json() == {"error": "image: Nothing came from that address"}
    answer = client.post(I2V, json={"prompt": "a", "image": PICTURE, "steps": 3})
    assert answer.json() == {"error": "steps must be between 25 and 50, got 3"}


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (QueueFull(3), 429, "rate_limit_exceeded"),
        (DiskFull("no room"), 507, "no room"),
        (Unavailable("it is stopping"), 503, "it is stopping"),
        (NoModel("text-to-video", "no such model here"), 404, "no such model here"),
        (RuntimeError("secret"), 500, "Internal server error"),
    ],
)
def test_turned_away(served: Rig, error: Exception, code: int, text: str) -> None:
    client, table = served.client, served.table
    table.raises = error
    answer = client.post(T2V, json={"prompt": "a"})
    assert answer.status_code == code
    assert text in answer.json()["error"]
    assert "secret" not in answer.text
    assert ("x-rate-limit-reset-at-utc" in answer.headers) == (code == 429)


@pytest.mark.parametrize(
    ("end", "code", "text"),
    [
        (fail("out_of_memory"), 500, "it broke"),
        (fail("internal"), 500, "it broke"),
        (fail("worker_lost"), 502, "it broke"),
        (fail("media_error", field="image"), 400, "image: it broke"),
        (fail("invalid_request", field="num_frames"), 400, "input_frames: it broke"),
        (cancel, 500, "cancelled"),
    ],
)
def test_failures_of_the_engine(served: Rig, end: Any, code: int, text: str) -> None:
    client, table = served.client, served.table
    table.end = end
    answer = client.post(T2V, json={"prompt": "a"})
    assert (answer.status_code, set(answer.json())) == (code, {"error"})
    assert text in answer.json()["error"]
    assert answer.headers["x-request-id"] == table.last.id
    for tail in ("", "/status"):
        later = client.get(f"/v2/requests/{table.last.id}{tail}")
        assert (later.status_code, later.json()["status"]) == (422, "FAILED")
        assert later.json()["error"] == answer.json()["error"]


def test_queue(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    answer = client.post("/v2/cog-video-5b-i2v", json={"prompt": "a", "image": PICTURE})
    job_id = table.last.id
    assert answer.status_code == 200
    assert answer.json() == {
        "request_id": job_id,
        "status": "QUEUED",
        "poll_url": f"http://here:8000/v1/requests/{job_id}",
        "status_url": f"http://here:8000/v2/requests/{job_id}/status",
        "response_url": f"http://here:8000/v2/requests/{job_id}",
    }
    status = client.get(answer.json()["status_url"])
    assert (status.status_code, status.json()["status"], status.json()["metrics"]) == (200, "QUEUED", {})
    table.start(job_id)
    for url in (answer.json()["status_url"], answer.json()["response_url"]):
        early = client.get(url)
        assert (early.status_code, early.json()["status"]) == (200, "PROCESSING")
    table.finish(job_id)
    done = client.get(answer.json()["status_url"]).json()
    assert done["status"] == "COMPLETED"
    assert "video" not in done
    result = client.get(answer.json()["response_url"])
    assert result.json()["output"].endswith("/film.mp4")
    assert result.headers["x-seed-value"] == "42"
    theirs = table.add("fal")
    assert client.get(f"/v2/requests/{theirs.id}").status_code == 404


def test_credits_and_keys(build: Build) -> None:
    client = build(keys="mine").client
    nobody = client.get("/v1/get-user-credits")
    assert (nobody.status_code, nobody.json()) == (401, {"error": "Missing Authorization or x-api-key in header"})
    wrong = client.post(T2V, json={"prompt": "a"}, headers={"x-api-key": "yours"})
    assert (wrong.status_code, set(wrong.json())) == (401, {"error"})
    for headers in ({"x-api-key": "mine"}, {"authorization": "Bearer mine"}):
        answer = client.get("/v1/get-user-credits", headers=headers)
        assert (answer.status_code, set(answer.json())) == (200, {"credits", "free-credits"})


def test_another_keys_jobs_are_unknown(build: Build) -> None:
    rig = build(keys="mine,yours")
    client, table = rig.client, rig.table
    mine, yours = ({"x-api-key": key} for key in ("mine", "yours"))
    client.post(T2V, json={"prompt": "a"}, headers=mine)
    for path in ("/v1/requests/{}", "/v2/requests/{}", "/v2/requests/{}/status"):
        address = path.format(table.last.id)
        assert client.get(address, headers=mine).status_code == 200
        stranger = client.get(address, headers=yours)
        assert (stranger.status_code, stranger.json()) == (404, {"error": f"Request {table.last.id} not found"})
        assert client.get(address).status_code == 401


def test_setting_for_the_form(build: Build) -> None:
    client = build(segmind_response="json").client
    assert client.post(T2V, json={"prompt": "a"}).json()["status"] == "COMPLETED"


def test_the_job_goes_on_when_its_caller_drops(served: Rig) -> None:
    table = served.table
    table.end = hold
    hang_up(served, T2V, b'{"prompt": "a"}')
    assert table.last.status is Status.QUEUED
