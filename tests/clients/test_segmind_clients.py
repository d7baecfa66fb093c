"""Runs Segmind's SDK and the programs on Segmind's pages against real servers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import segmind
from segmind import AsyncJob, InferenceFailed, InferenceTimeout, SegmindClient, SegmindError
from segmind.files import Files

from pipelines.models import ModelInfo
from pipelines.request import Task
from server.facades.facade import Snippet
from server.facades.kit.samples import BLUE
from server.facades.segmind import FACADE
from tests.rigs import pace
from tests.rigs.clients.running import KEY, Film, fetch, run_program, run_script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

T2V, I2V = "cog-video-5b-t2v", "cog-video-5b-i2v"
SIZE = (720, 480)
SMALL = {"prompt": "a red circle moves left", "input_frames": 20, "steps": 25}  # no model makes 20 frames


@pytest.fixture
def real(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SegmindClient]:
    with client_of(server, monkeypatch) as client:
        yield client


@pytest.fixture
def quick(stand_in: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SegmindClient]:
    with client_of(stand_in, monkeypatch) as client:
        yield client


@contextmanager
def client_of(address: str, monkeypatch: pytest.MonkeyPatch, key: str = KEY) -> Iterator[SegmindClient]:
    """An SDK client for `address`; the functions of the module segmind use the same client."""
    monkeypatch.setenv("NO_PROXY", "*")
    client = SegmindClient(api_key=key, base_url=f"http://{address}/v1", timeout=pace.seconds(300))
    monkeypatch.setattr(segmind, "_default_client", client)
    monkeypatch.setattr(Files, "STORAGE_BASE_URL", f"http://{address}")
    with client._client:
        yield client


def fetched(url: str, folder: Path) -> Film:
    """The video at `url`, which must be readable without a key."""
    answer = fetch(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "video/mp4"
    return Film.read(answer.content, folder)


@pytest.mark.parametrize("task", ["t2v", "i2v"])
@pytest.mark.parametrize("form", ["json", "content"])
def test_published_programs(
    server: str, models: Mapping[Task, ModelInfo], picture_url: str, tmp_path: Path, task: str, form: str
) -> None:
    replace = {"https://api.segmind.com": f"http://{server}", "YOUR_API_KEY": KEY, "PICTURE": picture_url}
    printed = run_script(f"segmind_{task}_{form}.py", tmp_path, replace)
    info = models[Task.T2V if task == "t2v" else Task.I2V]
    whole = {"t2v": 49, "i2v": info.family.frames.default}[task]
    wanted = Film(whole if form == "json" else 20, 8 if task == "t2v" else info.family.fps, *SIZE)
    if form == "content":
        assert Film.read((tmp_path / "film.mp4").read_bytes(), tmp_path) == wanted
        return
    result = json.loads(printed)
    assert result["status"] == "COMPLETED"
    assert result["seed"] == (806286757407563 if task == "t2v" else 42)
    assert result["output"] == result["video"]["url"]
    assert fetched(result["output"], tmp_path) == wanted


@pytest.mark.parametrize("snippet", FACADE.clients, ids=lambda snippet: snippet.title)
def test_documented_programs(server: str, tmp_path: Path, snippet: Snippet) -> None:
    said = run_program("program.py", snippet.filled(f"http://{server}", KEY), tmp_path)
    film = tmp_path / "video.mp4"
    made = Film.read(film.read_bytes(), tmp_path) if film.exists() else fetched(said.strip(), tmp_path)
    assert made == Film(49, 8, *SIZE)
    assert film.exists() or said.startswith(f"http://{server}/")


def test_sdk_run(real: SegmindClient, tmp_path: Path) -> None:
    """Both the client's `run` and the module's `run` poll the queue."""
    for run in (real.run, segmind.run):
        result = run(T2V, **SMALL, frame_rate=10, seed=7)
        assert (result["status"], result["error"], result["seed"]) == ("COMPLETED", None, 7)
        assert fetched(result["output"], tmp_path) == Film(20, 10, *SIZE)
    assert result["metrics"]["inference_time"] > 0


def test_sdk_run_sync(real: SegmindClient, tmp_path: Path) -> None:
    """`run_sync` returns the video's bytes; a later call with the request id from the headers returns the same video's
    URL as JSON."""
    answer = segmind.run_sync(T2V, **SMALL, seed=-1)
    assert answer.headers["content-type"] == "video/mp4"
    assert Film.read(answer.content, tmp_path) == Film(20, 8, *SIZE)
    later = real._request("GET", f"/requests/{answer.headers['x-request-id']}").json()
    assert fetch(later["video"]["url"]).content == answer.content
    assert str(later["seed"]) == answer.headers["x-seed-value"]


def test_sdk_upload_and_image_to_video(
    real: SegmindClient, models: Mapping[Task, ModelInfo], picture: Path, tmp_path: Path
) -> None:
    told = real.files.upload([picture, str(picture)])
    assert set(told) == {"file_urls", "message"}
    assert len(told["file_urls"]) == 2
    for url in told["file_urls"]:
        answer = fetch(url)
        assert (answer.content, answer.headers["content-type"]) == (picture.read_bytes(), "image/png")
    job = real.submit_async(I2V, **SMALL, image=told["file_urls"][1])
    assert job.submit_response["status"] == "QUEUED"
    result = job.wait(timeout=pace.seconds(300), interval=0.5)
    assert fetched(result["video"]["url"], tmp_path) == Film(20, models[Task.I2V].family.fps, *SIZE)


def test_sdk_failure(quick: SegmindClient) -> None:
    job = quick.submit_async(T2V, prompt="fail=internal")
    with pytest.raises(InferenceFailed) as failed:
        job.wait(interval=0.1)
    assert failed.value.detail == "prompt: as told"
    assert failed.value.status_body["status"] == "FAILED"
    assert job.result()["error"] == failed.value.detail
    with pytest.raises(SegmindError) as refused:
        quick.run_sync(T2V, prompt="fail=internal")
    assert (refused.value.status, refused.value.detail) == (500, "prompt: as told")


def test_sdk_refusals(quick: SegmindClient) -> None:
    for call in (quick.run, quick.run_sync, segmind.submit_async):
        with pytest.raises(SegmindError) as refused:
            call(T2V, prompt="a", steps=3)
        assert (refused.value.status, refused.value.detail) == (400, "steps must be between 25 and 50, got 3")
        with pytest.raises(SegmindError) as refused:
            call("sdxl", prompt="a")
        assert refused.value.status == 404
        assert "sdxl not found" in str(refused.value.detail)
        with pytest.raises(SegmindError) as refused:
            call(I2V, prompt="a", image="bm90IGEgcGljdHVyZQ==")
        assert refused.value.status == 400
        assert str(refused.value.detail).startswith("image: ")


def test_sdk_wrong_key(stand_in: str, monkeypatch: pytest.MonkeyPatch, picture: Path) -> None:
    with client_of(stand_in, monkeypatch, key="another") as client:
        calls: list[Callable[[], object]] = [
            lambda: client.run(T2V, prompt="a"),
            lambda: client.run_sync(T2V, prompt="a"),
            lambda: client.files.upload(picture),
            lambda: client._request("GET", "/get-user-credits"),
            lambda: job_of(client, "none").status(),
        ]
        for call in calls:
            with pytest.raises(SegmindError) as refused:
                call()
            assert (refused.value.status, refused.value.detail) == (401, "The API key is invalid or has expired")


def job_of(client: SegmindClient, request_id: str) -> AsyncJob:
    """Returns a handle for a job that another process submitted."""
    address = f"{client.base_url.removesuffix('/v1')}/v2/requests/{request_id}"
    return AsyncJob(request_id, f"{address}/status", address, {}, client)


def test_sdk_unknown_id(quick: SegmindClient) -> None:
    job = job_of(quick, "0b0a0d3e-0000-4000-8000-000000000000")
    for call in (job.status, job.result, job.wait):
        with pytest.raises(SegmindError) as refused:
            call()
        assert (refused.value.status, refused.value.detail) == (404, f"Request {job.request_id} not found")


def test_sdk_gives_up_waiting(quick: SegmindClient) -> None:
    """Segmind has no cancel: after a timeout the job continues, and its result can be fetched later."""
    job = quick.submit_async(T2V, prompt="steps=50 sleep=0.1 bytes=500")
    with pytest.raises(InferenceTimeout):
        job.wait(timeout=0.3, interval=0.1)
    assert job.status()["status"] in ("QUEUED", "PROCESSING")
    assert job.result()["status"] == "PROCESSING"
    assert job_of(quick, job.request_id).wait(interval=0.1)["video"]["file_size"] == 500


def test_credits_say_that_a_key_is_good(quick: SegmindClient) -> None:
    told = quick._request("GET", "/get-user-credits").json()
    assert set(told) == {"credits", "free-credits"}
    assert told["credits"] > 0


def test_sdk_base64(quick: SegmindClient) -> None:
    told = quick.run_sync(T2V, prompt="steps=3 bytes=500", base64=True).json()
    assert base64.b64decode(told["video"]["base64"]) == fetch(told["output"]).content
    assert quick.run(I2V, prompt="steps=3", image=BLUE)["status"] == "COMPLETED"
