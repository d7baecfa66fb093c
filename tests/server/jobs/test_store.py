"""The job store on SQLite and PostgreSQL: states, claims, order, deadlines, quotas, logs."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, update

from pipelines.request import GenerationRequest, Lora, Media
from server.errors import (
    BadSetting,
    DataDirBusy,
    DataDirUnwritable,
    IdempotencyConflict,
    QueueFull,
    QuotaExceeded,
    StaleWrite,
)
from server.jobs.database import open_database
from server.jobs.job import FOLLOWS, Job, JobError, Status, Webhook
from server.jobs.store import MAX_LOG_LINES, REFUSED, JobStore, Quota
from server.jobs.tables import SCHEMA, jobs, metadata
from server.media.artifact import Artifact
from tests.rigs import postgres

VIDEO = Artifact("k", "video/mp4", "video.mp4", 3)
DONE: dict[str, Any] = {
    "video": VIDEO,
    "poster": VIDEO,
    "manifest": VIDEO,
    "timings": {"denoise": 1.5},
    "memory": "none",
}


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Returns the location of a new database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return tmp_path / "jobs.db"
    server: postgres.Server = request.getfixturevalue("server")
    return server.create(f"t{uuid.uuid4().hex}")


@pytest.fixture
def store(where: Path | str) -> Iterator[JobStore]:
    store = JobStore(where, clock=lambda: 99.0)
    yield store
    store.close()


def job(name: str, **more: Any) -> Job:
    request = GenerationRequest(prompt="a\0b\ud800 ☃", seed=2**63 - 1)
    return Job(name, "fal", "x/y", request, {"prompt": "☃"}, "tiny", 1.0, **more)


def test_what_goes_in_comes_out(store: JobStore) -> None:
    given = job("a", plan={"notes": [1]}, error=JobError("c", "m", "f", {"d": 1}), video=VIDEO, deaths=("x", "y"))
    full = replace(given.request, image=Media("/p", "s"), loras=(Lora("/l", 0.5),), strength=0.25)
    given = replace(given, request=full)
    hook = Webhook("http://w", "http://here", ("start", "completed"))
    given = replace(given, owner="o", priority=-1, keep_seconds=60.0, webhook=hook)
    assert store.submit(given) == replace(given, number=1)
    assert store.get("a") == store.get_number(1) == replace(given, number=1)
    assert store.get("b") is None


def test_oldest_first_and_one_each(store: JobStore) -> None:
    for name in "abc":
        store.submit(job(name))
    assert [store.position(n) for n in "abc"] == [0, 1, 2]
    first = store.claim()
    assert first and (first.id, first.status, first.attempt, first.started_at) == ("a", Status.RUNNING, 1, 99.0)
    assert [store.position(n) for n in "abc"] == [0, 0, 1]
    store.requeue("a", 1)
    assert store.position("a") == 0
    again = store.claim()
    assert again and (again.id, again.attempt) == ("a", 2)
    claimed = [store.claim(), store.claim(), store.claim()]
    assert [c.id if c else None for c in claimed] == ["b", "c", None]
    assert store.counts()[Status.RUNNING] == 3


def test_competing_claims_take_each_job_once(store: JobStore) -> None:
    for n in range(60):
        store.submit(job(str(n)))
    taken: list[str] = []

    def claim() -> None:
        while (found := store.claim()) is not None:
            taken.append(found.id)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(taken, key=int) == [str(n) for n in range(60)]


def test_limit(store: JobStore) -> None:
    store.submit(job("a"), limit=1)
    with pytest.raises(QueueFull, match="1 jobs"):
        store.submit(job("b"), limit=1)
    assert store.get("b") is None
    store.submit(job("c", status=Status.FAILED), limit=1)
    store.claim()
    store.submit(job("d"), limit=1)


def test_a_zombie_is_refused(store: JobStore) -> None:
    store.submit(job("a"))
    store.claim()
    store.requeue("a", 1)
    zombie: list[Any] = [
        lambda: store.progress("a", 1, step=5),
        lambda: store.finish("a", 1, **DONE),
        lambda: store.fail("a", 1, JobError("c", "m")),
        lambda: store.cancelled("a", 1),
        lambda: store.requeue("a", 1),
    ]
    for write in zombie:
        with pytest.raises(StaleWrite, match="is queued in attempt 1"):
            write()
    store.claim()
    for write in zombie:
        with pytest.raises(StaleWrite, match="is running in attempt 2"):
            write()
    store.progress("a", 2, step=3)
    store.finish("a", 2, **DONE)
    for write in zombie:
        with pytest.raises(StaleWrite, match="is succeeded"):
            write()
    with pytest.raises(StaleWrite, match="is gone"):
        store.progress("b", 1, step=1)
    found = store.get("a")
    assert found and (found.status, found.step, found.video, found.finished_at) == (Status.SUCCEEDED, 3, VIDEO, 99.0)


def test_cancel(store: JobStore) -> None:
    for name in "ab":
        store.submit(job(name))
    store.claim()
    running, queued = store.cancel("a"), store.cancel("b")
    assert running and running.status is Status.RUNNING and running.cancel_requested
    assert queued and queued.status is Status.CANCELLED and queued.finished_at == 99.0
    assert store.unwanted(["a", "b", "c", "deleted"]) == {"a", "b", "c", "deleted"}
    states = store.states(["a", "b", "c"])
    assert {name: state["status"] for name, state in states.items()} == {"a": Status.RUNNING, "b": Status.CANCELLED}
    assert store.requeue("a", 1, ["it died"]) is Status.CANCELLED
    assert store.cancel("a") == store.get("a") and store.cancel("x") is None


def test_after_a_restart(store: JobStore) -> None:
    for name in "abc":
        store.submit(job(name))
    for _ in range(2):
        store.claim()
    store.cancel("b")
    assert [j.id for j in store.requeue_running()] == ["a"]
    states = [found.status if (found := store.get(n)) else None for n in "abc"]
    assert states == [Status.QUEUED, Status.CANCELLED, Status.QUEUED]
    again = store.claim()
    assert again and (again.id, again.attempt) == ("a", 2)


def test_logs(store: JobStore) -> None:
    store.submit(job("a"))
    for n in range(3):
        store.log("a", f"line {n} \ud800\0", "WARN")
    lines = store.logs("a", after=1)
    assert [(one.seq, one.level, one.message) for one in lines] == [(2, "WARN", "line 1 ?"), (3, "WARN", "line 2 ?")]
    assert store.logs("b") == []
    assert MAX_LOG_LINES >= 100


def test_random_walks_keep_to_the_table(store: JobStore) -> None:
    """Whatever the order of calls, a job's status changes only as FOLLOWS allows, and its attempt number only grows."""
    rng = random.Random(7)
    store.submit(job("a"))
    before = store.get("a")
    assert before
    for n in range(400):
        if before.status.is_terminal:
            store.submit(job(f"a{n}"))
            before = store.get(f"a{n}")
            assert before
        name, attempt = before.id, before.attempt + rng.choice([0, 0, 0, -1, 1])
        act = rng.choice(["claim", "requeue", "finish", "fail", "cancelled", "cancel", "progress", "restart"])
        try:
            match act:
                case "claim":
                    store.claim()
                case "requeue":
                    store.requeue(name, attempt)
                case "finish":
                    store.finish(name, attempt, **DONE)
                case "fail":
                    store.fail(name, attempt, JobError("c", "m"))
                case "cancelled":
                    store.cancelled(name, attempt)
                case "cancel":
                    store.cancel(name)
                case "progress":
                    store.progress(name, attempt, step=n)
                case "restart":
                    store.requeue_running()
            was_refused = False
        except StaleWrite:
            was_refused = True
        after = store.get(name)
        assert after
        assert after.status is before.status or after.status in FOLLOWS[before.status]
        assert after.attempt == before.attempt + (before.status is Status.QUEUED and after.status is Status.RUNNING)
        assert not was_refused or after == before
        before = after


