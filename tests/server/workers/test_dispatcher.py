"""What the dispatcher does when the table, the disk or one of two workers lets it down."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from pipelines.request import Media
from pipelines.resolve import resolve
from server.errors import DiskFull, StaleWrite
from server.house import House
from server.jobs.job import Job, JobError, Status
from server.workers.snapshots import Snapshots, sampling_of
from tests.rigs import pace
from tests.rigs.house import app, ended, house_of, journal, submit, until
from tests.rigs.plans import ask, model


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Path]]:
    tmp = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patched:  # the fake engine does not mind that there are none
        patched.setattr("server.served.count_cuda_devices", lambda: 2)
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


def test_a_table_that_cannot_be_written_loses_nothing(two_workers: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    house, _ = two_workers
    store, failures = house.store, [1, 2]
    finish = store.finish

    def unwilling(*args: Any, **kwargs: Any) -> None:
        if failures:
            failures.pop()
            raise OperationalError("UPDATE", {}, Exception("database or disk is full"))
        finish(*args, **kwargs)

    monkeypatch.setattr("server.workers.dispatcher.RETRY", 0.05)
    monkeypatch.setattr(store, "finish", unwilling)
    before = len(list(house.data.artifacts.iterdir()))
    job = ended(house, submit(house, "steps=1"))
    assert (job.status, job.attempt, failures) == (Status.SUCCEEDED, 1, [])
    assert len(list(house.data.artifacts.iterdir())) == before + 3


def test_a_result_nobody_wants_any_more_is_dropped(two_workers: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    house, _ = two_workers
    store = house.store
    before = len(list(house.data.artifacts.iterdir()))
    finish = store.finish

    def too_late(job_id: str, attempt: int, **values: Any) -> None:
        store.cancelled(job_id, attempt)
        finish(job_id, attempt, **values)

    monkeypatch.setattr(store, "finish", too_late)
    job = ended(house, submit(house, "steps=1"))
    assert job.status is Status.CANCELLED and job.video is None
    until(lambda: len(list(house.data.artifacts.iterdir())) == before)


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


def test_an_odd_turn_ends_neither_the_loop_nor_other_jobs(two_workers: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    house, _ = two_workers
    store, errors = house.store, [ValueError("odd row"), BrokenPipeError()]
    claim, fail = store.claim, store.fail

    def odd() -> Job | None:
        if errors:
            raise errors.pop()
        return claim()

    def too_late(job_id: str, attempt: int, error: JobError, deaths: Any = None) -> None:
        fail(job_id, attempt, error, deaths)
        raise StaleWrite(job_id, attempt, "it has ended")

    def put(*_: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr("server.workers.dispatcher.RETRY", 0.05)
    monkeypatch.setattr(store, "claim", odd)
    assert ended(house, submit(house, "steps=1")).status is Status.SUCCEEDED and not errors
    with monkeypatch.context() as patched:
        patched.setattr(house.context.artifacts, "put", put)
        patched.setattr(store, "fail", too_late)
        assert ended(house, submit(house, "steps=1")).status is Status.FAILED
    assert ended(house, submit(house, "steps=1")).status is Status.SUCCEEDED
    assert house.dispatcher.alive


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
    """`times` counts deaths in the journal, and one test before had one."""
    house, tmp = two_workers
    job = ended(house, submit(house, "save=1 steps=9 at=5 die=SIGKILL times=2", seed=77))
    assert (job.status, job.attempt) == (Status.SUCCEEDED, 2)
    runs = [line for line in journal(tmp) if line.startswith("start 77")]
    assert runs == ["start 77", "start 77 at 4"], "the fifth step was not over when its worker died"
    until(lambda: not house.data.checkpoints.joinpath(job.id).exists())


def test_a_checkpoint_that_cannot_be_kept_fails_nothing(two_workers: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    house, _ = two_workers

    def full(*_: Any) -> None:
        raise DiskFull("full")

    monkeypatch.setattr(house.dispatcher._records.snapshots, "write", full)
    assert ended(house, submit(house, "save=1 steps=3")).status is Status.SUCCEEDED


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


def test_an_attempt_that_lasts_too_long_is_ended(tmp_path: Path) -> None:
    application = app(tmp_path, max_run_seconds=pace.seconds(1))
    with TestClient(application):
        house = house_of(application)
        job = ended(house, submit(house, "steps=100000 sleep=0.05 deaf=1"))
        assert job.status is Status.FAILED and job.error and job.error.code == "timeout" and job.attempt == 1
        assert ended(house, submit(house, "steps=1")).status is Status.SUCCEEDED


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


def test_kept_latents_have_their_room(tmp_path: Path) -> None:
    kept = Snapshots(tmp_path, keep_bytes=25)
    for n, name in enumerate("abcd"):
        kept.write(name, bytes(10))
        kept.keep(name, f"sampling {name}")
        os.utime(tmp_path / "finished" / f"sampling {name}", (n, n))
        if name == "b":
            kept.read("nobody", "sampling a")  # used: b is the oldest now
            os.utime(tmp_path / "finished" / "sampling a", (9, 9))
    assert [kept.read("nobody", f"sampling {name}") is not None for name in "abcd"] == [True, False, False, True]
    assert kept.job_ids() == []


def test_pictures_decide_by_what_is_in_them() -> None:
    def key(**more: Any) -> str:
        request = ask(**more)
        plan = resolve(request, model("cogvideox-5b-i2v" if request.image else "cogvideox-5b"))
        return sampling_of(Job("id", "f", "e", request, {}, plan.sampling.model, 0.0, plan=plan.to_dict()))

    picture, same, other = Media("/a", "1"), Media("/b", "1"), Media("/a", "2")
    assert key(image=picture) == key(image=same) != key(image=other)
    assert key(image=picture, width=720, height=480) != key(image=picture, width=800, height=480)
    assert key(width=720) == key(width=740) != key(image=picture)


def test_a_job_without_a_plan_shares_no_latents() -> None:
    """Also one whose plan an older version of this server made."""
    for plan in (None, {"seed": 1, "model_frames": 49}):
        assert sampling_of(Job("id", "f", "e", ask(), {}, "m", 0.0, plan=plan)) == "id"


def test_a_job_deleted_while_it_runs_is_given_up_at_once(two_workers: Two) -> None:
    """Also in a stage that writes nothing to the table: decoding, say."""
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
        waiting = asyncio.create_task(house.context.jobs.wait(job.id, pace.seconds(60)))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(house.context.jobs.delete, job)
        return await waiting

    assert asyncio.run(both()).status is Status.CANCELLED


def test_the_log_tells_how_far_it_is(two_workers: Two) -> None:
    house, _ = two_workers
    job = ended(house, submit(house, "steps=50 sleep=0.001"))
    told = [line.message for line in house.context.jobs.logs(job.id) if line.message.startswith("step ")]
    assert [line.split(",")[0] for line in told] == [f"step {n} of 50" for n in range(5, 51, 5)]


def test_a_start_deadline_spares_what_has_begun(two_workers: Two) -> None:
    house, _ = two_workers
    job = submit(house, "steps=100 sleep=0.02")
    until(lambda: (found := house.context.jobs.get(job.id)) and found.status is Status.RUNNING)
    house.context.jobs.cancel(job.id, only_queued=True)
    assert ended(house, job).status is Status.SUCCEEDED
