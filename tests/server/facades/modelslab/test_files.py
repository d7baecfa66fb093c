"""Tests the URLs that ModelsLab's answers promise, uploads and webhooks, on the whole server with the fake engine."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from server.house import House
from tests.rigs import golden
from tests.rigs.ear import Ear
from tests.rigs.house import app, house_of, until

ROOM = "/api/v6/video"
Running = tuple[TestClient, House]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    application = app(tmp_path_factory.mktemp("server"), allow_private_urls=True)
    with TestClient(application, base_url="http://here") as client:
        until(lambda: client.get("/health/ready").status_code == 200)
        yield client, house_of(application)


def ask(client: TestClient, **fields: Any) -> dict[str, Any]:
    """Requests a video and waits for it."""
    usual = {"model_id": "cogvideox", "prompt": "steps=3 bytes=5000", "width": 64, "height": 48, "num_frames": 9}
    body: dict[str, Any] = client.post(f"{ROOM}/text2video", json=usual | fields).json()
    return body


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(("output_type", "media_type"), [("mp4", "video/mp4"), ("gif", "image/gif")])
def test_the_promised_address(running: Running, output_type: str, media_type: str) -> None:
    client, house = running
    promise = ask(client, prompt="steps=3 sleep=0.6", output_type=output_type, instant_response=True)
    url = promise["future_links"][0]
    early = client.get(url)
    assert early.status_code == 404
    golden.check("modelslab/film_not_yet", early)
    until(lambda: client.post(promise["fetch_result"], json={}).json()["status"] == "success")
    done = client.post(promise["fetch_result"], json={}).json()
    assert done["output"] == done["proxy_links"] == [url]
    whole = client.get(url)
    assert (whole.status_code, whole.headers["content-type"]) == (200, media_type)
    assert whole.headers["access-control-allow-origin"] == "*"
    assert len(whole.content) == 1000
    part = client.get(url, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    head = client.head(url)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "1000", b"")
    wrong = url.replace(".mp4", ".x").replace(".gif", ".mp4").replace(".x", ".gif")
    assert client.get(wrong).status_code == 404
    assert house.context.artifacts.of_url(url) is not None
    assert house.context.artifacts.of_url(wrong) is None


def test_a_film_that_is_not_made(running: Running) -> None:
    client, _ = running
    failed = ask(client, prompt="fail=internal", instant_response=True)
    until(lambda: client.get(f"{ROOM}/fetch/{failed['id']}").json()["status"] == "error")
    golden.check("modelslab/no_film", client.get(failed["future_links"][0]))


def test_a_temporary_film_goes(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client, house = running
    kept, temporary = ask(client), ask(client, temp="yes")
    artifacts = house.context.artifacts
    now = artifacts._clock()
    assert client.get(temporary["output"][0]).status_code == 200
    monkeypatch.setattr(artifacts, "_clock", lambda: now + 86_500)
    golden.check("modelslab/no_film", client.get(temporary["output"][0]))
    assert client.get(kept["output"][0]).status_code == 200


@pytest.mark.parametrize("path", ["/api/v6/base64_to_url", f"{ROOM}/base64_to_url", "/api/v7/base64_to_url"])
@pytest.mark.parametrize("field", ["base64_string", "init_obj"])
@pytest.mark.parametrize("form", ["data:image/png;base64,{}", "{}", " DATA:image/png;charset=x;base64,{} \n"])
def test_upload(running: Running, path: str, field: str, form: str) -> None:
    client, _ = running
    text = form.format(base64.b64encode(picture("PNG")).decode())
    answer = client.post(path, json={"key": "any", field: text})
    url = answer.json()["link"]
    key = url.split("/")[-2]
    golden.check("modelslab/upload", answer, replace={key: "<key>"})
    file = client.get(url)
    assert (file.status_code, file.headers["content-type"], file.content) == (200, "image/png", picture("PNG"))


def test_an_upload_is_a_picture_to_start_from(running: Running) -> None:
    client, _ = running
    for kind in ("PNG", "JPEG", "GIF", "WEBP"):
        text = base64.b64encode(picture(kind)).decode()
        url = client.post("/api/v6/base64_to_url", json={"base64_string": text}).json()["link"]
        assert url.rpartition(".")[2] in (kind.lower(), "jpg")
        answer = client.post(
            f"{ROOM}/img2video", json={"model_id": "svd", "init_image": url, "prompt": "steps=1", "num_frames": 9}
        ).json()
        assert answer["status"] == "success"
        assert answer["output"][0].endswith(".mp4")


def test_other_files_are_kept_as_they_are(running: Running) -> None:
    client, _ = running
    for text, kind in (
        ("data:video/mp4;base64,AAAAGGZ0eXA=", "video/mp4"),
        ("AAAAGGZ0eXA=", "video/mp4"),
        ("data:text/html;base64,PGI+", "application/octet-stream"),
        ("AAEC", "application/octet-stream"),
    ):
        url = client.post("/api/v6/base64_to_url", json={"base64_string": text}).json()["link"]
        assert client.get(url).headers["content-type"] == kind


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "base64_string is required"),
        ({"init_obj": 5}, "init_obj must be a string"),
        ({"base64_string": "http://x/y.png"}, "base64_string: it is neither a data: URI nor base64"),
        ({"base64_string": "é"}, "neither"),
        ({"base64_string": "A"}, "neither"),
        ({"base64_string": "data:image/png,abc"}, "does not hold base64"),
        ({"base64_string": "data:image/png;base64"}, "does not hold base64"),
        ({"init_obj": "data:image/png;base64,"}, "init_obj: the file is empty"),
    ],
)
def test_refused_uploads(running: Running, body: dict[str, Any], text: str) -> None:
    answer = running[0].post("/api/v6/base64_to_url", json=body)
    assert answer.status_code == 200
    assert (answer.json()["status"], set(answer.json())) == ("error", {"status", "message", "tip"})
    assert text in answer.json()["message"]


def test_a_broken_picture(running: Running) -> None:
    body = {"model_id": "svd", "init_image": "bm90IGEgcGljdHVyZQ=="}
    answer = running[0].post(f"{ROOM}/img2video", json=body).json()
    assert answer["status"] == "error"
    assert answer["message"].startswith("init_image: ")


@pytest.mark.parametrize("state", ["success", "failed"])
def test_the_webhook_is_told(running: Running, ear: Ear, state: str) -> None:
    client, _ = running
    prompt = {"success": "steps=1", "failed": "fail=internal"}[state]
    told = ask(client, prompt=prompt, webhook=ear.url, track_id="clip-7")
    until(lambda: len(ear.heard) == 1)
    headers, body = ear.heard[0]
    assert headers["content-type"] == "application/json"
    assert (body["status"], body["id"], body["track_id"]) == (state, told["id"], "clip-7")
    assert body.get("output", []) == told["output"]
    if state == "success":
        assert client.get(body["output"][0]).status_code == 200


def test_answers_outlive_the_server(tmp_path: Path) -> None:
    with TestClient(app(tmp_path), base_url="http://here") as client:
        before = ask(client)
    with TestClient(app(tmp_path), base_url="http://here") as client:
        assert client.get(f"{ROOM}/fetch/{before['id']}").json() == before
        assert len(client.get(before["output"][0]).content) == 5000
