"""ModelsLab's façade answers for jobs in every state, without a worker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.facades.modelslab import calls
from server.jobs.job import Status
from server.jobs.jobs import Stopped
from tests.rigs import golden
from tests.rigs.facade_rig import Build, Rig
from tests.rigs.job_table import cancel, fail, hold
from tests.rigs.stand_ins import PICTURE

T2V = "/api/v6/video/text2video"
I2V = "/api/v6/video/img2video"
ASK = {"model_id": "cogvideox", "prompt": "a red circle", "seed": 7}
TIMES = ("generationTime",)


@pytest.fixture(autouse=True)
def short_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "HOLD_SECONDS", 0.05)


def test_success_at_once(served: Rig) -> None:
    client, table = served.client, served.table
    answer = client.post(T2V, json={"key": "any", **ASK, "temp": True})
    golden.check("modelslab/success", answer, times=TIMES)
    body = answer.json()
    assert body["id"] == table.last.number and isinstance(body["id"], int)
    assert body["output"] == [f"http://here:8000/generations/{table.last.id}.gif"]
    assert body["meta"]["file_prefix"] == table.last.id
    assert "error" not in body and "key" not in body["meta"]
    fetched = client.post(f"/api/v6/video/fetch/{body['id']}", json={"key": "any"})
    assert fetched.json() == body


@pytest.mark.parametrize("instant", [False, True, "yes", "1"])
def test_processing(served: Rig, instant: Any) -> None:
    client, table = served.client, served.table
    table.end = hold
    answer = client.post(T2V, json={**ASK, "instant_response": instant})
    body = answer.json()
    assert body["meta"].pop("instant_response") == ("yes" if instant else "no")
    golden.check("modelslab/processing", {"http": answer.status_code, "body": body})
    assert body["fetch_result"] == f"http://here:8000/api/v6/video/fetch/{table.last.number}"
    assert body["message"] == body["messege"]
    assert int(body["eta"]) == body["eta"] > 0
    promised = body["future_links"]

    golden.check("modelslab/fetch_queued", client.post(body["fetch_result"], json={}))
    table.start(table.last.id)
    golden.check("modelslab/fetch_running", client.post(body["fetch_result"], json={}))
    table.finish(table.last.id)
    done = client.post(body["fetch_result"], json={}).json()
    assert (done["status"], done["output"]) == ("success", promised)
    assert done["meta"]["seed"] == 7


def test_a_finished_job_is_not_told_of_when_an_instant_answer_is_asked_for(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    assert client.post(T2V, json={**ASK, "instant_response": "true"}).json()["status"] == "processing"
    waiting = client.post(T2V, json=ASK).json()
    assert waiting["eta"] > 30, "one job is ahead of this one"


def test_the_engines_own_estimate_is_told(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    client.post(T2V, json=ASK)
    table.start(table.last.id)
    table.progress(table.last.id, eta=4.2)
    assert client.post("/api/v6/video/fetch/1").json()["eta"] == 5
    table.progress(table.last.id, eta=0.0)
    assert client.post("/api/v6/video/fetch/1").json()["eta"] == 1


def test_failed(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = fail("invalid_request", "it is too long", "size")
    created = client.post(T2V, json=ASK)
    golden.check("modelslab/failed", created)
    assert client.post("/api/v6/video/fetch/1").json() == created.json()
    assert created.json()["message"] == "width and height: it is too long"


def test_cancelled(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = hold
    client.post(T2V, json=ASK)
    table.cancel(table.last.id)
    golden.check("modelslab/cancelled", client.post("/api/v6/video/fetch/1"))


def test_the_ways_to_ask(served: Rig) -> None:
    client = served.client
    made = client.post(T2V, json=ASK).json()
    for answer in (
        client.post("/api/v6/video/fetch/1", json={"key": "k"}),
        client.post("/api/v6/video/fetch/1/"),
        client.get("/api/v6/video/fetch/1"),
        client.get("/api/v6/video/fetch?request_id=1"),
        client.request("GET", "/api/v6/video/fetch", content='{"request_id": 1}'),
        client.post("/api/v6/video/fetch", json={"key": "k", "request_id": 1}),
        client.post("/api/v6/video/fetch", json={"key": "k", "request_id": " 1 "}),
        client.post("/api/v1/enterprise/video/fetch/1"),
        client.post("/api/v7/video-fusion/fetch/1"),
        client.post("/modelslab/api/v6/video/fetch/1"),
    ):
        assert answer.json() == made


@pytest.mark.parametrize("given", ["2", "0", "-1", "x", "1.0", "9" * 30, "%00", "true", "٣"])
def test_unknown_ids(served: Rig, given: str) -> None:
    client = served.client
    client.post(T2V, json=ASK)
    golden.check("modelslab/unknown_id", client.post(f"/api/v6/video/fetch/{given}"))
    golden.check("modelslab/unknown_id", client.post("/api/v6/video/fetch", json={"request_id": given}))


def test_no_id(served: Rig) -> None:
    for body in ({}, {"request_id": None}, {"request_id": ""}):
        golden.check("modelslab/no_id", served.client.post("/api/v6/video/fetch", json=body))
    for odd in (True, [1], {"a": 1}, 1.0):
        golden.check("modelslab/unknown_id", served.client.post("/api/v6/video/fetch", json={"request_id": odd}))


def test_jobs_of_other_facades_are_unknown(served: Rig) -> None:
    client, table = served.client, served.table
    theirs = table.add("fal")
    golden.check("modelslab/unknown_id", client.post(f"/api/v6/video/fetch/{theirs.number}"))
    assert client.get(f"/generations/{theirs.id}.mp4").status_code == 404


@pytest.mark.parametrize(
    ("path", "endpoint", "room"),
    [
        ("/api/v1/enterprise/video/text2video", "text2video", "/api/v1/enterprise/video"),
        ("/api/v1/enterprise/video/img2video", "img2video", "/api/v1/enterprise/video"),
        ("/api/v7/video-fusion/text-to-video", "text2video", "/api/v7/video-fusion"),
        ("/api/v7/video-fusion/image-to-video", "img2video", "/api/v7/video-fusion"),
        ("/api/v6/video/text2video_ultra", "text2video_ultra", "/api/v6/video"),
        ("/api/v6/video/img2video_ultra", "img2video_ultra", "/api/v6/video"),
        ("/api/v1/enterprise/video/text2video_ultra", "text2video_ultra", "/api/v1/enterprise/video"),
        ("/api/v1/enterprise/ultra_video/text2video", "text2video_ultra", "/api/v1/enterprise/ultra_video"),
        (
            "/api/v1/enterprise/image_to_video_ultra/img2video",
            "img2video_ultra",
            "/api/v1/enterprise/image_to_video_ultra",
        ),
        ("/modelslab/api/v6/video/text2video", "text2video", "/modelslab/api/v6/video"),
    ],
)
def test_other_addresses(served: Rig, path: str, endpoint: str, room: str) -> None:
    client, table = served.client, served.table
    table.end = hold
    body = client.post(path, json={**ASK, "init_image": PICTURE, "instant_response": True}).json()
    assert body["status"] == "processing"
    assert table.last.endpoint == endpoint
    assert (table.last.request.image is not None) == endpoint.startswith("img")
    assert body["fetch_result"] == f"http://here:8000{room}/fetch/{body['id']}"
    assert client.post(body["fetch_result"], json={}).json()["status"] == "processing"
    assert body["future_links"][0].startswith("http://here:8000/generations/")


def test_keys(build: Build) -> None:
    rig = build(keys="id:mine,other")
    client = rig.client
    golden.check("modelslab/no_key", client.post(T2V, json=ASK))
    golden.check("modelslab/no_key", client.post("/api/v6/video/fetch/1"))
    golden.check("modelslab/no_key", client.post("/api/v6/base64_to_url", json={"base64_string": PICTURE}))
    wrong = client.post(T2V, json={**ASK, "key": "yours"})
    golden.check("modelslab/wrong_key", wrong)
    assert "yours" not in wrong.text
    golden.check("modelslab/wrong_key", client.get("/api/v6/video/fetch/1", headers={"x-api-key": "yours"}))
    golden.check("modelslab/no_key", client.post(T2V, json={**ASK, "key": 5}))
    assert client.post(T2V, json={**ASK, "key": "id.mine"}).json()["status"] == "success"
    for headers in (
        {"authorization": "Bearer id:mine"},
        {"authorization": "id:mine"},
        {"x-api-key": "id:mine"},
        {"key": "id:mine"},
    ):
        assert client.post(T2V, json=ASK, headers=headers).json()["status"] == "success"
        assert client.get("/api/v6/video/fetch/1", headers=headers).json()["status"] == "success"
    theirs = client.post("/api/v6/video/fetch/1", json={"key": "other"})
    golden.check("modelslab/unknown_id", theirs)


def test_real_codes(build: Build) -> None:
    rig = build(keys="mine", modelslab_status="real")
    table = rig.table
    client = rig.client
    key = {"key": "mine"}
    assert client.post(T2V, json=ASK).status_code == 401
    assert client.post(T2V, json={**key, "prompt": "a"}).status_code == 400
    assert client.post("/api/v6/video/fetch/1", json=key).status_code == 404
    table.end = fail("internal")
    failed = client.post(T2V, json={**key, **ASK})
    assert (failed.status_code, failed.json()["status"]) == (200, "error")


V7 = "/api/v7/video-fusion"


@pytest.mark.parametrize("mount", ["", "/modelslab"])
def test_v7_has_real_codes_and_films(build: Build, mount: str) -> None:
    rig = build(keys="mine")
    table = rig.table
    client = rig.client
    here, key = mount + V7, {"key": "mine"}
    for path, body, code in (
        ("/text-to-video", ASK, 401),
        ("/text-to-video", {**key, "prompt": "a"}, 400),
        ("/text-to-video", {**key, **ASK, "model_id": "nothing"}, 400),
        ("/image-to-video", {**key, **ASK}, 400),
        ("/fetch/1", key, 404),
        ("/fetch", key, 400),
        ("/base64_to_url", {**key, "base64_string": "?"}, 400),
    ):
        refused = client.post(here + path, json=body)
        assert (refused.status_code, refused.json()["status"] in ("error", "failed")) == (code, True), path
        assert client.post(f"{mount}/api/v6/video/text2video", json=ASK).status_code == 200, "v6 is unchanged"
    for given, made in (({}, "mp4"), ({"output_type": "gif"}, "gif")):
        answer = client.post(f"{here}/text-to-video", json={**key, **ASK, **given})
        assert (answer.status_code, answer.json()["output"][0][-4:]) == (200, f".{made}")
        assert table.last.request.output_format == made
    client.post(f"{mount}/api/v6/video/text2video", json={**key, **ASK})
    assert table.last.request.output_format == "gif", "v6 is unchanged"


def test_a_stopping_server_promises_the_film_for_later(served: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client, table = served.client, served.table
    table.end = hold

    async def stopped(job_id: str, timeout: float | None = None) -> Any:
        raise Stopped(job_id)

    monkeypatch.setattr(served.context.jobs, "wait", stopped)
    assert client.post(T2V, json=ASK).json()["status"] == "processing"
    assert table.last.status is Status.QUEUED


@pytest.mark.parametrize("state", ["success", "failed", "cancelled"])
def test_webhook(build: Build, state: str) -> None:
    rig = build()
    table = rig.table
    if state == "failed":
        table.end = fail("out_of_memory", "there is too little memory")
    if state == "cancelled":
        table.end = cancel
    client = rig.client
    told = client.post(T2V, json={**ASK, "webhook": "http://ear:1/hook?a=1", "track_id": 12}).json()
    job = table.last
    assert job.webhook is not None and job.webhook.events == ("completed",)
    assert (job.webhook.url, job.webhook.base) == ("http://ear:1/hook?a=1", "http://here:8000")
    letter = rig.letter(job, "completed")
    assert letter is not None
    assert letter.sign(letter.body, 0.0, 1) == {"content-type": "application/json"}
    body = json.loads(letter.body)
    golden.check(f"modelslab/webhook_{state}", body, times=TIMES)
    assert body["id"] == told["id"]
    assert body.get("output") == (told["output"] or None)
    assert "webhook" not in told.get("meta", {}), "the webhook's URL may hold a secret"
    assert rig.letter(job, "start") is None


def test_browsers(served: Rig) -> None:
    client = served.client
    answer = client.post(T2V, json={}, headers={"origin": "http://page"})
    assert answer.headers["access-control-allow-origin"] == "*"
    asked = {"origin": "http://page", "access-control-request-method": "POST"}
    assert client.options(T2V, headers=asked).status_code == 200


def test_every_call_is_documented(served: Rig) -> None:
    document = served.app.openapi()
    assert set(document["paths"]) == {
        *(f"/api/v6/video/{name}" for name in ("text2video", "img2video", "text2video_ultra", "img2video_ultra")),
        *(f"/api/v6/video/{name}" for name in ("fetch", "fetch/{request_id}", "base64_to_url")),
        "/api/v6/base64_to_url",
        "/generations/{name}",
    }
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method == "post":
                ref = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                assert all(spec["examples"] for spec in schemas[ref.rpartition("/")[2]]["properties"].values()), path
