"""A job's progress in the table, in the logs and in each cloud's answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.facades.modelslab.answers import eta
from server.facades.replicate import logs
from server.house import House
from server.jobs.job import Job, Status
from tests.rigs.house import app, ended, house_of, journal, submit, until

SLOW = "steps=4 sleep=0.05 decode=1.5"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, House, Path]]:
    tmp = tmp_path_factory.mktemp("server")
    application = app(tmp)
    with TestClient(application) as client:
        house = house_of(application)
        until(lambda: client.get("/health/ready").status_code == 200)
        yield client, house, tmp


def seen_while(house: House, job: Job, look: Any) -> list[Any]:
    """Collects the results of `look` until the job has ended, and includes the final state."""
    found = []
    while True:
        now = house.context.jobs.get(job.id)
        assert now is not None
        found.append(look(now))
        if now.status.is_terminal:
            return found


def test_fal_hears_of_the_decoding(running: tuple[TestClient, House, Path]) -> None:
    client, _, _ = running
    made = client.post("/queue/fal-ai/cogvideox-5b", json={"prompt": SLOW, "use_rife": False}).json()
    until(lambda: client.get(made["status_url"], params={"logs": "1"}).json()["status"] == "COMPLETED")
    lines = [line["message"] for line in client.get(made["status_url"], params={"logs": "1"}).json()["logs"]]
    sampled = lines.index(next(line for line in lines if line.startswith("step 4 of 4")))
    assert "about 2 s left" in lines[sampled], "decoding is still to come"
    decoding = lines[sampled + 1 :]
    assert decoding[0].startswith("decoding 1 of 30, about 1 s left")
    assert decoding[-1].startswith("decoding 30 of 30") and len(decoding) <= 10


def test_every_cloud_sees_one_progress_that_never_falls(running: tuple[TestClient, House, Path]) -> None:
    client, house, _ = running
    video = client.post("/v1/videos", json={"prompt": SLOW}).json()
    job = next(j for j in house.context.jobs.page("openai", "", 1))
    seen = seen_while(house, job, lambda now: (client.get(f"/v1/videos/{video['id']}").json(), now))
    shown = [answer["progress"] for answer, _ in seen]
    assert shown == sorted(shown) and shown[-1] == 100
    assert all((answer["progress"] == 100) == (answer["status"] == "completed") for answer, _ in seen)
    after_sampling = [answer["progress"] for answer, now in seen if now.stage == "decode"]
    assert after_sampling and min(after_sampling) < 60, "sampling is a tenth of this job's work"
    bars = [logs.progress(now, now.started_at + 1) for _, now in seen if now.started_at and now.steps]
    percents = [int(bar[:3]) for bar in bars]
    assert percents == sorted(percents) and percents[-1] == 100 and all(" 4/4 " in bar for bar in bars[-2:])
    expected = house.context.jobs.expected
    left = [eta(expected(now), 0) for _, now in seen if now.status is Status.RUNNING and now.stage == "decode"]
    assert left[0] >= 1 and left == sorted(left, reverse=True)


def test_what_an_attempt_reached_is_not_unsaid_by_the_next(running: tuple[TestClient, House, Path]) -> None:
    _, house, tmp = running
    job = submit(house, "steps=4 sleep=0.02 decode=1 die_decoding=16", seed=77)
    shares: list[float] = []
    steps: list[tuple[str | None, int]] = []

    def look(now: Job) -> None:
        shares.append(now.progress)
        if now.status is Status.QUEUED:
            steps.append((now.stage, now.step))

    seen_while(house, job, look)
    assert journal(tmp).count("start 77") == 3, "each attempt dies"
    assert shares == sorted(shares) and 0.5 < shares[-1] < 1
    assert set(steps) == {(None, 0)}, "a waiting job keeps no stage of the lost attempt"
    deaths = (house.context.jobs.get(job.id) or job).deaths
    assert len(deaths) == 3 and all("during decode, after 15 of 20" in death for death in deaths)


def test_the_table_keeps_the_higher_share(running: tuple[TestClient, House, Path]) -> None:
    _, house, _ = running
    job = submit(house, "steps=1000 sleep=0.05")
    until(lambda: (found := house.context.jobs.get(job.id)) and found.step > 0)
    store = house.store
    attempt = (store.get(job.id) or job).attempt
    store.progress(job.id, attempt, share=0.7)
    store.progress(job.id, attempt, share=0.2, step=3)
    found = store.get(job.id)
    assert found is not None and found.share == 0.7
    house.context.jobs.cancel(job.id)
    assert ended(house, job).progress == 0.7
