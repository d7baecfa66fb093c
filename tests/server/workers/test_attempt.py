"""Tests what each event of an attempt writes, and how attempts end, with a fake clock and without processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from pipelines.events import (
    Cancelled,
    Event,
    Failed,
    Log,
    Paused,
    Progress,
    Reworded,
    Snapshot,
    Stage,
    Started,
)
from pipelines.request import GenerationRequest
from server.errors import DiskFull
from server.jobs.job import Status
from server.workers.attempt import STRIKES, WRITE_EVERY, Attempt
from server.workers.patience import CANCEL_GRACE, STAGE_GRACE, STEP_SILENCE, Patience
from server.workers.protocol import Died, Run
from tests.rigs.desk import FILM, Desk

SAYS: list[tuple[Event | Died, Status]] = [
    (FILM, Status.SUCCEEDED),
    (Failed("bad_output", "black"), Status.FAILED),
    (Cancelled(), Status.CANCELLED),
    (Paused(), Status.QUEUED),
    (Died("id", 1, "it was ended"), Status.QUEUED),
]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def step(n: int, of: int = 9) -> Progress:
    return Progress("denoise", n, of, n / (of + 1), 1.0 * (of - n))


def unwritable(*_: Any, **__: Any) -> Any:
    raise OperationalError("UPDATE", {}, Exception("database is locked"))


# -- writes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("event", "status"), SAYS)
def test_how_it_ends(desk: Desk, event: Event | Died, status: Status) -> None:
    assert desk.attempt().heard(event)
    assert desk.job.status is status
    assert len(desk.files) == (3 if status is Status.SUCCEEDED else 0)


def test_what_is_said_on_the_way(desk: Desk) -> None:
    attempt = desk.attempt()
    request = GenerationRequest("better", seed=1, asked_prompt="a", prompt_note="reworded")
    said = [Reworded(request.to_dict()), Started({"width": 64}), Stage("denoise"), Log("in /srv/models/x", "WARN")]
    assert not any(attempt.heard(event) for event in said)
    assert (desk.job.request, desk.job.plan, desk.job.stage) == (request, {"width": 64}, "denoise")
    assert desk.lines == ["in x"]


def test_progress_is_written_now_and_then(desk: Desk) -> None:
    attempt = desk.attempt()
    attempt.heard(Stage("denoise"))
    attempt.heard(step(1))
    assert desk.job.step == 0
    desk.now += WRITE_EVERY
    attempt.heard(step(2))
    assert (desk.job.step, desk.job.steps, desk.job.share, desk.job.eta) == (2, 9, 0.2, 7.0)
    assert desk.lines == ["step 1 of 9, about 8 s left", "step 2 of 9, about 7 s left"]


def test_the_latest_snapshot_is_resumed(desk: Desk) -> None:
    attempt = desk.attempt()
    attempt.heard(Snapshot(b"1", 1))
    attempt.heard(Snapshot(b"2", 2))
    attempt.heard(Paused())
    desk.attempt()
    assert [run.resume for run in desk.pool.notes if isinstance(run, Run)] == [None, b"2"]
    assert desk.snapshots.job_ids() == ["id"]


def test_the_log_gets_every_tenth_of_the_steps(desk: Desk) -> None:
    attempt = desk.attempt()
    for n in range(1, 51):
        attempt.heard(step(n, 50))
    assert [line.split(",")[0] for line in desk.lines] == [f"step {n} of 50" for n in range(5, 51, 5)]


@pytest.mark.parametrize("event", [FILM, Failed("internal", "x"), Cancelled()])
def test_no_snapshot_outlives_its_job(desk: Desk, event: Event) -> None:
    attempt = desk.attempt()
    attempt.heard(Snapshot(b"1", 1))
    attempt.heard(event)
    assert desk.snapshots.job_ids() == []


def test_a_snapshot_that_cannot_be_kept_fails_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise DiskFull("full")

    attempt = desk.attempt()
    monkeypatch.setattr(desk.snapshots, "write", full)
    assert not attempt.heard(Snapshot(b"1", 1))
    assert attempt.heard(FILM) and desk.job.status is Status.SUCCEEDED


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("event", "status"), SAYS)
def test_a_table_that_is_away_loses_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, event: Event | Died, status: Status
) -> None:
    attempt = desk.attempt()
    for name in ("finish", "fail", "cancelled", "requeue", "get"):
        with monkeypatch.context() as patched:
            patched.setattr(desk.store, name, unwritable)
            try:
                assert attempt.heard(event)
            except OperationalError:
                continue
    assert attempt.heard(event)
    assert desk.job.status is status and len(desk.files) == (3 if status is Status.SUCCEEDED else 0)


def test_a_result_that_cannot_be_stored_fails_the_job(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise DiskFull("the server's disk is full")

    monkeypatch.setattr(desk.records.artifacts, "put", full)
    assert desk.attempt().heard(FILM)
    assert desk.job.error and desk.job.error.code == "internal" and "disk is full" in desk.job.error.message


def test_a_result_that_nobody_wants_any_more_is_dropped(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = desk.store.finish

    def too_late(job_id: str, attempt: int, **values: Any) -> None:
        desk.store.cancelled(job_id, attempt)
        finish(job_id, attempt, **values)

    monkeypatch.setattr(desk.store, "finish", too_late)
    assert desk.attempt().heard(FILM)
    assert desk.job.status is Status.CANCELLED and desk.files == []


def test_an_attempt_that_ends_twice_ends_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error comes after the job has ended, and must not end the job again."""

    def odd(*_: Any) -> None:
        raise KeyError("x")

    attempt = desk.attempt()
    desk.store.cancelled("id", 1)
    monkeypatch.setattr(desk.store, "log", odd)
    assert attempt.heard(Log("x")) and desk.job.status is Status.CANCELLED


