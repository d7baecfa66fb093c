from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.request import GenerationRequest, Lora, Media
from server.errors import DataDirUnwritable, QueueFull, StaleWrite
from server.jobs.job import FOLLOWS, Artifact, Job, JobError, Status, Webhook
from server.jobs.store import MAX_LOG_LINES, JobStore
from server.jobs.tables import open_sqlite

VIDEO = Artifact("k", "video/mp4", "video.mp4", 3)
DONE: dict[str, Any] = {
    "video": VIDEO,
    "poster": VIDEO,
    "manifest": VIDEO,
    "timings": {"denoise": 1.5},
    "memory": "none",
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs.db", clock=lambda: 99.0)
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
    assert store.cancel_requested(["a", "b", "c"]) == {"a"}
    assert store.ended(["a", "b", "c"]) == {"b", "c"}
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
    """Whatever is called in whatever order, a job only ever moves as FOLLOWS allows, and attempts only grow."""
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
        engine, _ = open_sqlite(tmp_path / f"{mode}.db")
        with engine.connect() as db:
            assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == mode
            assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        engine.dispose()


def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    engine, _ = open_sqlite(tmp_path / "jobs.db")
    with engine.connect() as db:
        db.exec_driver_sql("PRAGMA user_version=99")
        db.commit()
    engine.dispose()
    with pytest.raises(DataDirUnwritable, match="newer"):
        JobStore(tmp_path / "jobs.db")


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


def test_a_table_of_the_first_schema_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    store = JobStore(path)
    store.submit(job("old"))
    store.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE webhooks")
        for column in ("owner", "priority", "keep_seconds", "webhook"):
            db.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        db.execute("PRAGMA user_version=1")
        db.commit()
    store = JobStore(path)
    old = store.get("old")
    assert old and (old.owner, old.priority, old.keep_seconds, old.webhook) == ("", 0, None, None)
    store.submit(job("new", owner="o"))
    assert [found.id for found in iter(store.claim, None) if found] == ["old", "new"]
    store.close()
