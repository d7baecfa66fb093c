"""The courier delivers the outbox's letters in order and at least once; it retries after failures and then gives up."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from pipelines.request import GenerationRequest
from server.jobs.job import Job, JobError, Status, Webhook
from server.jobs.order import Order
from server.jobs.outbox import LANES
from server.jobs.store import JobStore
from server.media.outbound import Outbound
from server.webhooks import AT_ONCE, PER_KEY, PER_LANE, Courier
from tests.rigs import pace
from tests.rigs.ear import Ear
from tests.rigs.house import app, house_of, until
from tests.rigs.webhooks import deliver, job, letter


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
        for step in (1, 2, 3):  # several progress reports make one event
            store.progress(name, 1, step=step)
        store.fail(name, 1, JobError("internal", "broke"))
    deliver(store, lambda: not store.notices_due())
    assert [said["event"] for _, said in ear.heard] == ["start", "logs", "completed"]
    assert ear.heard[-1][1] == {"id": "a", "event": "completed", "status": "failed"}
    headers, _ = ear.heard[0]
    assert headers["content-type"] == "application/json" and headers["x-signed"] == headers["content-length"]


def test_tried_again_until_heard(store: JobStore, ear: Ear) -> None:
    ear.answers = [500, 429, 204]
    store.submit(job("a", ear.url))
    store.cancel("a")
    deliver(store, lambda: len(ear.heard) == 3 and not store.notices_due(), delays=(0.0, 0.0, 0.0))
    time.sleep(0.1)
    assert len(ear.heard) == 3
    assert [line.message for line in store.logs("a")] == [
        "webhook not called for 'completed' (try 1): it answered 500",
        "webhook not called for 'completed' (try 2): it answered 429",
    ]


def test_given_up_in_the_end(store: JobStore, ear: Ear) -> None:
    ear.answers = [500]
    store.submit(job("a", ear.url))
    store.cancel("a")
    deliver(store, lambda: len(store.logs("a")) == 3, delays=(0.0, 0.0))
    assert not store.notices_due() and len(ear.heard) == 3


def test_redirects_are_not_followed(store: JobStore, ear: Ear) -> None:
    ear.answers = [302]
    store.submit(job("a", ear.url))
    store.cancel("a")
    deliver(store, lambda: len(store.logs("a")) == 1)
    assert len(ear.heard) == 1 and not store.notices_due()


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
    assert store.notices_due() == [] and store.get("a") is None


def test_a_whole_server_tells(tmp_path: Path, ear: Ear) -> None:
    """Runs worker, dispatcher, outbox and courier together."""
    served = app(tmp_path, allow_private_urls=True)
    house = house_of(served)
    house.courier._writers = {"test": letter}
    with TestClient(served):
        hook = Webhook(ear.url, "http://here")
        request = GenerationRequest("steps=2")
        house.context.jobs.submit(request, Order("test", "e", "", webhook=hook))
        until(lambda: ear.heard)
    assert ear.heard[0][1]["status"] == "succeeded"


def test_each_key_and_host_has_its_turn(store: JobStore) -> None:
    """However many letters of one key are due, the first query also finds the letters of another key."""
    for n in range(600):
        store.submit(replace(job(f"dead{n}", f"http://h{n}.dead/"), status=Status.CANCELLED, owner="a"))
    store.submit(replace(job("one", "http://one/"), status=Status.CANCELLED, owner="b"))
    store.submit(replace(job("open", "http://one/"), status=Status.CANCELLED))
    due = store.notices_due()
    assert {"one", "open"} <= {notice.job_id for notice in due}
    assert len(due) <= LANES + 2 and sum(notice.owner == "a" for notice in due) > 1


def test_a_letter_waits_for_the_one_before_it(store: JobStore) -> None:
    store.submit(job("a", "http://x", "start", "completed"))
    store.submit(job("b", "http://x", "start"))
    store.claim()
    store.claim()
    store.cancelled("a", 1)
    (first,) = store.notices_due()
    assert (first.job_id, first.event) == ("a", "start")
    assert [notice.job_id for notice in store.notices_due([first.id])] == ["b"]  # a's second letter must wait
    store.notice_put_off(first, 60.0, "busy")
    assert [notice.job_id for notice in store.notices_due()] == ["b"]
    store.notice_done(store.notices_due()[0])
    assert store.notices_due() == []


class Deaf:
    """Stands in for `Outbound`: hosts in .dead keep their callers waiting, and all other hosts answer."""

    def __init__(self) -> None:
        self.calling = Counter[str]()
        self.most = Counter[str]()
        self.heard: list[str] = []

    async def post(self, url: str, body: bytes, headers: Any, seconds: float, owner: str = "") -> int:
        host = urlsplit(url).netloc
        if not host.endswith(".dead"):
            self.heard.append(url)
            return 200
        names = {f"owner {owner}", f"host {host}", "all"}
        self.calling.update(names)
        self.most |= self.calling
        try:
            await asyncio.sleep(3600)
        finally:
            self.calling.subtract(names)
        return 0


@pytest.mark.parametrize("hosts", [1, 700])
def test_dead_webhooks_of_many_keys_hold_up_no_other(store: JobStore, hosts: int) -> None:
    owners = [f"key{n}" for n in range(20)]
    for n in range(700):
        url = f"http://{n % hosts}.dead/"
        store.submit(replace(job(f"dead{n}", url), status=Status.CANCELLED, owner=owners[n % len(owners)]))
    store.submit(replace(job("one", "http://alive/"), status=Status.CANCELLED, owner="b"))
    deaf = Deaf()

    async def main() -> None:
        courier = Courier(store, cast(Outbound, deaf), {"test": letter})
        courier.start()
        async with asyncio.timeout(pace.seconds(20)):
            while not deaf.heard or deaf.calling["all"] < AT_ONCE:
                await asyncio.sleep(0.02)
        store.submit(replace(job("two", "http://alive/"), status=Status.CANCELLED, owner="b"))
        async with asyncio.timeout(pace.seconds(20)):
            while len(deaf.heard) < 2:
                await asyncio.sleep(0.02)
        await courier.stop()

    asyncio.run(main())
    assert max(deaf.most[f"owner {owner}"] for owner in owners) <= PER_KEY
    assert deaf.most["all"] <= AT_ONCE + len(owners)


def test_a_host_that_does_not_answer_is_not_called_for_every_letter(store: JobStore) -> None:
    for n in range(50):
        store.submit(replace(job(f"dead{n}", "http://127.0.0.1:9/"), status=Status.CANCELLED, owner="a"))
    dialled: list[str] = []

    def unreachable(address: str) -> bool:
        dialled.append(address)
        return True

    deliver(store, lambda: not store.notices_due(), delays=(60.0,), allowed=unreachable)
    assert len(dialled) <= PER_LANE
