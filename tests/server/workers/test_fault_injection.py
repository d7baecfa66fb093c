"""Faults outside the server: locked table, full disk, frozen worker, clock jump, stopped database, damaged file.

No job is lost or reported twice, and clients learn the reason of a failure. Workers are real processes over the fake
engine; `test_faults.py` kills processes of the complete server.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient
from httpx import Response
from sqlalchemy.exc import OperationalError

from server.app import create_app
from server.house import House
from server.jobs.job import Job, Status
from server.jobs.store import JobStore, Quota
from server.keys import KeyStore
from tests.rigs import checkpoints, pace, postgres
from tests.rigs.cloud_calls import CALLS, SAYS
from tests.rigs.ear import Ear
from tests.rigs.house import app, ended, house_of, journal, plain, submit, until
from tests.rigs.webhooks import deliver
from tests.rigs.webhooks import job as told_job
from tests.server import test_serve


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Path]]:
    tmp = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patched:  # the fake engine needs no real devices
        patched.setattr("server.devices.count_cuda_devices", lambda: 2)
        patched.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        application = app(tmp, device="cuda:0,cuda:1", silence_seconds=1800)
    with TestClient(application):
        house = house_of(application)
        until(lambda: all(w.state == "ready" for w in house.pool.workers()))
        yield house, tmp


Two = tuple[House, Path]


def films(house: House) -> list[Path]:
    return list(house.data.artifacts.glob("*/video.*"))


def frozen(house: House) -> psutil.Process:
    """Returns the worker process that has stopped itself."""
    pids = [slot.process.pid for slot in house.pool._slots if slot.process is not None]
    workers = [psutil.Process(pid) for pid in pids]
    found: psutil.Process = until(lambda: next((w for w in workers if w.status() == psutil.STATUS_STOPPED), None))
    return found


# -- a worker that freezes --------------------------------------------------------------------------------------------


def test_half_a_message_holds_up_nobody_else(two_workers: Two) -> None:
    house, tmp = two_workers
    half = submit(house, "freeze=1 bytes=4000000 steps=3")
    worker = frozen(house)
    others = [submit(house, "steps=2") for _ in range(3)]
    assert {ended(house, job).status for job in others} == {Status.SUCCEEDED}
    found = house.context.jobs.get(half.id)
    assert found is not None and found.status is Status.RUNNING
    worker.resume()
    found = ended(house, half)
    assert (found.status, found.attempt) == (Status.SUCCEEDED, 1)
    assert found.video is not None
    assert house.context.artifacts.read(found.video) == bytes(i % 251 for i in range(4_000_000))
    forget(tmp, "freezing")


def test_what_a_thawed_worker_says_of_a_job_that_is_gone_is_refused(two_workers: Two) -> None:
    house, tmp = two_workers
    before = len(films(house))
    gone = submit(house, "freeze=1 bytes=4000000 steps=3")
    worker = frozen(house)
    house.context.jobs.delete(gone)
    worker.resume()
    until(lambda: all(w.state == "ready" for w in house.pool.workers()))
    assert house.context.jobs.get(gone.id) is None and len(films(house)) == before
    assert [w.restarts for w in house.pool.workers()] == [0, 0]
    assert ended(house, submit(house, "steps=1")).status is Status.SUCCEEDED
    forget(tmp, "freezing")


def test_a_worker_that_stays_frozen_is_replaced(two_workers: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server drops the half result that the frozen worker has sent; the next attempt sends the whole result."""
    house, tmp = two_workers
    half = submit(house, "freeze=1 bytes=3000000 steps=3")
    worker = frozen(house)
    with monkeypatch.context() as patched:
        (attempt,) = house.dispatcher._attempts.values()
        patched.setattr(attempt, "_patience", replace(attempt._patience, silence=0.5))
        until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    found = ended(house, half)
    # on a slow machine, the next worker may also exceed the short patience, before the usual patience is restored
    assert found.status is Status.SUCCEEDED and found.attempt == len(found.deaths) + 1 >= 2
    assert "said nothing" in found.deaths[0] and found.video is not None and found.video.size == 3_000_000
    forget(tmp, "freezing")


