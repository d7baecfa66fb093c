"""The dispatcher keeps working when the table, the disk or one of two workers fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from server.errors import DataDirBusy, DiskFull
from server.house import House
from server.jobs.job import Artifact, Job, Status
from server.workers.dispatcher import Dispatcher
from server.workers.patience import Patience
from server.workers.protocol import Report
from tests.rigs import pace
from tests.rigs.desk import Desk, Notebook, Scripted
from tests.rigs.house import app, ended, house_of, journal, submit, until


def until_ended(desk: Desk, *names: str) -> list[Status]:
    def statuses() -> list[Status]:
        return [desk.get(name).status for name in names]

    until(lambda: all(status.is_terminal for status in statuses()))
    return statuses()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A rig for the dispatcher with a scripted pool instead of processes; the dispatcher retries failures quickly."""
    monkeypatch.setattr("server.workers.dispatcher.RETRY", 0.02)
    made = Desk(tmp_path)
    made.pool = Scripted()
    yield made
    made.close()


@contextmanager
def dispatching(desk: Desk) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(desk.records, desk.pool, ["tiny"], Patience(drain=0.0), desk.clock)
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        dispatcher.stop()


@pytest.mark.parametrize("name", ["expire", "claim", "unwanted", "progress", "finish"])
def test_a_table_that_cannot_be_used_loses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    usual, failures = getattr(desk.store, name), [1, 2]

    def unwilling(*args: Any, **kwargs: Any) -> Any:
        if failures:
            failures.pop()
            raise OperationalError("UPDATE", {}, Exception("database or disk is full"))
        return usual(*args, **kwargs)

    monkeypatch.setattr(desk.store, name, unwilling)
    with dispatching(desk):
        assert until_ended(desk, "id") == [Status.SUCCEEDED] and not failures
    assert desk.job.attempt == 1 and len(desk.files) == 3


