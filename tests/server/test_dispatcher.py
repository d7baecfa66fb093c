"""What the dispatcher does when the table, the disk or one of two workers lets it down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from server.app import House
from server.errors import DiskFull
from server.jobs.job import Status
from tests.server.house import app, ended, house_of, journal, submit, until


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Path]]:
    tmp = tmp_path_factory.mktemp("two")
    application = app(tmp, device="cuda:0,cuda:1")  # the fake engine does not mind that there are none
    with TestClient(application):
        yield house_of(application), tmp


Two = tuple[House, Path]


def test_two_workers_work_at_the_same_time_and_die_alone(two_workers: Two) -> None:
    house, tmp = two_workers
    until(lambda: all(w.state == "ready" for w in house.health.pool.workers()))
    healthy = submit(house, "steps=30 sleep=0.03", seed=1)
    dying = submit(house, "die=SIGKILL times=1 sleep=0.03", seed=2)
    until(lambda: house.health.store.counts()[Status.RUNNING] == 2)
    first, second = ended(house, healthy), ended(house, dying)
    assert (first.status, first.attempt, second.status, second.attempt) == (Status.SUCCEEDED, 1, Status.SUCCEEDED, 2)
    assert sorted(w.restarts for w in house.health.pool.workers()) == [0, 1]
    assert journal(tmp).count("end 1") == journal(tmp).count("end 2") == 1


def test_many_jobs_each_end_once(two_workers: Two) -> None:
    house, tmp = two_workers
    jobs = [submit(house, "steps=1 sleep=0", seed=1000 + n) for n in range(12)]
    assert {ended(house, job).status for job in jobs} == {Status.SUCCEEDED}
    ends = [line for line in journal(tmp) if line.startswith("end 10")]
    assert sorted(ends) == [f"end {1000 + n}" for n in range(12)]


def test_a_table_that_cannot_be_written_loses_nothing(two_workers: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    house, _ = two_workers
    store, failures = house.health.store, [1, 2]
    finish = store.finish

    def unwilling(*args: Any, **kwargs: Any) -> None:
        if failures:
            failures.pop()
            raise OperationalError("UPDATE", {}, Exception("database or disk is full"))
        finish(*args, **kwargs)

    monkeypatch.setattr("server.jobs.dispatcher.RETRY", 0.05)
    monkeypatch.setattr(store, "finish", unwilling)
    before = len(list(house.health.data.artifacts.iterdir()))
    job = ended(house, submit(house, "steps=1"))
    assert (job.status, job.attempt, failures) == (Status.SUCCEEDED, 1, [])
    assert len(list(house.health.data.artifacts.iterdir())) == before + 3


def test_a_result_nobody_wants_any_more_is_dropped(two_workers: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    house, _ = two_workers
    store = house.health.store
    before = len(list(house.health.data.artifacts.iterdir()))
    finish = store.finish

    def too_late(job_id: str, attempt: int, **values: Any) -> None:
        store.cancelled(job_id, attempt)
        finish(job_id, attempt, **values)

    monkeypatch.setattr(store, "finish", too_late)
    job = ended(house, submit(house, "steps=1"))
    assert job.status is Status.CANCELLED and job.video is None
    until(lambda: len(list(house.health.data.artifacts.iterdir())) == before)


@pytest.mark.parametrize(
    ("error", "said"), [(DiskFull("the server's disk is full"), "disk is full"), (KeyError("x"), "KeyError")]
)
def test_a_result_that_cannot_be_stored_fails_its_job_only(
    two_workers: Two, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    house, _ = two_workers

    def put(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(house.context.artifacts, "put", put)
        job = ended(house, submit(house, "steps=1"))
    assert job.error is not None and job.error.code == "internal" and said in job.error.message
    assert ended(house, submit(house, "steps=1")).status is Status.SUCCEEDED
