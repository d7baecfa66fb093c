"""The courier and its outbox: told at least once, in order, again after failures, and given up at last."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.request import GenerationRequest
from server.jobs.job import Job, JobError, Webhook
from server.jobs.store import JobStore
from server.jobs.webhooks import Courier, Letter
from server.media.door import Door
from tests import pace
from tests.server.house import app, house_of, until


class Ear(http.server.ThreadingHTTPServer):
    """Hears what webhooks are told; `answers` are the codes it gives, the last one for ever."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], Any]] = []
        self.answers = [200]
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?a=1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Ear

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.heard.append(({k.lower(): v for k, v in self.headers.items()}, json.loads(body)))
        code = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.send_response(code)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def ear() -> Iterator[Ear]:
    with Ear() as ear:
        yield ear
        ear.shutdown()


def letter(job: Job, event: str) -> Letter | None:
    if event == "output":
        return None
    body = json.dumps({"id": job.id, "event": event, "status": job.status}).encode()
    return Letter(body, lambda body, now, number: {"content-type": "application/json", "x-signed": f"{len(body)}"})


def job(name: str, url: str, *events: str) -> Job:
    hook = Webhook(url, "http://here", events or ("completed",))
    return Job(name, "test", "e", GenerationRequest("p", seed=1), {}, "m", 1.0, webhook=hook)


def deliver(
    store: JobStore,
    until_true: Callable[[], bool],
    delays: tuple[float, ...] = (0.05, 0.05),
    allowed: Callable[[str], bool] = lambda _: True,
) -> None:
    async def main() -> None:
        door = Door(allowed)
        courier = Courier(store, door, {"test": letter}, delays)
        courier.start()
        end = time.monotonic() + pace.seconds(30)
        while not until_true():
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        await courier.stop()
        await door.close()

    asyncio.run(main())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs.db")
    yield store
    store.close()


def test_every_event_in_order(store: JobStore, ear: Ear) -> None:
    store.submit(job("a", ear.url, "start", "output", "logs", "completed"))
    store.submit(job("quiet", ear.url, "output"))
    store.submit(Job("none", "test", "e", GenerationRequest("p", seed=1), {}, "m", 1.0))
    for name in ("a", "quiet", "none"):
        claimed = store.claim()
        assert claimed is not None and claimed.id == name
        for step in (1, 2, 3):  # told once, however often it moves meanwhile
            store.progress(name, 1, step=step)
        store.fail(name, 1, JobError("internal", "broke"))
    deliver(store, lambda: not store.notices_due(10))
    assert [said["event"] for _, said in ear.heard] == ["start", "logs", "completed"]
    assert ear.heard[-1][1] == {"id": "a", "event": "completed", "status": "failed"}
    headers, _ = ear.heard[0]
    assert headers["content-type"] == "application/json" and headers["x-signed"] == headers["content-length"]


def test_tried_again_until_heard(store: JobStore, ear: Ear) -> None:
    ear.answers = [500, 429, 204]
    store.submit(job("a", ear.url))
    store.cancel("a")
    deliver(store, lambda: len(ear.heard) == 3 and not store.notices_due(1), delays=(0.0, 0.0, 0.0))
    time.sleep(0.1)
    assert len(ear.heard) == 3
    assert [line.message for line in store.logs("a")] == [
        "webhook not told of 'completed' (try 1): it answered 500",
        "webhook not told of 'completed' (try 2): it answered 429",
    ]


def test_given_up_in_the_end(store: JobStore, ear: Ear) -> None:
    ear.answers = [500]
    store.submit(job("a", ear.url))
    store.cancel("a")
    deliver(store, lambda: len(store.logs("a")) == 3, delays=(0.0, 0.0))
    assert not store.notices_due(1) and len(ear.heard) == 3


def test_redirects_are_not_followed(store: JobStore, ear: Ear) -> None:
    ear.answers = [302]
    store.submit(job("a", ear.url))
    store.cancel("a")
    deliver(store, lambda: len(store.logs("a")) == 1)
    assert len(ear.heard) == 1 and not store.notices_due(1)


def test_private_addresses_are_not_called(store: JobStore, ear: Ear) -> None:
    store.submit(job("a", ear.url))
    store.cancel("a")
    deliver(store, lambda: len(store.logs("a")) == 1, delays=(), allowed=lambda _: False)
    assert not ear.heard and "not public" in store.logs("a")[0].message


def test_untold_ones_outlive_the_server(tmp_path: Path, ear: Ear) -> None:
    store = JobStore(tmp_path / "jobs.db")
    store.submit(job("a", ear.url))
    store.cancel("a")
    store.close()
    store = JobStore(tmp_path / "jobs.db")
    deliver(store, lambda: len(ear.heard) == 1)
    store.close()


def test_deleted_jobs_are_not_spoken_of(store: JobStore, ear: Ear) -> None:
    store.submit(job("a", ear.url))
    store.cancel("a")
    store.delete("a")
    assert store.notices_due(10) == [] and store.get("a") is None


def test_a_whole_server_tells(tmp_path: Path, ear: Ear) -> None:
    """Worker, dispatcher, outbox and courier together."""
    served = app(tmp_path, allow_private_urls=True)
    house = house_of(served)
    house.courier._writers = {"test": letter}
    with TestClient(served):
        hook = Webhook(ear.url, "http://here")
        request = GenerationRequest("steps=2")
        house.context.jobs.submit(request, facade="test", endpoint="e", payload={}, owner="", webhook=hook)
        until(lambda: ear.heard)
    assert ear.heard[0][1]["status"] == "succeeded"