def test_a_frozen_worker_need_not_listen(two_workers: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does not have to wait when it sends a snapshot of several megabytes to a worker that reads nothing."""
    house, _ = two_workers
    until(lambda: all(w.state == "ready" for w in house.pool.workers()))
    slot = house.pool._slots[0]
    assert slot.process is not None and slot.process.pid is not None
    worker = psutil.Process(slot.process.pid)
    worker.suspend()
    checkpoint = b" " * 3_000_000 + b"2"
    monkeypatch.setattr(house.dispatcher._records.snapshots, "read", lambda *_: checkpoint)
    unheard = submit(house, "steps=5 sleep=0")
    until(lambda: slot.run is not None)
    monkeypatch.undo()
    assert ended(house, submit(house, "steps=1")).status is Status.SUCCEEDED
    worker.resume()
    found = ended(house, unheard)
    assert (found.status, found.attempt) == (Status.SUCCEEDED, 1)


def forget(tmp: Path, line: str) -> None:
    """Removes the line from the journal, so that the next job repeats the action."""
    path = tmp / "tiny" / "journal"
    path.write_text("".join(f"{one}\n" for one in journal(tmp) if one != line))


# -- an unusable table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", CALLS)
@pytest.mark.parametrize("trouble", ["database is locked", "database or disk is full"])
def test_callers_are_told_what_is_the_matter(
    vendor: str, trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unusable(*_: Any, **__: Any) -> None:
        raise OperationalError("INSERT", {}, Exception(trouble))

    application = app(tmp_path)
    house, client = house_of(application), TestClient(application)
    for name in ("submit", "get", "get_number"):
        monkeypatch.setattr(house.store, name, unusable)
    path, body, asked = CALLS[vendor]
    answers = [client.post(path, json=body), *([client.get(asked)] if asked else [])]
    if vendor == "modelslab":
        answers[1] = client.post(asked, json={})
    for answer in answers:
        check_outage(vendor, answer, "disk is full" if "full" in trouble else "at the moment")
    assert client.get("/health/live").status_code == 200
    house.close()


def check_outage(vendor: str, answer: Response, said: str) -> None:
    assert answer.status_code in (503, 507), answer.text
    assert said in str(answer.json()[SAYS[vendor]]), answer.text
    assert "sqlite" not in answer.text.lower() and "INSERT" not in answer.text


@pytest.mark.slow
def test_seven_seconds_of_a_locked_file(tmp_path: Path) -> None:
    """The server answers calls while the table is locked, and the answers are still true afterwards."""
    application = app(tmp_path, max_queue=1000)
    with TestClient(application) as client, ThreadPoolExecutor(16) as callers:
        house = house_of(application)
        running = submit(house, "steps=100 sleep=0.02")
        until(lambda: (found := house.context.jobs.get(running.id)) and found.step > 0)
        with closing(sqlite3.connect(house.data.root / "jobs.db", isolation_level=None)) as other:
            until(lambda: locked(other))
            calls = {v: callers.submit(client.post, path, json=body) for v, (path, body, _) in CALLS.items()}
            asked = callers.submit(client.get, CALLS["fal"][2].replace("/x/", f"/{running.id}/"))
            assert client.get("/health/live").status_code == 200
            time.sleep(7)
            other.execute("COMMIT")
        answers = {vendor: call.result(pace.seconds(60)) for vendor, call in calls.items()}
        assert asked.result(pace.seconds(60)).status_code in (404, 503)
        accepted = [vendor for vendor, answer in answers.items() if answer.status_code < 300]
        for vendor in answers.keys() - accepted:
            check_outage(vendor, answers[vendor], "at the moment")
        assert len(accepted) < len(answers), "some calls had to be refused"
        assert ended(house, running).attempt == 1
        assert client.post(*CALLS["openai"][:1], json=CALLS["openai"][1]).status_code == 200
        until(lambda: house.store.counts()[Status.SUCCEEDED] == 1 + len(accepted) + 1)
        counts = house.store.counts()
        assert sum(counts.values()) == counts[Status.SUCCEEDED] == len(films(house))


def test_a_table_that_does_not_answer_keeps_no_key_from_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server looks up keys in the event loop, so a look-up must not wait for a lock of the table."""
    monkeypatch.setattr("server.keys.FRESH", -1.0)
    store, answers = JobStore(tmp_path / "jobs.db"), threading.Event()
    keys = KeyStore(store.database)
    key, _ = keys.create("mine", Quota())
    assert set(keys.known()) == {key.partition(".")[0]}
    read = keys.all

    def locked_for_long() -> Any:
        answers.wait(pace.seconds(30))
        return read()

    monkeypatch.setattr(keys, "all", locked_for_long)
    before = threading.active_count()
    for _ in range(3):
        assert set(keys.known()) == {key.partition(".")[0]}, "unchanged"
    assert threading.active_count() <= before + 1 and not answers.is_set()
    answers.set()
    store.close()


def test_keys_are_looked_up_by_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.keys.FRESH", -1.0)
    store, usual = JobStore(tmp_path / "jobs.db"), sys.getswitchinterval()
    keys = KeyStore(store.database)
    key, _ = keys.create("mine", Quota())
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(16) as callers:
            found = list(callers.map(lambda _: set(keys.known()), range(1000)))
    finally:
        sys.setswitchinterval(usual)
    assert found == [{key.partition(".")[0]}] * 1000
    store.close()


def locked(other: sqlite3.Connection) -> bool:
    try:
        other.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        return False
    return True


@pytest.mark.slow
def test_postgresql_stops_in_the_middle_of_a_job(tmp_path: Path) -> None:
    with postgres.running() as server:
        silence = pace.seconds(3)
        application = app(tmp_path, database_url=server.create("jobs"), silence_seconds=silence)
        with TestClient(application) as client:
            house = house_of(application)
            running = submit(house, "steps=20 sleep=0.05 save=1", seed=1)
            waiting = [submit(house, "steps=1", seed=2 + n) for n in range(3)]
            until(lambda: (found := house.context.jobs.get(running.id)) and found.step > 2)
            server.stop(immediate=True)
            for vendor, (path, body, _) in CALLS.items():
                check_outage(vendor, client.post(path, json=body), "at the moment")
            until(lambda: "end 1" in journal(tmp_path))
            time.sleep(1.3 * silence)  # only the table is down; the worker still reports
            server.start()
            done = [ended(house, job) for job in (running, *waiting)]
            assert [(job.status, job.attempt) for job in done] == [(Status.SUCCEEDED, 1)] * 4
            assert sum(house.store.counts().values()) == len(films(house)) == 4
            assert sorted(line for line in journal(tmp_path) if line.startswith("end")) == [
                f"end {n}" for n in range(1, 5)
            ]
            assert client.post(*CALLS["openai"][:1], json=CALLS["openai"][1]).status_code == 200


# -- a full disk ------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk; test_dispatcher.py fakes one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
        while True:
            if file.write(bytes(4096)) < 4096:
                raise OSError("No space left")
    if leave:
        os.truncate(filler, max(0, filler.stat().st_size - leave))
    return filler


def test_a_full_disk(tmp_path: Path) -> None:
    path, body, _ = CALLS["openai"]
    with small_disk(tmp_path / "disk", 8) as disk:
        application = app(tmp_path, data_dir=disk / "data")
        with TestClient(application) as client:
            house = house_of(application)
            first = client.post(path, json=body).json()["id"]
            until(lambda: client.get(f"{path}/{first}").json()["status"] == "completed")

            filler = fill(disk)
            refused = client.post(path, json=body)
            check_outage("openai", refused, "disk is full")
            assert client.get(f"{path}/{first}").json()["status"] == "completed"
            assert client.get(f"{path}/{first}/content").content
            filler.unlink()

            saving = submit(house, "save=1 steps=150 sleep=0.02")
            until(lambda: (found := house.context.jobs.get(saving.id)) and found.step > 3)
            filler = fill(disk)
            time.sleep(0.3)
            filler.unlink()
            found = ended(house, saving)
            assert (found.status, found.attempt) == (Status.SUCCEEDED, 1)

            fill(disk, leave=2_000_000)
            large = ended(house, submit(house, "steps=1 bytes=3000000"))
            assert large.status is Status.FAILED and large.error is not None and "disk is full" in large.error.message
            assert ended(house, submit(house, "steps=1 bytes=1000")).status is Status.SUCCEEDED
            (disk / "filler").unlink()
            assert ended(house, submit(house, "steps=1 bytes=3000000")).status is Status.SUCCEEDED
            counts = house.store.counts()
            assert (counts[Status.FAILED], counts[Status.SUCCEEDED]) == (1, 4) and len(films(house)) == 4
        with closing(sqlite3.connect(disk / "data" / "jobs.db")) as table:
            assert table.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# -- stopping at any moment -------------------------------------------------------------------------------------------


STAGES = (
    ("stay=load for=0.5", "20", Status.QUEUED),
    ("stay=encode for=0.5", "20", Status.QUEUED),
    ("steps=300 sleep=0.02", "20", Status.QUEUED),
    ("stay=decode for=0.5", "20", Status.SUCCEEDED),
    ("stay=decode for=60", "0.3", Status.QUEUED),
)


@pytest.mark.slow
def test_told_to_stop_in_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the server stops, the running job ends in time or is saved and resumed at the next start. Each job makes one
    video."""
    lines, ids = tmp_path / "tiny" / "journal", list[str]()
    for prompt, drain, after in STAGES:
        monkeypatch.setenv("COGVIDEOX_DRAIN_SECONDS", str(pace.seconds(float(drain))))
        with test_serve.server(tmp_path) as (process, url):
            until(lambda: all_done(tmp_path, ids))
            before = lines.read_text() if lines.exists() else ""
            ids.extend([test_serve.run(url, prompt), test_serve.run(url, "steps=1")])
            word = "staying" if "stay" in prompt else "start"
            until(lambda before=before, word=word: lines.exists() and word in lines.read_text()[len(before) :])
            process.send_signal(signal.SIGTERM)
            assert process.wait(pace.seconds(40)) == 0
        running, waiting = stored(tmp_path, ids[-2:])
        assert (running.status, running.deaths) == (after, ()), prompt
        assert waiting.status is Status.QUEUED
    with test_serve.server(tmp_path):
        until(lambda: all_done(tmp_path, ids))
    assert len(list((tmp_path / "data" / "artifacts").glob("*/video.*"))) == len(ids) == 2 * len(STAGES)
    assert "Traceback" not in (tmp_path / "log").read_text()


def stored(tmp: Path, ids: list[str]) -> list[Job]:
    with closing(JobStore(tmp / "data" / "jobs.db")) as store:
        return [job for job in map(store.get, ids) if job is not None]


def all_done(tmp: Path, ids: list[str]) -> bool:
    time.sleep(0.1)  # each check opens the table again
    return all(job.status is Status.SUCCEEDED for job in stored(tmp, ids))


# -- clocks -----------------------------------------------------------------------------------------------------------


class Wall:
    """A wall clock that the test shifts forward and back while real time continues."""

    def __init__(self) -> None:
        self._real = time.time
        self.shift = 0.0

    def __call__(self) -> float:
        return self._real() + self.shift


def test_the_clock_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall()
    monkeypatch.setattr(time, "time", wall)
    application = app(tmp_path, max_run_seconds=600, silence_seconds=600)
    with TestClient(application):
        house = house_of(application)
        house.store._clock = wall
        for shift in (86400.0, -86400.0, 0.0):
            running, waiting = submit(house, "steps=20 sleep=0.02"), submit(house, "steps=1")
            until(lambda job=running: (found := house.context.jobs.get(job.id)) and found.step > 2)
            wall.shift = shift
            done = [ended(house, job) for job in (running, waiting)]
            assert [(job.status, job.attempt, job.deaths) for job in done] == [(Status.SUCCEEDED, 1, ())] * 2
        assert len(films(house)) == 6


def test_a_clock_put_back_holds_up_no_webhook(tmp_path: Path) -> None:
    now = [2e9]
    store = JobStore(tmp_path / "jobs.db", clock=lambda: now[0])
    store.submit(told_job("a", "http://x"))
    store.cancel("a")
    (notice,) = store.notices_due()
    store.notice_put_off(notice, 10.0, "busy")
    assert store.notices_due() == []
    now[0] += 11
    assert store.notices_due() != []
    now[0] -= 86400
    assert store.notices_due() != []
    store.close()


# -- webhooks ---------------------------------------------------------------------------------------------------------


def test_a_webhook_that_is_down_and_one_that_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither webhook delays the letters of other jobs, and the webhook that was down gets its letter in the end."""
    monkeypatch.setattr("server.webhooks.TIMEOUTS", (pace.seconds(0.5),) * 2)
    with socket.socket() as silent, Ear() as ear:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        down = free_port()
        store = JobStore(tmp_path / "jobs.db")
        for name, port in (("slow", silent.getsockname()[1]), ("down", down), ("well", ear.server_port)):
            store.submit(told_job(name, f"http://127.0.0.1:{port}/hook"))
            store.cancel(name)

        def complained(*names: str) -> Callable[[], bool]:
            return lambda: all(store.logs(name) for name in names) and bool(ear.heard)

        deliver(store, complained("slow", "down"), delays=(0.05,) * 400)
        assert ear.heard[0][1]["id"] == "well"
        assert "longer than" in store.logs("slow")[0].message and "reached" in store.logs("down")[0].message
        ear.shutdown()
        with Late(down) as late:
            deliver(store, lambda: any(said["id"] == "down" for _, said in late.heard), delays=(0.05,) * 400)
            late.shutdown()
        store.close()


class Late(Ear):
    """A webhook receiver that listens at a given port."""

    def __init__(self, port: int) -> None:
        self._port = port
        super().__init__()

    def server_bind(self) -> None:
        self.server_address = ("127.0.0.1", self._port)
        super().server_bind()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- a torn checkpoint ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_broken_checkpoint_costs_its_sampling_and_nothing_else(tmp_path: Path) -> None:
    """Uses the real engine with a tiny model."""
    model = checkpoints.cached("5b")

    def server() -> Any:
        given = plain(data_dir=tmp_path / "data", model=str(model), device="cpu", min_free_mb=0, keep_latents_mb=0)
        return create_app(given)

    request = {"seed": 5, "num_frames": 9, "num_inference_steps": 3}
    application = server()  # not started, so jobs stay queued
    house = house_of(application)
    torn, plain_one = (submit(house, "a red circle", **request) for _ in range(2))
    house.data.checkpoints.joinpath(torn.id).write_bytes(os.urandom(50_000))
    house.close()
    with TestClient(application := server()):
        house = house_of(application)
        done = [ended(house, job, 120) for job in (torn, plain_one)]
        assert [(job.status, job.attempt) for job in done] == [(Status.SUCCEEDED, 1)] * 2
        first, second = (house.context.artifacts.read(job.video) for job in done if job.video is not None)
        assert first == second
        assert any("torn" in line.message for line in house.context.jobs.logs(torn.id))
