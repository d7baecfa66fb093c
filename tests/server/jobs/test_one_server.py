"""Only one server uses a job table. After a restart of PostgreSQL, this server takes its lock in the database again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient

from server.errors import DataDirBusy
from server.jobs.database import SERVERS, open_database
from server.jobs.job import Status
from server.jobs.tables import SCHEMA, metadata
from tests.rigs import postgres
from tests.rigs.house import app, ended, house_of, journal, submit, until

HOLDERS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = %s"


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.running() as server:
        yield server


def holders(url: str) -> list[int]:
    """Returns the process ids of the database sessions that hold the server's lock."""
    with closing(psycopg.connect(url, autocommit=True)) as db:
        return [pid for (pid,) in db.execute(HOLDERS, (SERVERS,))]


@contextmanager
def next_in_line(url: str) -> Iterator[threading.Event]:
    """Stands in for another server: takes the lock as soon as the session of the lock's holder ends."""
    with closing(psycopg.connect(url, autocommit=True)) as db:
        has_it = threading.Event()

        def wait() -> None:
            db.execute(f"SELECT pg_advisory_lock({SERVERS})")
            has_it.set()

        thread = threading.Thread(target=wait)
        thread.start()
        yield has_it
        thread.join()


def end(url: str, pid: int) -> None:
    with closing(psycopg.connect(url, autocommit=True)) as db:
        db.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


@pytest.mark.parametrize("immediate", [True, False])
def test_a_restarted_database_is_held_again(immediate: bool, server: postgres.Server, tmp_path: Path) -> None:
    url = server.create(f"restarted_{immediate}".lower())
    application = app(tmp_path, database_url=url)
    with TestClient(application):
        house = house_of(application)
        running = submit(house, "steps=60 sleep=0.05")
        until(lambda: (found := house.context.jobs.get(running.id)) and found.step > 2)
        server.stop(immediate=immediate)
        server.start()
        until(lambda: holders(url))
        with pytest.raises(DataDirBusy):
            open_database(url, metadata, SCHEMA)
        found = ended(house, running, 30)
        assert (found.status, found.attempt) == (Status.SUCCEEDED, 1)
        assert house.dispatcher.alive
    until(lambda: holders(url) == [])  # PostgreSQL notices the closed session a little later


def test_a_lost_session_alone_is_noticed(server: postgres.Server, tmp_path: Path) -> None:
    """The server notices that it has lost its lock, although none of its queries fails."""
    url = server.create("session")
    application = app(tmp_path, database_url=url)
    with TestClient(application):
        (before,) = holders(url)
        end(url, before)
        until(lambda: holders(url) not in ([], [before]))
        assert house_of(application).dispatcher.alive


def test_a_session_of_our_own_that_lingers_is_ended(server: postgres.Server) -> None:
    url = server.create("lingers")
    database = open_database(url, metadata, SCHEMA)
    lingering, database._held = database._held, None
    (before,) = holders(url)
    database.hold()
    (after,) = holders(url)
    assert after != before and lingering is not None
    lingering.invalidate()
    database.close()


def test_who_comes_too_late_works_no_more(server: postgres.Server, tmp_path: Path) -> None:
    """A server that loses its lock to another server stops working. The other server owns all jobs and makes one video
    for each."""
    url = server.create("taken")
    application = app(tmp_path, database_url=url)
    with TestClient(application) as client:
        house = house_of(application)
        until(lambda: not house.health.obstacles())
        running, waiting = submit(house, "steps=40 sleep=0.1", seed=1), submit(house, "steps=1", seed=2)
        until(lambda: (found := house.context.jobs.get(running.id)) and found.step > 0)
        with next_in_line(url) as has_it:
            end(url, *holders(url))
            until(has_it.is_set)
            until(lambda: house.dispatcher.dead)
            until(lambda: house.courier._task is not None and house.courier._task.done())
            ready = client.get("/health/ready")
            assert ready.status_code == 503 and "another server is using the database" in ready.text
            assert client.post("/v1/videos", json={"prompt": "steps=1"}).status_code == 503
            found = [house.context.jobs.get(job.id) for job in (running, waiting)]
            assert [job and job.status for job in found] == [Status.RUNNING, Status.QUEUED], "now the other server's"
        other = app(tmp_path, database_url=url, data_dir=tmp_path / "other")
        with TestClient(other):
            done = [ended(house_of(other), job, 30) for job in (running, waiting)]
            assert [(job.status, job.attempt) for job in done] == [(Status.SUCCEEDED, 2), (Status.SUCCEEDED, 1)]
            house.dispatcher.stop()
            assert holders(url) != []
        assert list(house.data.artifacts.iterdir()) == []
    assert sorted(line for line in journal(tmp_path) if line.startswith("end")) == ["end 1", "end 2"]


def test_a_file_is_held_by_its_folder(tmp_path: Path) -> None:
    database = open_database(tmp_path / "jobs.db", metadata, SCHEMA)
    database.hold()
    database.close()
