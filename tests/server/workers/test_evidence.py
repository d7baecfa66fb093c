"""When a worker dies, the log shows what the worker was really doing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from pipelines.events import Log, Progress, Stage
from server.house import House
from server.workers.local_pool import doing, how_it_ended
from tests.rigs.house import app, ended, house_of, submit, until


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    application = app(tmp_path_factory.mktemp("server"))
    with TestClient(application):
        yield house_of(application)


def pid_of(house: House) -> int:
    """Returns the process id of the worker, or of the worker that replaced it."""
    slot = house.pool._slots[0]
    process = until(lambda: slot.process)
    assert process.pid is not None
    return int(process.pid)


def killed(house: House) -> str:
    """Kills the worker, waits until the next worker has started, and returns the evidence in the log."""
    before = house.pool.workers()[0].restarts
    with capture_logs() as lines:
        os.kill(pid_of(house), signal.SIGKILL)
        until(lambda: house.pool.workers()[0].restarts > before)
        until(lambda: any(line["event"] == "worker died" for line in lines))
    (evidence,) = [line["evidence"] for line in lines if line["event"] == "worker died"]
    return str(evidence)


def ready(house: House) -> None:
    until(lambda: house.pool.workers()[0].state == "ready")


def test_starting_and_idle(house: House) -> None:
    ready(house)
    assert killed(house).endswith("while idle")
    assert killed(house).endswith("while starting"), "nothing about the previous worker"
    ready(house)
    assert ended(house, submit(house, "steps=2")).error is None
    assert killed(house).endswith("while idle"), "nothing about the previous job"
    ready(house)


@pytest.mark.parametrize(
    ("prompt", "reached", "says"),
    [
        ("stay=load for=30", "load", "during load"),
        ("stay=encode for=30", "encode", "during encode"),
        ("steps=1000 sleep=0.05", "denoise", "during denoise, after step"),
        ("steps=1 decode=30", "decode", "during decode, after"),
    ],
)
def test_at_work(house: House, prompt: str, reached: str, says: str) -> None:
    ready(house)
    job = submit(house, prompt)
    until(lambda: (found := house.context.jobs.get(job.id)) and found.stage == reached)
    until(lambda: says.split(",")[0] in house.pool._slots[0].doing)
    if "after" in says:
        until(lambda: "after" in house.pool._slots[0].doing)
    assert says in killed(house)
    until(lambda: (found := house.context.jobs.get(job.id)) and found.deaths)
    house.context.jobs.cancel(job.id)
    found = ended(house, job)
    assert len(found.deaths) == 1 and says in found.deaths[0]


def test_a_worker_that_this_server_killed(house: House) -> None:
    ready(house)
    job = submit(house, "steps=1000 sleep=0.05")
    until(lambda: (found := house.context.jobs.get(job.id)) and found.step > 0)
    house.pool.kill(job.id, 1)
    until(lambda: (found := house.context.jobs.get(job.id)) and found.deaths)
    house.context.jobs.cancel(job.id)
    assert "SIGKILL (from this server) during denoise" in ended(house, job).deaths[0]


def test_words() -> None:
    assert doing(Stage("load")) == "during load"
    assert doing(Progress("denoise", 3, 50, 0.1, 1.0)) == "during denoise, after step 3 of 50"
    assert doing(Progress("write", 3, 50, 0.1, 1.0)) == "during write, after 3 of 50"
    assert doing(Log("x")) is None
    assert how_it_ended(7) == "ended with status 7" and how_it_ended(-11) == "was ended by SIGSEGV"
    assert "out of memory" in how_it_ended(-9)
