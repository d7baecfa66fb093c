"""A client's deadline for a job holds across a restart, even if no client asks for the job."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from server.facades.replicate.answers import job_id
from server.house import House
from server.jobs.job import Job, Status
from server.jobs.order import Order
from tests.rigs import pace
from tests.rigs.house import app, house_of, submit, until

FAL = "/queue/fal-ai/cogvideox-5b"
REPLICATE = "/v1/models/cuuupid/cogvideox-5b/predictions"
LONG = "steps=50000 sleep=0.05"


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.facades.replicate.calls.LEAST_DEADLINE", 0.0)


@contextmanager
def not_started(tmp: Path) -> Iterator[tuple[House, TestClient]]:
    """A server that is not started: jobs stay queued, and no timer outlives the call that set it."""
    application = app(tmp)
    try:
        yield house_of(application), TestClient(application)
    finally:
        house_of(application).close()


def ends(house: House, asked: str) -> Job:
    def look() -> Job | None:
        found = house.context.jobs.get(asked)
        return found if found is not None and found.status.is_terminal else None

    found: Job = until(look)
    return found


def test_what_should_have_begun_before_the_restart_never_does(tmp_path: Path) -> None:
    with not_started(tmp_path) as (_, client):
        headers = {"x-fal-request-timeout": "0.2"}
        late = client.post(FAL, json={"prompt": "steps=1"}, headers=headers).json()["request_id"]
        headers = {"x-fal-request-timeout": "600"}
        early = client.post(FAL, json={"prompt": "steps=1"}, headers=headers).json()["request_id"]
        headers = {"cancel-after": "0"}
        over = job_id(client.post(REPLICATE, json={"input": {"prompt": "steps=1"}}, headers=headers).json()["id"])
        assert over is not None
        time.sleep(0.3)
    application = app(tmp_path)
    with TestClient(application) as client:
        house = house_of(application)
        assert ends(house, early).status is Status.SUCCEEDED
        for one in (late, over):
            found = ends(house, one)
            assert (found.status, found.attempt) == (Status.CANCELLED, 0)
        assert client.get(f"{FAL}/requests/{late}/status").json()["error_type"] == "request_timeout"
        assert client.get(f"{FAL}/requests/{late}").status_code == 504


def test_a_deadline_that_comes_after_the_restart(tmp_path: Path) -> None:
    """The first job's deadline passes while this job is queued and no client asks for it. The second job's deadline
    passes while this job runs."""
    with not_started(tmp_path) as (house, client):
        first = submit(house, LONG)
        headers = {"x-fal-request-timeout": "2"}
        waiting = client.post(FAL, json={"prompt": "steps=1"}, headers=headers).json()["request_id"]
    application = app(tmp_path)
    with TestClient(application) as client:
        house = house_of(application)
        assert (found := ends(house, waiting)).status is Status.CANCELLED
        assert found.start_by is not None and found.finished_at is not None and found.finished_at >= found.start_by
        house.context.jobs.cancel(first.id)
        given = house.context.jobs.get(first.id)
        assert given is not None
        soon = house.context.jobs.submit(given.request, Order("test", "", "", end_by=time.time() + pace.seconds(2)))
        found = ends(house, soon.id)
        assert (found.status, found.attempt, found.video) == (Status.CANCELLED, 1, None)


def test_who_has_begun_is_spared(tmp_path: Path) -> None:
    """A start timeout does not cancel a job that has begun, even while the job waits for its second attempt."""
    with not_started(tmp_path) as (house, client):
        soon = pace.seconds(0.5)
        headers = {"x-fal-request-timeout": f"{soon}"}
        begun = client.post(FAL, json={"prompt": "steps=1"}, headers=headers).json()["request_id"]
        taken = house.store.claim()
        assert taken is not None and taken.id == begun
        time.sleep(soon)
    application = app(tmp_path)
    with TestClient(application):
        found = ends(house_of(application), begun)
        assert (found.status, found.attempt) == (Status.SUCCEEDED, 2)


def test_a_look_is_enough(tmp_path: Path) -> None:
    """A call that waits for the job, or asks for it, enforces the deadline even without a dispatcher."""
    with not_started(tmp_path) as (_, client):
        headers = {"x-fal-request-timeout": "0.2"}
        answer = client.post("/run/fal-ai/cogvideox-5b", json={"prompt": "steps=1"}, headers=headers)
        assert (answer.status_code, answer.headers["x-fal-request-timeout-type"]) == (504, "user")
        over = client.post(REPLICATE, json={"input": {"prompt": "steps=1"}}, headers={"cancel-after": "0"}).json()
        assert client.get(f"/v1/predictions/{over['id']}").json()["status"] == "canceled"


def test_who_waits_is_told_so(tmp_path: Path) -> None:
    application = app(tmp_path)
    with TestClient(application) as client:
        house = house_of(application)
        first = submit(house, LONG)
        until(lambda: (found := house.context.jobs.get(first.id)) and found.status is Status.RUNNING)
        headers = {"x-fal-request-timeout": "0.5"}
        answer = client.post("/run/fal-ai/cogvideox-5b", json={"prompt": "steps=1"}, headers=headers)
        assert (answer.status_code, answer.headers["x-fal-request-timeout-type"]) == (504, "user")
        house.context.jobs.cancel(first.id)