def test_journal_mode_follows_the_sqlite_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, mode in (((3, 51, 2), "truncate"), ((3, 51, 3), "wal")):
        monkeypatch.setattr("sqlite3.sqlite_version_info", version)
        engine = open_database(tmp_path / f"{mode}.db", metadata, SCHEMA).engine
        with engine.connect() as db:
            assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == mode
            assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        engine.dispose()


@pytest.mark.parametrize(("version", "reason"), [(99, "newer"), (SCHEMA - 1, "older")])
def test_another_schema_is_left_alone(where: Path | str, version: int, reason: str) -> None:
    JobStore(where).close()
    is_file = isinstance(where, Path)
    engine = create_engine(f"sqlite:///{where}" if is_file else str(where).replace(":", "+psycopg:", 1))
    to = f"PRAGMA user_version={version}" if is_file else f"UPDATE schema_version SET version = {version}"
    with engine.begin() as db:
        db.exec_driver_sql(to)
    engine.dispose()
    with pytest.raises(DataDirUnwritable, match=reason):
        JobStore(where)


def test_deadlines(store: JobStore) -> None:
    """The store's clock shows 99 s, so every deadline up to 99 s has passed."""
    hook = Webhook("http://w", "http://here")
    given: dict[str, dict[str, Any]] = {
        "begun": {"start_by": 98.0, "end_by": 100.0},
        "ends": {"end_by": 99.0},
        "unbegun": {"start_by": 99.0, "webhook": hook},
        "unended": {"end_by": 99.0, "webhook": hook},
        "in time": {"start_by": 99.5, "end_by": 99.5},
        "any time": {},
    }
    for name, more in given.items():
        store.submit(job(name, **more))
    assert [found.id for found in (store.claim(), store.claim()) if found] == ["begun", "ends"]
    store.requeue("begun", 1)
    for _ in range(2):
        store.expire()
    found = {name: store.get(name) for name in given}
    assert [name for name, one in found.items() if one and one.status is Status.CANCELLED] == ["unbegun", "unended"]
    assert [name for name, one in found.items() if one and one.cancel_requested] == ["ends", "unbegun", "unended"]
    assert [store.notices_due()[0].job_id, store.notices_due({1})[0].job_id] == ["unbegun", "unended"]


