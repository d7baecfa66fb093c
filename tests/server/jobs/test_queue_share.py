"""A single key may fill only a share of the queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from pipelines.request import GenerationRequest
from server.errors import QueueFull
from server.jobs.job import Job
from server.jobs.store import NO_QUOTA, JobStore
from server.jobs.turns import check_share
from tests.rigs.facade_rig import facade

KEYS = tuple("abcdefghij")
FULL = "for this key already"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs.db")
    yield store
    store.close()


def fill(owners: tuple[str, ...], limit: int, order: str) -> Counter[str]:
    """Lets each key, in this order, send as many jobs as it may; returns the number of waiting jobs per key."""
    waiting = Counter[str]()
    for owner in order:
        with suppress(QueueFull):
            while True:
                check_share(waiting, owner, limit, owners)
                waiting[owner] += 1
    return waiting


@pytest.mark.parametrize("owners", [(), ("a",)])
def test_without_others_the_whole_queue(owners: tuple[str, ...]) -> None:
    assert fill(owners, 100, "a") == {"a": 100}


def test_half_of_it_when_there_is_another() -> None:
    assert fill(("a", "b"), 100, "a") == {"a": 50}
    assert fill(("a", "b"), 100, "ab") == {"a": 50, "b": 25}


@pytest.mark.parametrize("limit", [10, 20, 100])
def test_however_greedy_nine_keys_are_the_tenth_gets_in(limit: int) -> None:
    waiting = fill(KEYS, limit, "".join(KEYS))
    assert min(waiting[key] for key in KEYS[: max(1, limit // 2)]) >= 1
    if limit > 10:
        assert waiting["j"] >= 1


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_first_job_takes_any_place(limit: int) -> None:
    waiting = fill(KEYS, limit, "".join(KEYS))
    assert sum(waiting.values()) == limit and max(waiting.values()) == 1


def test_the_table_counts_all_priorities_and_says_why(store: JobStore) -> None:
    def send(number: int, owner: str, priority: int = 0) -> None:
        request = GenerationRequest("p", seed=1)
        one = Job(f"{owner}{number}", "test", "e", request, {}, "m", 1.0, owner=owner, priority=priority)
        store.submit(one, 6, NO_QUOTA, ("a", "b"))

    for number in range(3):
        send(number, "a", priority=-number)
    with pytest.raises(QueueFull, match="3 jobs are waiting for this key already"):
        send(3, "a")
    send(0, "b")
    assert store.claim() is not None  # the store claims one of the jobs of the key a
    send(3, "a", priority=1)


def test_every_cloud_answers_in_its_own_shape() -> None:
    calls = {
        "fal": ("/queue/fal-ai/cogvideox-5b", {"prompt": "p"}, 429, "detail"),
        "openai": ("/v1/videos", {"prompt": "p"}, 429, "error"),
        "replicate": ("/v1/models/cuuupid/cogvideox-5b/predictions", {"input": {"prompt": "p"}}, 429, "detail"),
        "zhipu": ("/api/paas/v4/videos/generations", {"model": "cogvideox-3", "prompt": "p"}, 429, "error"),
        "modelslab": (
            "/api/v6/video/text2video",
            {"model_id": "cogvideox", "prompt": "p", "instant_response": True},
            200,
            "message",
        ),
        "segmind": ("/v2/cog-video-5b-t2v", {"prompt": "p"}, 429, "error"),
    }
    for name, (path, body, status, member) in calls.items():
        with facade(name, keys="a:1,b:2", max_queue=2) as rig:
            rig.hold()
            with TestClient(rig.app) as client:
                keys = [{"authorization": f"{'Key' if name == 'fal' else 'Bearer'} {key}"} for key in ("a:1", "b:2")]
                keys = [{**key, "x-api-key": key["authorization"].partition(" ")[2]} for key in keys]
                keys = [{**key, "key": key["x-api-key"]} for key in keys]
                answers = [client.post(path, json=body, headers=keys[which]) for which in (0, 0, 1)]
                assert [FULL in a.text for a in answers] == [False, True, False], (name, [a.text for a in answers])
                assert answers[1].status_code == status and member in answers[1].json(), (name, answers[1].text)
                assert answers[0].status_code < 300 and answers[2].status_code < 300, (name, answers[0].text)


def test_one_keys_many_jobs_are_not_read_for_another(store: JobStore) -> None:
    """The query plans show that lists, queue positions and the health page find their rows through an index."""
    asked: list[tuple[str, Any]] = []

    @event.listens_for(store._engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    store.page("openai", "a", 10)
    store.page("openai", "a", 10, after=5, newest_first=False)
    store.unfinished()
    store.positions([1, 2])
    store.notices_due([1])
    store.states(["x"])
    store.log_ends(["x"])
    queries = [one for one in asked if one[0].startswith(("SELECT", "WITH"))]
    assert len(queries) == 7
    with store._engine.connect() as db:
        for query, parameters in queries:
            steps = [row[3] for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", parameters)]
            scans = [step for step in steps if step in ("SCAN jobs", "SCAN webhooks", "SCAN job_events")]
            assert steps and not scans, (query, steps)
            if "jobs.facade =" in query:  # the database reads a page in index order, without sorting
                assert "USE TEMP B-TREE FOR ORDER BY" not in steps, (query, steps)
