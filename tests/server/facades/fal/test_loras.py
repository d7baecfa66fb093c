"""fal's `loras` from the request to the video, with the real server and worker on tiny checkpoints."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.app import create_app
from server.facades import fal
from server.facades.kit.samples import RED, RED_CLIP
from server.house import House
from server.jobs.job import Status
from tests.rigs import checkpoints
from tests.rigs.facades.fal import QUEUE
from tests.rigs.house import ended, house_of, plain
from tests.rigs.lora_host import Host, hosted, lora, lora_file, tensors
from tests.rigs.pickled import Code

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
INPUT = {
    "prompt": "a red circle",
    "seed": 5,
    "num_inference_steps": 2,
    "video_size": {"width": 64, "height": 48},
    "use_rife": False,
}


def server(tmp: Path) -> FastAPI:
    models = ",".join(str(checkpoints.cached(kind)) for kind in ("5b", "5b-i2v"))
    given = {"data_dir": tmp / "data", "loras_dir": tmp / "styles", "model": models, "device": "cpu"}
    return create_app(plain(**given, min_free_mb=0, keep_latents_mb=0, allow_private_urls=True))


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with hosted() as running:
        yield running


Running = tuple[TestClient, House, Path]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    tmp = tmp_path_factory.mktemp("server")
    lora_file(tmp / "styles" / "mine.safetensors", seed=1)
    application = server(tmp)
    with TestClient(application, base_url="http://here:8000") as client:
        yield client, house_of(application), tmp


def result(running: Running, tail: str = "", **given: Any) -> tuple[int, Any, list[str]]:
    """Submits a request and waits for the job. Returns the result's status code, the result's body, and the job's
    log."""
    client, house, _ = running
    sent = client.post(QUEUE + tail, json={**INPUT, **given})
    assert sent.status_code == 200, sent.text
    request_id = sent.json()["request_id"]
    job = house.context.jobs.get(request_id)
    assert job is not None
    ended(house, job, 120)
    answer = client.get(f"{QUEUE}/requests/{request_id}")
    return answer.status_code, answer.json(), [line.message for line in house.context.jobs.logs(request_id)]


def video(running: Running, body: Any) -> bytes:
    return running[0].get(body["video"]["url"]).content


def test_by_address_and_by_name_each_with_its_scale(running: Running, host: Host) -> None:
    code, plain_body, _ = result(running)
    assert code == 200
    loras = [{"path": host.url(), "scale": 0.5}, {"path": "mine", "scale": -0.25}]
    code, body, log = result(running, loras=loras)
    assert code == 200, body
    assert video(running, body) != video(running, plain_body)
    said = [line for line in log if line.startswith("lora ")]
    assert ["scale 0.5" in said[0], "scale -0.25" in said[1], "mine.safetensors" in said[1]] == [True] * 3
    assert video(running, result(running, loras=loras)[1]) == video(running, body)
    assert video(running, result(running, loras=loras[:1])[1]) != video(running, body)
    assert video(running, result(running)[1]) == video(running, plain_body)
    assert host.asked.count("/style.safetensors") == 1
    result(running, loras=[{"path": host.url(), "force": True}])
    assert host.asked.count("/style.safetensors") == 2


def test_the_log_says_what_drew_the_frames_between(running: Running) -> None:
    """The first request omits `use_rife`, which defaults to true."""
    client, house, _ = running
    small = "frames drawn by the small network that ships with this project"
    for more, told in (({}, True), ({"use_rife": False}, False)):
        body = {name: value for name, value in INPUT.items() if name != "use_rife"} | more
        receipt = client.post(QUEUE, json=body).json()
        job = house.context.jobs.get(receipt["request_id"])
        assert job is not None and ended(house, job, 120).status is Status.SUCCEEDED
        status = client.get(f"{receipt['status_url']}?logs=1").json()
        assert any(small in line["message"] for line in status["logs"]) == told, status["logs"]


def test_pictures_and_clips_take_them_too(running: Running, host: Host) -> None:
    for tail, source in (("/image-to-video", {"image_url": RED}), ("/video-to-video", {"video_url": RED_CLIP})):
        code, body, log = result(running, tail, **source, loras=[{"path": host.url(), "scale": 2}])
        assert code == 200, body
        assert any(line.startswith("lora ") and "scale 2, rank 4" in line for line in log)
        assert video(running, body) != video(running, result(running, tail, **source)[1])


def test_an_uploaded_lora(running: Running) -> None:
    client, _, _ = running
    ticket = client.post("/storage/upload/initiate", json={"file_name": "a.safetensors", "content_type": ""}).json()
    assert client.put(ticket["upload_url"], content=lora(seed=3)).status_code < 300
    code, body, log = result(running, loras=[{"path": ticket["file_url"]}])
    assert code == 200, body
    assert any(line.startswith("lora ") for line in log)


def test_what_cannot_be_used_is_an_error_and_the_worker_keeps_serving(running: Running, host: Host) -> None:
    trace = running[2] / "code-ran"
    for name, pickled in (("/plain.pt", tensors()), ("/code.pt", {**tensors(), "x": Code(trace)})):
        torch.save(pickled, file := io.BytesIO())
        host.files[name] = file.getvalue()
    (running[2] / "styles" / "torn.safetensors").write_bytes(lora()[:-9])
    for bad, kind, words in (
        ({"path": host.url("/wide.safetensors")}, "value_error", "64 -> 64 channels"),
        ({"path": host.url("/torn.safetensors")}, "value_error", "torn"),
        ({"path": "torn"}, "value_error", "torn"),
        ({"path": host.url("/plain.pt")}, "value_error", "pickle"),
        ({"path": host.url("/code.pt")}, "value_error", "pickle"),
        ({"path": host.url("/html")}, "value_error", "web page"),
        ({"path": host.url("/absent")}, "file_download_error", "404"),
        ({"path": f"{host.url()}#sha256={'0' * 64}"}, "value_error", "asked for was 000"),
        ({"path": "nobody/nothing"}, "value_error", "installed here"),
        ({"path": "mine", "scale": 1000}, "less_than_equal", "10"),
    ):
        code, body, _ = result(running, loras=[{"path": "mine"}, bad])
        assert code == 422, (bad, body)
        (entry,) = body["detail"]
        assert entry["type"] == kind and words in entry["msg"], entry
        assert entry["loc"][:3] == ["body", "loras", 1]
        assert str(running[2]) not in str(body)
    code, body, _ = result(running, loras=[{"path": "mine"}] * 40)
    assert (code, body["detail"][0]["type"]) == (422, "sequence_too_long")
    assert not trace.exists()
    assert running[0].get("/health/ready").status_code == 200
    assert result(running, loras=[{"path": "mine"}])[0] == 200


def test_a_file_that_is_gone_when_its_turn_comes_fails_the_job_alone(tmp_path: Path) -> None:
    application = server(tmp_path)  # not started, so jobs stay queued
    lora_file(tmp_path / "styles" / "mine.safetensors")
    job = queued(application, [{"path": "mine"}])
    shutil.rmtree(tmp_path / "styles")
    with TestClient(application := server(tmp_path)) as client:
        house = house_of(application)
        found = house.context.jobs.get(job)
        assert found is not None
        done = ended(house, found, 120)
        assert (done.status, done.error and done.error.field) == (Status.FAILED, "loras")
        (entry,) = client.get(f"{QUEUE}/requests/{job}").json()["detail"]
        assert entry["loc"] == ["body", "loras"] and "mine.safetensors: cannot be read" in entry["msg"]
        assert str(tmp_path) not in str(entry)


def test_a_promised_job_needs_the_address_no_more(tmp_path: Path) -> None:
    with hosted() as host:
        job = queued(server(tmp_path), [{"path": host.url()}])
    with TestClient(application := server(tmp_path)):
        house = house_of(application)
        found = house.context.jobs.get(job)
        assert found is not None
        assert ended(house, found, 120).status is Status.SUCCEEDED


def queued(application: FastAPI, loras: list[dict[str, Any]]) -> str:
    """Submits a request to a server that stops before it runs any job, and returns the id of the request."""
    house = house_of(application)
    with TestClient(fal.create(house.context)) as client:
        request_id = str(client.post(QUEUE, json={**INPUT, "loras": loras}).json()["request_id"])
        assert client.portal is not None
        client.portal.call(house.context.intake.close)
    found = house.context.jobs.get(request_id)
    assert found is not None and found.status is Status.QUEUED, found
    house.close()
    return request_id