def test_the_urgent_go_first(store: JobStore) -> None:
    for name, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 1)):
        store.submit(job(name, priority=priority))
    order = ["high", "first", "second", "low"]
    assert [store.position(name) for name in order] == [0, 1, 2, 3]
    assert [found.id for found in iter(store.claim, None) if found] == order


def test_pages_hold_what_is_ones_own(store: JobStore) -> None:
    for n in range(5):
        store.submit(job(f"a{n}", owner="a"))
    store.submit(job("b", owner="b"))
    facade = store.get("b").facade  # type: ignore[union-attr]

    def ids(*rest: Any) -> list[str]:
        return [found.id for found in store.page(facade, "a", *rest)]

    assert ids(2) == ["a4", "a3"] and ids(2, 4) == ["a2", "a1"] and ids(9, 1) == []
    assert ids(2, None, False) == ["a0", "a1"] and ids(9, 3, False) == ["a3", "a4"]
    assert store.page("other", "a", 9) == []


def refused(id_: str, owner: str = "a", **more: Any) -> Job:
    error = JobError("invalid_request", "no")
    made = replace(job(id_, owner=owner), **more)
    return replace(made, model=REFUSED, status=Status.FAILED, error=error, finished_at=1.0)


def test_a_key_keeps_no_more_than_some_of_its_failures(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.jobs.store.MOST_REFUSED", 3)
    monkeypatch.setattr("server.jobs.store.MOST_ENDED", 5)
    store.submit(refused("theirs", owner="b"))
    store.submit(job("waits", owner="a"))
    for number in range(9):
        store.submit(refused(f"r{number}"))
        assert len(store.page("fal", "a", 99)) <= 1 + 4
    for number in range(9):
        store.submit(job(f"c{number}", owner="a"))
        store.cancel(f"c{number}")
    left = [one.id for one in store.page("fal", "a", 99)]
    assert left == ["c8", "c7", "c6", "c5", "c4", "c3", "waits"]
    assert store.get("theirs") is not None


def test_refused_jobs_count_for_the_day(store: JobStore) -> None:
    now = time.time()
    quota = Quota(at_once=1, daily=2)
    store.submit(replace(job("one", owner="a"), created_at=now), 9, quota)
    store.submit(refused("two", created_at=now), quota=quota)
    with pytest.raises(QuotaExceeded, match="a day"):
        store.submit(refused("three", created_at=now), quota=quota)
    assert store.get("three") is None


def test_jobs_are_forgotten_when_their_time_is_over_and_their_video_is_gone(store: JobStore) -> None:
    video = asdict(Artifact("k" * 32, "video/mp4", "v.mp4", 1))
    rows = {
        "waits": {"status": "queued"},
        "failed": {"status": "failed", "finished_at": 100.0},
        "refused": {"status": "failed", "finished_at": 180.0, "model": REFUSED},
        "fresh": {"status": "failed", "finished_at": 180.0},
        "film": {"status": "succeeded", "finished_at": 100.0, "video": video},
        "gone": {"status": "succeeded", "finished_at": 100.0, "video": {**video, "key": "g" * 32}},
        "deleted": {"status": "cancelled", "finished_at": 100.0},
    }
    for name, values in rows.items():
        store.submit(job(name))
        with store.database.engine.begin() as db:
            db.execute(update(jobs).where(jobs.c.id == name).values(values))
    assert store.forget(150.0, 190.0, lambda: {"k" * 32}) == 4
    assert [name for name in rows if store.get(name)] == ["waits", "fresh", "film"]
    assert store.forget(150.0, 190.0, lambda: {"k" * 32}) == 0


def test_keys_take_turns(store: JobStore) -> None:
    """A key with many jobs does not delay a key with few jobs, and jobs run in the order of their predicted
    positions."""
    for owner, count in (("many", 6), ("few", 2), ("one", 1)):
        for n in range(count):
            store.submit(job(f"{owner}{n}", owner=owner))
    names = [*(f"many{n}" for n in range(6)), "few0", "few1", "one0"]
    told = {name: store.position(name) for name in names}
    order = []
    while found := store.claim():
        order.append(found.id)
        store.fail(found.id, 1, JobError("internal", "m"))
    assert order == ["many0", "few0", "one0", "many1", "few1", "many2", "many3", "many4", "many5"]
    assert told == {name: order.index(name) for name in names}


def test_a_key_at_work_lets_others_go_first(store: JobStore) -> None:
    for name, owner in (("a0", "a"), ("a1", "a"), ("a2", "a"), ("b0", "b"), ("b1", "b")):
        store.submit(job(name, owner=owner))
    claimed = [store.claim() for _ in range(3)]
    assert [found.id for found in claimed if found] == ["a0", "b0", "a1"]
    store.fail("b0", 1, JobError("internal", "m"))
    found = store.claim()
    assert found and found.id == "b1", "b has no running job, a has two"


def test_quotas(store: JobStore) -> None:
    def send(name: str, owner: str = "a", **limits: int) -> Job:
        return store.submit(replace(job(name, owner=owner), created_at=99.0), None, Quota(**limits))

    send("a0", at_once=1)
    with pytest.raises(QuotaExceeded) as caught:
        send("a1", at_once=1)
    assert (caught.value.limit, caught.value.daily) == (1, False)
    send("b0", "b", at_once=1)
    store.cancel("a0")
    send("a1", at_once=1)
    with pytest.raises(QuotaExceeded) as caught:
        send("a2", daily=2)
    assert caught.value.daily and caught.value.retry_after == 86400 - 99
    send("a2", daily=3)
    store.submit(job("refused", owner="a", status=Status.FAILED), None, Quota(1, 1))  # a refused job does not count


def test_the_same_call_makes_one_job(store: JobStore) -> None:
    def send(name: str, **more: Any) -> Job:
        return store.submit(job(name, idempotency="once", **more))

    assert send("a").id == send("b").id == "a"
    assert send("c", owner="another").id == "c"
    with pytest.raises(IdempotencyConflict):
        store.submit(replace(job("d", idempotency="once"), memo={"prompt": "another"}))
    threads = [threading.Thread(target=send, args=(f"t{n}",), kwargs={"owner": "many"}) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.page("fal", "many", 99)) == 1


def test_one_server_to_a_database(where: Path | str) -> None:
    """SQLite needs no lock of its own, because its file is in the data folder, which has a lock."""
    first = JobStore(where)
    if isinstance(where, str):
        with pytest.raises(DataDirBusy):
            JobStore(where)
    first.close()
    JobStore(where).close()


def test_a_database_that_is_not_there() -> None:
    with pytest.raises(DataDirUnwritable, match="nowhere/x cannot be used"):
        JobStore("postgresql://u:secret@/x?host=/nowhere")
    for url in ("mysql://u:secret@h/x", "postgresql:/secret", "secret"):
        with pytest.raises(BadSetting) as caught:
            JobStore(url)
        assert "secret" not in caught.value.message


def test_what_the_latest_videos_took(store: JobStore) -> None:
    assert store.took("tiny") == []
    for number in range(7):
        store.submit(job(str(number)))
        claimed = store.claim()
        assert claimed is not None
        store.progress(claimed.id, claimed.attempt, steps=number)
        if number == 6:
            store.fail(claimed.id, claimed.attempt, JobError("internal", "no video"))
        else:
            store.finish(claimed.id, claimed.attempt, **DONE)
    assert store.took("tiny") == [(0.0, 1.5, steps) for steps in (5, 4, 3, 2, 1)]
    assert store.took("tiny", 1) == [(0.0, 1.5, 5)]
    assert store.took("another") == []
