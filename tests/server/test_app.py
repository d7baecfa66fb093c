"""The whole server with real worker processes and a fake engine."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from server.errors import DataDirBusy, DataDirUnwritable, DiskFull, InsecureBind, NoModel, QueueFull
from server.house import House
from server.jobs.job import JobError, Status
from server.jobs.order import Order
from server.workers import local_pool
from server.workers.pool import WorkerInfo, WorkerState
from tests.rigs import pace
from tests.rigs.house import app, ended, house_of, journal, submit, until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, House, Path]]:
    tmp = tmp_path_factory.mktemp("server")
    application = app(tmp)
    with TestClient(application) as client:
        house = house_of(application)
        until(lambda: client.get("/health/ready").status_code == 200)
        yield client, house, tmp


Running = tuple[TestClient, House, Path]


def worker_pid(house: House) -> int:
    pid = house.pool._slots[0].process
    assert pid is not None and pid.pid is not None
    return pid.pid


def test_the_api_imports_no_torch() -> None:
    code = "import server.app, server.serve, sys; assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_job_from_submit_to_file(running: Running) -> None:
    client, house, _ = running
    job = submit(house, "steps=3 bytes=5000", seed=5)
    job = ended(house, job)
    assert (job.status, job.attempt, job.step, job.steps, job.memory) == (Status.SUCCEEDED, 1, 3, 3, "none: fake")
    assert job.plan == {"seed": 5, "task": "text-to-video"} and job.timings == {"denoise": 0.1}
    assert job.video and job.poster and job.manifest and job.inference_seconds is not None
    lines = [line.message for line in house.context.jobs.logs(job.id)]
    assert lines[0] == "memory: fake" and lines[-1].startswith("step 3 of 3, ")
    data = house.context.artifacts.read(job.video)
    address = house.context.artifacts.url(job.video, "")
    whole = client.get(address)
    assert whole.content == data and len(data) == 5000
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["access-control-allow-origin"] == "*"
    part = client.get(address, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, data[10:20])
    assert part.headers["content-range"] == "bytes 10-19/5000"
    assert client.get(address, headers={"range": "bytes=9000-"}).status_code == 416
    head = client.head(address)
    assert head.headers["content-length"] == "5000" and head.content == b""
    assert client.get(house.context.artifacts.url(job.manifest, "")).json() == {"seed": 5}


def test_files_that_are_not_there(running: Running) -> None:
    client, _, _ = running
    for path in (
        "/files/x/video.mp4",
        f"/files/{'a' * 32}/video.mp4",
        "/files/..%2f..%2fjobs.db/x",
        "/files/../jobs.db/x",
    ):
        answer = client.get(path)
        assert answer.status_code == 404 and "detail" in answer.json()
    assert client.options(f"/files/{'a' * 32}/video.mp4").headers["access-control-allow-origin"] == "*"


def test_health_and_overview(running: Running) -> None:
    client, _, tmp = running
    health = client.get("/health")
    assert health.headers["x-cogvideox-model"] == "tiny, tiny-i2v"
    report = health.json()
    assert report["status"] == "ok" and report["demo"] is False
    assert report["models"]["video-to-video"] == "tiny" and report["models"]["image-to-video"] == "tiny-i2v"
    assert report["workers"][0]["state"] in ("ready", "busy")
    assert str(tmp) not in health.text
    assert client.get("/health/live").status_code == 200
    assert "fal" in client.get("/").json()["apis"]
    assert client.get("/nothing").headers["x-cogvideox-model"] == "tiny, tiny-i2v"


def test_an_answer_about_a_job_names_its_model(running: Running) -> None:
    client, _, _ = running
    made = client.post("/queue/fal-ai/cogvideox-5b", json={"prompt": "steps=2", "use_rife": False})
    assert made.headers["x-cogvideox-model"] == "tiny"
    asked = client.get(f"/fal-ai/cogvideox-5b/requests/{made.json()['request_id']}/status")
    assert asked.status_code in (200, 202) and asked.headers["x-cogvideox-model"] == "tiny"
    assert client.get("/health").headers["x-cogvideox-model"] == "tiny, tiny-i2v"


def test_health_while_the_worker_starts(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    client, house, _ = running
    worker = WorkerInfo("cpu", WorkerState.STARTING, None, 0, None)
    monkeypatch.setattr(house.pool, "workers", lambda: [worker])
    assert client.get("/health").json()["status"] == "starting"
    assert client.get("/health/ready").status_code == 503
    monkeypatch.setattr(house.data, "min_free_bytes", 2**60)
    assert client.get("/health").json()["status"] == "degraded"


def test_docs_show_every_facade(running: Running) -> None:
    client, _, _ = running
    paths = client.get("/openapi.json").json()["paths"]
    assert (
        "/health" in paths and any(p.startswith("/queue/") for p in paths) and any(p.startswith("/v1/") for p in paths)
    )
    page = client.get("/docs")
    assert page.status_code == 200
    assert "://" not in page.text, "the page must work without internet access"
    for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert client.get(path).status_code == 200


def test_facades_are_reached_with_their_paths_whole(running: Running) -> None:
    client, _, _ = running
    answer = client.post(
        "/fal-ai/cogvideox-5b", json={"prompt": "steps=2", "num_inference_steps": 2, "use_rife": False}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["video"]["url"].startswith("http://testserver/files/")
    answer = client.post("/queue/fal-ai/cogvideox-5b", json={"prompt": "steps=2", "use_rife": False})
    assert answer.status_code == 200, answer.text


def test_too_large_a_body(running: Running) -> None:
    client, _, _ = running
    answer = client.post("/fal-ai/cogvideox-5b", content=b"x", headers={"content-length": str(2**40)})
    assert answer.status_code == 413 and answer.headers["x-cogvideox-model"]


def test_cancel_queued_and_running(running: Running) -> None:
    _, house, tmp = running
    jobs = house.context.jobs
    first = submit(house, "steps=100000 sleep=0.02", seed=101)
    second = submit(house, "steps=2", seed=102)
    until(lambda: (found := jobs.get(first.id)) and found.step > 0)
    assert jobs.position(second) == 0
    cancelled = jobs.cancel(second.id)
    assert cancelled is not None and cancelled.status is Status.CANCELLED
    asked = jobs.cancel(first.id)
    assert asked is not None and asked.status is Status.RUNNING and asked.cancel_requested
    assert ended(house, first).status is Status.CANCELLED
    assert "start 102" not in journal(tmp) and "end 101" not in journal(tmp)


def test_a_worker_that_does_not_stop_is_killed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    _, house, _ = running
    monkeypatch.setattr("server.workers.patience.CANCEL_GRACE", 0.2)
    job = submit(house, "hang=1 deaf=1")
    until(lambda: (found := house.context.jobs.get(job.id)) and found.stage == "denoise")
    house.context.jobs.cancel(job.id)
    assert ended(house, job).status is Status.CANCELLED


@pytest.mark.parametrize(
    ("order", "code", "field"),
    [
        ("fail=out_of_memory", "out_of_memory", "prompt"),
        ("refuse=width", "invalid_request", "width"),
        ("raise=secret", "internal", None),
    ],
)
def test_failures_keep_their_code(running: Running, order: str, code: str, field: str | None) -> None:
    _, house, _ = running
    job = ended(house, submit(house, order))
    assert job.status is Status.FAILED and job.error is not None
    assert (job.error.code, job.error.field) == (code, field)
    assert ended(house, submit(house, "steps=1")).status is Status.SUCCEEDED


def test_worker_killed_from_outside(running: Running) -> None:
    _, house, tmp = running
    job = submit(house, "steps=100 sleep=0.02", seed=201)
    until(lambda: (found := house.context.jobs.get(job.id)) and found.step > 0)
    os.kill(worker_pid(house), signal.SIGKILL)
    job = ended(house, job)
    assert (job.status, job.attempt) == (Status.SUCCEEDED, 2)
    assert len(job.deaths) == 1 and "SIGKILL" in job.deaths[0] and "denoise" in job.deaths[0]
    assert journal(tmp).count("start 201") == 2 and journal(tmp).count("end 201") == 1


@pytest.mark.parametrize("how", ["exit", "SIGSEGV"])
def test_a_job_that_kills_its_workers_fails(running: Running, how: str) -> None:
    client, house, _ = running
    poison = submit(house, f"die={how}")
    after = submit(house, "steps=1")
    poison, after = ended(house, poison), ended(house, after)
    assert poison.status is Status.FAILED and poison.error is not None and poison.error.code == "worker_lost"
    assert poison.attempt == 3 and len(poison.deaths) == 3
    assert ("status 7" if how == "exit" else "SIGSEGV") in poison.error.message
    assert after.status is Status.SUCCEEDED
    assert client.get("/health").json()["workers"][0]["restarts"] >= 3


def test_wait_and_refuse(running: Running) -> None:
    _, house, _ = running
    jobs = house.context.jobs
    error = JobError("invalid_request", "no", detail={"detail": []})
    refused = jobs.refuse(Order("test", "test", ""), error)
    assert asyncio.run(jobs.wait(refused.id)) == jobs.get(refused.id)
    assert refused.status is Status.FAILED and refused.error == error

    async def several() -> list[Status]:
        made = [submit(house, "steps=2") for _ in range(5)]
        return [job.status for job in await asyncio.gather(*(jobs.wait(job.id, pace.seconds(60)) for job in made))]

    assert asyncio.run(several()) == [Status.SUCCEEDED] * 5
    slow = submit(house, "steps=100000")
    assert not asyncio.run(jobs.wait(slow.id, 0.1)).status.is_terminal
    jobs.cancel(slow.id)
    with pytest.raises(KeyError):
        asyncio.run(jobs.wait("unknown"))


def test_nothing_is_promised_that_cannot_be_kept(tmp_path: Path) -> None:
    application = app(tmp_path, max_queue=2, model=None, models_dir=tmp_path)
    house = house_of(application)  # not started, so jobs stay queued
    if not house.served.by_task:
        with pytest.raises(NoModel):
            submit(house, "x")
    house.close()
    application = app(tmp_path, max_queue=2)
    house = house_of(application)
    jobs = [submit(house, "x") for _ in range(2)]
    assert [house.context.jobs.position(job) for job in jobs] == [0, 1]
    with pytest.raises(QueueFull):
        submit(house, "x")
    house.close()
    house = house_of(app(tmp_path, min_free_mb=2**40))
    with pytest.raises(DiskFull):
        submit(house, "x")
    assert "free" in " ".join(house.health.obstacles())
    house.close()


def test_a_worker_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server refuses new jobs with the reason, keeps accepted jobs queued, and tries to start the worker again."""
    monkeypatch.setattr(local_pool, "RETRY", 3600.0)
    application = app(tmp_path)
    (tmp_path / "tiny" / "broken").write_text("import")
    house = house_of(application)
    accepted = submit(house, "steps=1")  # the server does not know of the failure yet
    with TestClient(application) as client, capture_logs() as lines:
        until(lambda: client.get("/health").json()["workers"][0]["state"] == "broken")
        health = client.get("/health").json()
        assert health["status"] == "degraded"
        (problem,) = health["problems"]
        assert problem.startswith("the worker on cpu cannot start: ImportError: libcudnn.so.9: cannot open shared")
        assert client.get("/health/ready").status_code == 503
        told = [line["event"] for line in lines if line["log_level"] == "error"]
        assert len(told) == 1 and told[0].endswith("No such file or directory; run `make setup`")
        calls = {
            "/run/fal-ai/cogvideox-5b": {"prompt": "x"},
            "/queue/fal-ai/cogvideox-5b": {"prompt": "x"},
            "/v1/cog-video-5b-t2v": {"prompt": "x"},
            "/v1/videos": {"prompt": "x"},
            "/api/paas/v4/videos/generations": {"model": "cogvideox-2", "prompt": "x"},
            "/v1/models/cuuupid/cogvideox-5b/predictions": {"input": {"prompt": "x"}},
            "/hf-inference/models/zai-org/CogVideoX-5b": {"inputs": "x"},
            "/api/v6/video/text2video": {"key": "k", "prompt": "x", "model_id": "cogvideox"},
        }
        for path, body in calls.items():
            answer = client.post(path, json=body)
            assert "libcudnn" in answer.text and str(tmp_path) not in answer.text, (path, answer.text)
            assert answer.status_code == 503, (path, answer.status_code)
        assert (house.context.jobs.get(accepted.id) or accepted).status is Status.QUEUED
        (tmp_path / "tiny" / "broken").unlink()
        monkeypatch.setattr(house.pool, "_clock", lambda: time.monotonic() + 7200.0)
        assert ended(house, accepted).status is Status.SUCCEEDED
        assert client.get("/health").json()["status"] == "ok"
        assert ended(house, submit(house, "steps=1")).status is Status.SUCCEEDED