def test_an_odd_event_fails_the_job_and_stops_the_worker(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*_: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(desk.store, "log", odd)
    assert desk.attempt().heard(Log("x"))
    assert desk.job.error and "KeyError" in desk.job.error.message and desk.pool.notes[-1] == ("cancel", "id", 1)


@pytest.mark.parametrize("event", [Stage("decode"), FILM, Failed("internal", "x"), Paused()])
def test_an_attempt_that_no_longer_counts_writes_nothing(desk: Desk, event: Event) -> None:
    old = desk.attempt()
    desk.store.requeue("id", 1)
    desk.attempt()
    assert old.heard(event)
    assert (desk.job.status, desk.job.attempt, desk.files) == (Status.RUNNING, 2, [])
    assert desk.pool.notes[-1] == ("cancel", "id", 1)


def test_a_job_that_cannot_be_handed_over_fails(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> None:
        raise BrokenPipeError

    job = desk.store.claim()
    assert job is not None
    monkeypatch.setattr(desk.pool, "run", gone)
    assert not Attempt(job, desk.pool, desk.records, Patience(), desk.clock).begin()
    assert desk.job.error and "BrokenPipeError" in desk.job.error.message


def test_a_job_that_ends_its_workers_fails(desk: Desk) -> None:
    for n in range(1, STRIKES + 1):
        assert desk.job.status is Status.QUEUED
        assert desk.attempt().heard(Died("id", n, "the worker was ended by SIGSEGV"))
    assert desk.job.error and desk.job.error.code == "worker_lost" and len(desk.job.deaths) == STRIKES
    assert desk.lines[0] == "attempt 1: the worker was ended by SIGSEGV"


# -- patience ---------------------------------------------------------------------------------------------------------


def kills(desk: Desk) -> int:
    return desk.pool.notes.count(("kill", "id", 1))


def test_a_worker_that_does_not_stop_is_killed(desk: Desk) -> None:
    attempt = desk.attempt()
    attempt.tick(unwanted=False)
    assert len(desk.pool.notes) == 1
    attempt.tick(unwanted=True)
    attempt.tick(unwanted=True)
    assert desk.pool.notes[1:] == [("cancel", "id", 1)]
    desk.now += STAGE_GRACE
    attempt.tick(unwanted=True)
    assert not kills(desk)
    desk.now += 1
    attempt.tick(unwanted=True)
    assert kills(desk) == 1
    desk.store.cancel("id")
    attempt.heard(Died("id", 1, "killed"))
    assert desk.job.status is Status.CANCELLED


def test_while_sampling_a_cancel_takes_three_steps_at_most(desk: Desk) -> None:
    attempt = desk.attempt()
    attempt.heard(Stage("denoise"))
    desk.now += 1
    attempt.heard(step(1))
    attempt.tick(unwanted=True)
    desk.now += CANCEL_GRACE + 1
    attempt.tick(unwanted=True)
    assert kills(desk) == 1


@pytest.mark.parametrize("stage", ["load", "denoise"])
def test_a_silent_worker_is_killed_once(desk: Desk, stage: Any) -> None:
    attempt = desk.attempt(silence=1000.0)
    attempt.heard(Stage(stage))
    desk.now += 1
    if stage == "denoise":
        attempt.heard(step(1))
    desk.now += STEP_SILENCE + 1 if stage == "denoise" else 1001.0
    for _ in range(2):
        attempt.tick(unwanted=False)
    assert kills(desk) == 1
    attempt.heard(Died("id", 1, "the worker was ended"))
    assert "it had said nothing for 1" in desk.job.deaths[0] and desk.job.status is Status.QUEUED


def test_no_worker_is_silent_while_nobody_listens(desk: Desk) -> None:
    attempt = desk.attempt(silence=10.0)
    desk.now += 11
    attempt.excuse_silence()
    attempt.tick(unwanted=False)
    assert not kills(desk)


def test_an_attempt_that_takes_too_long_fails_its_job(desk: Desk) -> None:
    attempt = desk.attempt(run=60.0)
    for _ in range(7):
        desk.now += 10
        attempt.heard(Log("still here"))
        attempt.tick(unwanted=False)
    assert kills(desk) == 1
    attempt.heard(Died("id", 1, "killed"))
    assert desk.job.error and desk.job.error.code == "timeout" and "60 seconds" in desk.job.error.message


def test_a_pause_reaches_the_worker(desk: Desk) -> None:
    desk.attempt().pause()
    assert desk.pool.notes[-1] == ("pause", "id", 1)
