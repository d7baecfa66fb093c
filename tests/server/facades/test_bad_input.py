"""Impossible sizes, frame rates and networks cause clear errors in the real worker, and the next video succeeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pipelines.video import read_video
from server.app import create_app
from server.jobs.job import Job, Status
from tests.rigs import checkpoints
from tests.rigs.house import ended, house_of, plain
from weights.interpolation import SHIPPED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
FAL, OPENAI, ZHIPU = "/queue/fal-ai/cogvideox-5b", "/v1/videos", "/api/paas/v4/videos/generations"
HUGGING_FACE = "/hf-inference/models/zai-org/CogVideoX-5b"
MODELSLAB = "/api/v6/video/text2video"
PROMPT = {"prompt": "a red circle"}
USUAL = {**PROMPT, "num_inference_steps": 2, "seed": 5, "video_size": {"width": 64, "height": 48}}
Running = tuple[FastAPI, TestClient, Path]


@contextmanager
def server(folder: Path) -> Iterator[Running]:
    own = folder / "flownet.safetensors"
    own.write_bytes(SHIPPED.read_bytes())
    given = {"data_dir": folder / "data", "model": str(checkpoints.cached("5b")), "device": "cpu", "rife_weights": own}
    application = create_app(plain(**given, min_free_mb=0, keep_latents_mb=0))
    with TestClient(application, base_url="http://here:8000") as client:
        yield application, client, own


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with server(tmp_path_factory.mktemp("server")) as found:
        yield found


def film(running: Running, **given: Any) -> tuple[Job, Any]:
    """Requests a video, waits for the job, and returns the job and fal's answer at the result URL."""
    house = house_of(running[0])
    request_id = running[1].post(FAL, json={**USUAL, **given}).json()["request_id"]
    job = house.context.jobs.get(request_id)
    assert job is not None
    return ended(house, job, 120), running[1].get(f"{FAL}/requests/{request_id}").json()


@pytest.mark.parametrize("side", [1, 20000])
def test_sizes_of_1_and_20000_pixels(running: Running, side: int) -> None:
    client, house = running[1], house_of(running[0])
    for width, height in ((side, side), (side, 480), (720, side)):
        job, said = film(running, video_size={"width": width, "height": height})
        assert (job.status, job.started_at) == (Status.FAILED, None)
        assert said["detail"][0]["loc"][:2] == ["body", "video_size"], said
    before = sum(house.store.counts().values())
    calls: list[tuple[str, dict[str, Any], str]] = [
        (OPENAI, {"size": f"{side}x{side}"}, "size"),
        (OPENAI, {"width": side}, "width"),
        (ZHIPU, {"model": "cogvideox-2", "size": f"{side}x{side}"}, "size"),
        (HUGGING_FACE, {"inputs": "a", "parameters": {"target_size": {"width": side, "height": 48}}}, "target_size"),
    ]
    if side == 1:  # ModelsLab caps larger values at its maximum
        calls.append((MODELSLAB, {"model_id": "cogvideox", "height": side}, "height"))
    for path, body, names in calls:
        answer = client.post(path, json={**PROMPT, **body})
        refused = answer.json().get("status") == "error" if path == MODELSLAB else answer.status_code in (400, 422)
        assert refused and names in answer.text, (path, answer.status_code, answer.text)
    assert sum(house.store.counts().values()) == before
    assert film(running, use_rife=False)[0].status is Status.SUCCEEDED


def test_a_rate_below_the_models_leaves_frames_out_and_one_below_fals_is_refused(
    running: Running, tmp_path: Path
) -> None:
    job, said = film(running, export_fps=4)
    assert job.status is Status.SUCCEEDED, job.error
    (tmp_path / "slow.mp4").write_bytes(running[1].get(said["video"]["url"]).content)
    clip = read_video(tmp_path / "slow.mp4", max_frames=100, max_pixels=10**6, max_seconds=100)
    made = (job.plan or {})["model_frames"]
    assert (len(clip.frames), clip.fps) == ((made - 1) // 2 + 1, 4)
    for rate in (3, 0, -8):
        _, said = film(running, export_fps=rate)
        assert said["detail"][0]["loc"] == ["body", "export_fps"], said
    assert film(running)[0].status is Status.SUCCEEDED


def test_a_network_that_was_overwritten_fails_the_film_alone(tmp_path: Path) -> None:
    """The network's file was intact when the server started, but is damaged when a worker reads it for the first
    video."""
    with server(tmp_path) as running:
        running[2].write_bytes(b"not a network")
        job, said = film(running, export_fps=16)
        assert job.status is Status.FAILED and job.error is not None and job.error.code == "model_error"
        assert str(running[2]) not in str(said) and str(running[2]) not in str(job.error)
        assert film(running, use_rife=False)[0].status is Status.SUCCEEDED
        running[2].write_bytes(SHIPPED.read_bytes())
        assert film(running, export_fps=16)[0].status is Status.SUCCEEDED