def test_calls_that_wait_are_answered_when_no_worker_can_start(tmp_path: Path) -> None:
    """These calls wait for their jobs; their clients cannot fetch a video later, so the server cancels the jobs."""
    application = app(tmp_path)
    house = house_of(application)
    (tmp_path / "tiny" / "broken").touch()
    with TestClient(application) as client:
        for path, body in (
            ("/run/fal-ai/cogvideox-5b", {"prompt": "x"}),
            ("/hf-inference/models/zai-org/CogVideoX-5b", {"inputs": "x"}),
        ):
            answer = client.post(path, json=body)  # the server accepts the first call before the worker has failed
            assert answer.status_code == 503 and "weights are torn" in answer.text
        counts = house.store.counts()
        assert not counts.get(Status.QUEUED) and not counts.get(Status.RUNNING)


def test_no_room_for_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(local_pool, "RETRY", 0.5)
    with monkeypatch.context() as patched:
        patched.setattr("multiprocessing.context.SpawnProcess.start", no)
        application = app(tmp_path)
        job = submit(house_of(application), "steps=1")
        with TestClient(application) as client:
            until(lambda: "no process could be started" in client.get("/health").text)
            patched.undo()
            assert ended(house_of(application), job).status is Status.SUCCEEDED


def test_restart_takes_up_what_was_running(tmp_path: Path) -> None:
    application = app(tmp_path)
    with TestClient(application):
        house = house_of(application)
        job = submit(house, "steps=100 sleep=0.05", seed=7)
        doomed = submit(house, "steps=100", seed=8)
        until(lambda: (found := house.context.jobs.get(job.id)) and found.step > 0)
    application = app(tmp_path, model=str(tmp_path / "tiny-i2v"))
    with TestClient(application):
        house = house_of(application)
        again = ended(house, job)
        assert again.status is Status.FAILED and again.error is not None
        assert again.attempt == 2 and "no longer served" in again.error.message and again.deaths == ()
        assert ended(house, doomed).error is not None


def test_one_server_to_a_data_folder(tmp_path: Path) -> None:
    first = house_of(app(tmp_path))
    with pytest.raises(DataDirBusy):
        app(tmp_path)
    first.close()
    first.close()
    house_of(app(tmp_path)).close()
    (tmp_path / "file").touch()
    with pytest.raises(DataDirUnwritable):
        app(tmp_path, data_dir=tmp_path / "file")


def test_open_server_stays_on_loopback(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(InsecureBind):
            app(tmp_path, host=host)
    for host, more in (("0.0.0.0", {"insecure": True}), ("0.0.0.0", {"api_keys": "k"}), ("::1", {}), ("localhost", {})):
        house_of(app(tmp_path, host=host, **more)).close()
