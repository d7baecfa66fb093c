"""The log shows each refused request with the id of its key and the reason, and contains no secrets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from server import requestlog
from server.house import House
from server.jobs.store import NO_QUOTA
from server.keys import KeyStore
from tests.rigs.house import app, ended, house_of, until

KEYS = "web:sesame,plainsecretkey"
OWN = {"authorization": "Bearer web.sesame"}
SECRET = "a prompt that nobody else may read"
RUN = "/queue/fal-ai/cogvideox-5b"

Running = tuple[TestClient, House]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    application = app(tmp_path_factory.mktemp("server"), api_keys=KEYS, max_queue=1)
    with TestClient(application) as client:
        until(lambda: client.get("/health/ready").status_code == 200)
        yield client, house_of(application)


@pytest.fixture(autouse=True)
def no_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requestlog, "ALIKE", 1000)


def refused(client: TestClient, path: str, **more: Any) -> dict[str, Any]:
    """Returns the log line about the refused request; there must be only one such line."""
    method = more.pop("method", "POST")
    with capture_logs() as lines:
        client.request(method, path, **more)
    (line,) = [one for one in lines if one["event"] == "request refused"]
    return dict(line)


CALLS = {
    "fal": "/run/fal-ai/cogvideox-5b",
    "segmind": "/v1/cog-video-5b-t2v",
    "openai": "/v1/videos",
    "zhipu": "/api/paas/v4/videos/generations",
    "replicate": "/v1/models/cuuupid/cogvideox-5b/predictions",
    "huggingface": "/hf-inference/models/zai-org/CogVideoX-5b",
    "modelslab": "/api/v6/video/text2video",
}


@pytest.mark.parametrize("cloud", CALLS)
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrongkey12345"}])
def test_a_key_that_is_none(running: Running, cloud: str, headers: dict[str, str]) -> None:
    line = refused(running[0], CALLS[cloud], headers=headers, json={"prompt": SECRET})
    assert (line["cloud"], line["method"], line["log_level"]) == (cloud, "POST", "warning")
    assert line["path"] != "*" and "key" not in line and line["client"] == "testclient" and line["ms"] >= 0
    assert "key" in line["reason"], line
    assert (line["status"] == 401) == (cloud != "modelslab"), line
    assert "wrongkey12345" not in str(line) and SECRET not in str(line)


@pytest.mark.parametrize(
    ("cloud", "body"),
    [
        ("fal", {"prompt": SECRET, "num_inference_steps": -3}),
        ("segmind", {"prompt": SECRET, "steps": "many"}),
        ("openai", {"prompt": SECRET, "seconds": "-3"}),
        ("zhipu", {"model": "cogvideox-2", "prompt": SECRET, "size": "no"}),
        ("replicate", {"input": {"prompt": SECRET, "steps": -3}}),
        ("huggingface", {"inputs": SECRET, "parameters": {"num_frames": "many"}}),
        ("modelslab", {"key": "web.sesame", "prompt": SECRET, "num_frames": -3, "model_id": "cogvideox"}),
    ],
)
def test_input_that_is_wrong(running: Running, cloud: str, body: dict[str, Any]) -> None:
    line = refused(running[0], CALLS[cloud], headers=OWN, json=body)
    assert (line["cloud"], line["key"]) == (cloud, "web")
    assert line["reason"] and SECRET not in str(line) and "sesame" not in str(line)
    wrong = re.search("num_inference_steps|steps|seconds|size|num_frames", line["reason"])
    assert wrong or line["reason"].startswith(("unprocessable", "bad request")), line


def test_a_submit_that_fal_accepts_and_refuses_later(running: Running) -> None:
    line = refused(running[0], RUN, headers=OWN, json={"prompt": SECRET, "num_inference_steps": -3})
    assert (line["cloud"], line["status"]) == ("fal", 200) and "num_inference_steps" in line["reason"]


def test_no_id_and_no_file_key_in_a_path(running: Running) -> None:
    client, _ = running
    for path in (f"{RUN}/requests/0b9c4b3a-1111-4222-8333-944455556666/status", "/v1/videos/video_0123456789abcdef"):
        line = refused(client, path, method="GET", headers=OWN)
        assert line["status"] == 404 and "{" in line["path"] and "0b9c" not in str(line) and "0123" not in str(line)
    line = refused(client, "/files/SECRETFILEKEY/video.mp4", method="GET")
    assert line["path"] == "/files/{key}/{name}" and "SECRET" not in str(line)
    line = refused(client, "/v1/anything/SECRETTHING?token=SECRETTOKEN", method="GET", headers=OWN)
    assert "SECRET" not in str(line)


def test_too_much_and_too_often(running: Running, tmp_path: Path) -> None:
    client, house = running
    long = {"prompt": "steps=1000 sleep=0.05"}
    jobs = [client.post(RUN, json={**long, "use_rife": False}, headers=OWN).json()["request_id"]]
    until(lambda: (found := house.context.jobs.get(jobs[0])) and found.step > 0)
    jobs.append(client.post(RUN, json={**long, "use_rife": False}, headers=OWN).json()["request_id"])
    line = refused(client, RUN, headers=OWN, json=long)
    assert line["status"] in (429, 503) and "queue is full" in line["reason"]
    for job_id in jobs:
        job = house.context.jobs.cancel(job_id)
        assert job is not None
        ended(house, job)
    with TestClient(app(tmp_path, rate_limit="2/minute")) as other:
        for _ in range(2):
            other.post("/v1/videos", json={})
        line = refused(other, "/v1/videos", json={})
        assert (line["status"], line["cloud"]) == (429, "openai") and "2 per 1 minute" in line["reason"]


def test_a_body_that_is_too_large(running: Running) -> None:
    line = refused(running[0], CALLS["openai"], headers={**OWN, "content-length": str(2**40)}, content=b"{}")
    assert line["status"] == 413


def test_an_error_of_ours(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client, house = running

    def broken(*_: Any) -> None:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(house.context.jobs, "find", broken)
    line = refused(client, f"{RUN}/requests/x/status", method="GET", headers=OWN)
    assert (line["status"], line["log_level"], line["reason"]) == (500, "error", "ZeroDivisionError")


def test_names_of_keys(running: Running) -> None:
    client, house = running
    key, issued = KeyStore(house.store.database).create("bob", NO_QUOTA)
    wrong = {"prompt": "x", "num_inference_steps": -3}
    until(lambda: client.get("/v1/videos", headers={"authorization": f"Bearer {key}"}).status_code == 200)
    for sent, name in (
        (key, f"bob ({issued.id})"),
        ("web:sesame", "web"),
        ("plainsecretkey", "key 2 of COGVIDEOX_API_KEYS"),
    ):
        line = refused(client, CALLS["fal"], headers={"authorization": f"Key {sent}"}, json=wrong)
        assert line["key"] == name
        assert sent.partition(".")[2] not in str(line) or "." not in sent
        assert "plainsecretkey" not in str(line)


def test_what_succeeds_is_for_debug(running: Running) -> None:
    with capture_logs() as lines:
        assert running[0].get("/v1/videos", headers=OWN).status_code == 200
    (line,) = lines
    assert (line["log_level"], line["event"], line["status"], line["path"]) == ("debug", "request", 200, "/v1/videos")


def test_probes_are_no_refusals(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client, house = running
    monkeypatch.setattr(house.data, "min_free_bytes", 2**60)
    with capture_logs() as lines:
        assert client.get("/health/ready").status_code == 503
    assert [line["log_level"] for line in lines] == ["debug"]


def test_a_flood_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requestlog, "ALIKE", 5)
    monkeypatch.setattr(requestlog, "INTERVAL", 0.2)

    async def send() -> None:
        flood = requestlog.Flood()
        for n in range(1000):
            flood.log(401, {"cloud": "fal", "path": "/run", "client": f"10.0.0.{n % 250}", "status": 401})
        flood.log(422, {"cloud": "fal", "path": "/run", "status": 422})
        await asyncio.sleep(0.5)
        flood.log(401, {"cloud": "fal", "path": "/run", "status": 401})

    with capture_logs() as lines:
        asyncio.run(send())
    assert len(lines) == 5 + 1 + 1 + 1
    (more,) = [line for line in lines if line["event"] == "more requests refused"]
    assert (more["count"], more["status"], more["path"]) == (995, 401, "/run")


def test_kinds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requestlog, "ALIKE", 5)

    async def send() -> None:
        flood = requestlog.Flood()
        for n in range(10_000):
            flood.log(404, {"path": f"/{n}", "status": 404})
        assert len(flood._seen) <= requestlog.KINDS + 1
        flood.end()

    with capture_logs() as lines:
        asyncio.run(send())
    assert len(lines) <= requestlog.KINDS + 5 + 1