def test_no_worker_hangs_while_the_table_is_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the table is unusable, the dispatcher reads no messages from its workers, so it must not kill a worker for
    silence."""
    away, noticed, unwanted = threading.Event(), threading.Event(), desk.store.unwanted

    def unusable(job_ids: list[str]) -> set[str]:
        if away.is_set():
            noticed.set()
            raise OperationalError("SELECT", {}, Exception("server closed the connection"))
        return unwanted(job_ids)

    desk.pool = Notebook()
    monkeypatch.setattr(desk.store, "unwanted", unusable)
    with dispatching(desk) as dispatcher:
        until(lambda: desk.job.status is Status.RUNNING and dispatcher._attempts)
        (attempt,) = dispatcher._attempts.values()
        away.set()
        until(noticed.is_set)
        desk.now += 2 * Patience().silence
        until(lambda: attempt._heard_at == desk.now)
        away.clear()
        desk.store.cancel("id")
        until(lambda: len(desk.pool.notes) > 1)
    assert desk.pool.notes[1:2] == [("cancel", "id", 1)], "the worker is not killed"


def test_an_odd_turn_ends_neither_the_loop_nor_other_jobs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, reports = desk.store.claim, desk.pool.reports
    errors: list[Exception] = [ValueError("odd row"), BrokenPipeError()]

    def odd_row() -> Job | None:
        if errors:
            raise errors.pop()
        return claim()

    def odd_pool(timeout: float, once: list[int] = [1]) -> list[Report]:  # noqa: B006
        if once:
            raise ZeroDivisionError(once.pop())
        return reports(timeout)

    monkeypatch.setattr(desk.store, "claim", odd_row)
    monkeypatch.setattr(desk.pool, "reports", odd_pool)
    with dispatching(desk) as dispatcher:
        assert until_ended(desk, "id") == [Status.SUCCEEDED] and not errors
        assert dispatcher.alive


@pytest.mark.parametrize(
    ("error", "said"), [(DiskFull("the server's disk is full"), "disk is full"), (KeyError("x"), "KeyError")]
)
def test_a_result_that_cannot_be_stored_fails_its_job_only(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    put, errors = desk.records.artifacts.put, [error]

    def unwilling(*args: Any) -> Artifact:
        if errors:
            raise errors.pop()
        return put(*args)

    monkeypatch.setattr(desk.records.artifacts, "put", unwilling)
    desk.submit("next")
    with dispatching(desk):
        assert until_ended(desk, "id", "next") == [Status.FAILED, Status.SUCCEEDED]
    assert desk.job.error is not None and desk.job.error.code == "internal" and said in desk.job.error.message


def test_a_model_that_is_no_longer_served_fails_its_jobs(desk: Desk) -> None:
    desk.submit("old", model="gone")
    with dispatching(desk):
        assert until_ended(desk, "id", "old") == [Status.SUCCEEDED, Status.FAILED]
    error = desk.get("old").error
    assert error is not None and "gone was accepted for this job and is no longer served" in error.message


def test_a_server_that_has_lost_the_table_stops_working(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise DataDirBusy("another server is using the database")

    desk.pool = Notebook()
    with dispatching(desk) as dispatcher:
        until(lambda: desk.job.status is Status.RUNNING)
        monkeypatch.setattr(desk.store.database, "hold", lost)
        monkeypatch.setattr("server.workers.dispatcher.HELD", 0.0)
        desk.now += 1
        until(lambda: dispatcher.dead)
    assert "another server is using the database" in desk.pool.notes[-1][1]
    assert desk.job.status is Status.RUNNING, "it belongs to the other server"


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Path]]:
    tmp = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patched:  # the fake engine needs no real devices
        patched.setattr("server.devices.count_cuda_devices", lambda: 2)
        patched.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        application = app(tmp, device="cuda:0,cuda:1")
    with TestClient(application):
        yield house_of(application), tmp


Two = tuple[House, Path]


def test_two_workers_work_at_the_same_time_and_die_alone(two_workers: Two) -> None:
    house, tmp = two_workers
    until(lambda: all(w.state == "ready" for w in house.pool.workers()))
    healthy = submit(house, "steps=100 sleep=0.03", seed=1)
    dying = submit(house, "die=SIGKILL times=1 steps=40 at=40 sleep=0.03", seed=2)
    until(lambda: house.store.counts()[Status.RUNNING] == 2)
    first, second = ended(house, healthy), ended(house, dying)
    assert (first.status, first.attempt, second.status, second.attempt) == (Status.SUCCEEDED, 1, Status.SUCCEEDED, 2)
    assert sorted(w.restarts for w in house.pool.workers()) == [0, 1]
    assert journal(tmp).count("end 1") == journal(tmp).count("end 2") == 1


def test_many_jobs_each_end_once(two_workers: Two) -> None:
    house, tmp = two_workers
    jobs = [submit(house, "steps=1 sleep=0", seed=1000 + n) for n in range(12)]
    assert {ended(house, job).status for job in jobs} == {Status.SUCCEEDED}
    ends = [line for line in journal(tmp) if line.startswith("end 10")]
    assert sorted(ends) == [f"end {1000 + n}" for n in range(12)]


def test_a_dead_dispatcher_is_sent_no_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise SystemExit

    application = app(tmp_path)
    monkeypatch.setattr(house_of(application).pool, "reports", die)
    with TestClient(application) as client:
        until(lambda: house_of(application).dispatcher.dead)
        for path, word in (("/v1/cog-video-5b-t2v", "error"), ("/queue/fal-ai/cogvideox-5b", "detail")):
            answer = client.post(path, json={"prompt": "steps=1"})
            assert answer.status_code == 503 and "stopped working" in answer.json()[word]


def test_a_lost_attempt_goes_on_where_it_was(two_workers: Two) -> None:
    house, tmp = two_workers
    job = ended(house, submit(house, "save=1 steps=9 at=5 die=SIGKILL times=1", seed=77))
    assert (job.status, job.attempt) == (Status.SUCCEEDED, 2)
    runs = [line for line in journal(tmp) if line.startswith("start 77")]
    assert runs == ["start 77", "start 77 at 4"], "the worker died during the fifth step"
    until(lambda: not house.data.checkpoints.joinpath(job.id).exists())


def test_a_restarted_server_goes_on_where_it_was(tmp_path: Path) -> None:
    application = app(tmp_path)
    with TestClient(application):
        house = house_of(application)
        job = submit(house, "save=1 steps=400 sleep=0.02", seed=5)
        gone = submit(house, "save=1 steps=400 sleep=0.02", seed=6)
        until(lambda: house.data.checkpoints.joinpath(job.id).exists())
    house.data.checkpoints.joinpath(gone.id).write_bytes(b"7")
    house.data.checkpoints.joinpath("nobody").write_bytes(b"7")
    application = app(tmp_path)
    with TestClient(application):
        house = house_of(application)
        until(lambda: len(journal(tmp_path)) == 2)
        assert journal(tmp_path)[1].startswith("start 5 at ")
        left = [p.name for p in house.data.checkpoints.iterdir() if p.is_file()]
        assert sorted(left) == sorted([job.id, gone.id])
        for one in (job, gone):
            house.context.jobs.cancel(one.id)
            assert ended(house, one).status is Status.CANCELLED


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    application = app(tmp_path, silence_seconds=pace.seconds(1.5))
    with TestClient(application):
        house = house_of(application)
        until(lambda: all(w.state == "ready" for w in house.pool.workers()))
        hanging, next_one = submit(house, "hang=1 save=1", seed=1), submit(house, "steps=1", seed=2)
        assert ended(house, hanging).status is Status.FAILED
        lost = house.context.jobs.get(hanging.id)
        assert lost and lost.error and lost.error.code == "worker_lost" and len(lost.deaths) == 3
        assert "said nothing for" in lost.error.message
        assert ended(house, next_one).status is Status.SUCCEEDED
    begun = [line for line in journal(tmp_path) if line.startswith("start 1")]
    assert len(begun) == 3 and begun[0] == "start 1" and begun[2] == "start 1 at 2"


def test_a_stopping_server_lets_its_jobs_save(tmp_path: Path) -> None:
    application = app(tmp_path, drain_seconds=pace.seconds(20))
    with TestClient(application):
        house = house_of(application)
        job = submit(house, "steps=500 sleep=0.02", seed=1)
        waiting = submit(house, "steps=1", seed=2)
        until(lambda: (found := house.context.jobs.get(job.id)) and found.step > 3)
    house = house_of(application := app(tmp_path))
    found = house.context.jobs.get(job.id)
    assert found and found.status is Status.QUEUED and found.attempt == 1 and not found.deaths
    assert int(house.data.checkpoints.joinpath(job.id).read_bytes()) > 3
    with TestClient(application):
        until(lambda: len(journal(tmp_path)) == 2)
        assert journal(tmp_path)[1].startswith("start 1 at ")
        house.context.jobs.cancel(job.id)
        assert ended(house, waiting).status is Status.SUCCEEDED


def test_a_deaf_job_does_not_keep_the_server(tmp_path: Path) -> None:
    application = app(tmp_path, drain_seconds=0.3)
    with TestClient(application):
        house = house_of(application)
        job = submit(house, "steps=1000 sleep=0.1 deaf=1", seed=1)
        until(lambda: (found := house.context.jobs.get(job.id)) and found.status is Status.RUNNING)
    house = house_of(app(tmp_path))
    found = house.context.jobs.get(job.id)
    assert found and found.status is Status.QUEUED
    house.close()


def test_another_form_of_a_finished_film_needs_no_sampling(tmp_path: Path) -> None:
    application = app(tmp_path)
    with TestClient(application):
        house = house_of(application)
        first = ended(house, submit(house, "save=1 steps=9", seed=3))
        for more in ({"fps": 24}, {"output_format": "gif"}, {"width": 960, "height": 640}):
            assert ended(house, submit(house, "save=1 steps=9", seed=3, **more)).status is Status.SUCCEEDED
        for more in ({"num_inference_steps": 9}, {"negative_prompt": "x"}, {"num_frames": 9}):
            assert ended(house, submit(house, "save=1 steps=9", seed=3, **more)).status is Status.SUCCEEDED
        ended(house, submit(house, "save=1 steps=9", seed=4))
    runs = [line for line in journal(tmp_path) if line.startswith("start")]
    assert runs == ["start 3", *["start 3 at 9"] * 3, *["start 3"] * 3, "start 4"]
    assert first.status is Status.SUCCEEDED


def test_a_job_deleted_while_it_runs_is_given_up_at_once(two_workers: Two) -> None:
    """The worker gives up a deleted job even in a stage that writes nothing to the table, such as decoding."""
    house, _ = two_workers
    job = submit(house, "steps=1 decode=3600")
    until(lambda: (found := house.context.jobs.get(job.id)) and found.stage == "decode")
    found = house.context.jobs.get(job.id)
    assert found is not None
    house.context.jobs.delete(found)
    until(lambda: all(w.state == "ready" for w in house.pool.workers()))
    assert house.context.jobs.get(job.id) is None
    assert (
        asyncio.run(house.context.jobs.wait(submit(house, "steps=1").id, pace.seconds(60))).status is Status.SUCCEEDED
    )


def test_who_waits_for_a_deleted_job_is_told(two_workers: Two) -> None:
    house, _ = two_workers
    job = submit(house, "steps=500 sleep=0.05")

    async def both() -> Job:
        following = house.context.jobs.follow(job.id)
        await anext(following)  # from now on, a single reader polls the table for all waiting calls
        waiting = asyncio.create_task(house.context.jobs.wait(job.id, pace.seconds(60)))
        await anext(following)
        await asyncio.to_thread(house.context.jobs.delete, job)
        await following.aclose()
        return await waiting

    assert asyncio.run(both()).status is Status.CANCELLED


def test_a_start_deadline_spares_what_has_begun(two_workers: Two) -> None:
    house, _ = two_workers
    job = submit(house, "steps=100 sleep=0.02")
    until(lambda: (found := house.context.jobs.get(job.id)) and found.status is Status.RUNNING)
    house.context.jobs.cancel(job.id, only_queued=True)
    assert ended(house, job).status is Status.SUCCEEDED
