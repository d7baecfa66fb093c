"""Golden files hold Zhipu's answers in every state of a task: the status code and the body."""

from __future__ import annotations

import httpx
import pytest

from server.errors import QueueFull, QuotaExceeded
from server.facades.kit.samples import BLUE
from server.jobs.job import JobError
from tests.rigs import golden
from tests.rigs.facade_rig import Build, Rig
from tests.rigs.facades.zhipu import ASKED, BASE, CREATE, UNIFIED
from tests.rigs.job_table import hold

NAMED = {**ASKED, "request_id": "mine-1", "size": "1920x1080", "duration": 10, "with_audio": True}
STATES = ("queued", "running", "succeeded", "failed", "cancelled")


def check(name: str, answer: httpx.Response) -> None:
    golden.check(f"zhipu/{name}", answer, times=("execution_time",))


def bring(served: Rig, task: str, state: str) -> None:
    table = served.table
    if state == "cancelled":
        table.cancel(task)
    elif state != "queued":
        table.start(task)
        if state == "succeeded":
            table.finish(task)
        if state == "failed":
            table.fail(task, JobError("media_error", "the image is damaged", "image"))


@pytest.mark.parametrize("state", STATES)
def test_states(served: Rig, state: str) -> None:
    client, table = served.client, served.table
    table.end = hold
    created = client.post(CREATE, json=NAMED)
    check("created", created)
    task = created.json()["id"]
    bring(served, task, state)
    check(f"result_{state}", client.get(f"{BASE}/async-result/{task}"))
    several = client.post("/cogvideox/v4/async-results", json={"ids": [task, "nothing"]})
    if state == "succeeded":
        check("results", several)


@pytest.mark.parametrize("state", STATES)
def test_states_of_the_unified_form(served: Rig, state: str) -> None:
    client, table = served.client, served.table
    table.end = hold
    created = client.post(UNIFIED, json={"model": "cogvideox-3", "prompt": "p", "image": BLUE, "resolution": "720p"})
    check("unified_created", created)
    task = created.json()["task_id"]
    bring(served, task, state)
    check(f"unified_{state}", client.get(f"/302/v2/video/fetch/{task}"))


def test_errors(build: Build) -> None:
    rig = build(keys="id.secret")
    client, table = rig.client, rig.table
    for name, prefix in (("", ""), ("relayed_", "/zhipu")):
        check(f"{name}no_key", client.post(prefix + CREATE, json=ASKED))
        client.headers["authorization"] = "Bearer id.wrong"
        check(f"{name}wrong_key", client.post(prefix + CREATE, json=ASKED))
        client.headers["authorization"] = "Bearer id.secret"
        check(f"{name}bad_json", client.post(prefix + CREATE, content=b"{"))
        check(f"{name}missing", client.post(prefix + CREATE, json={"model": "cogvideox-2"}))
        check(f"{name}no_such_model", client.post(prefix + CREATE, json={**ASKED, "model": "sora"}))
        check(f"{name}invalid", client.post(prefix + CREATE, json={**ASKED, "size": "1x1", "fps": 5}))
        check(f"{name}long_prompt", client.post(prefix + CREATE, json={**ASKED, "prompt": "x" * 513}))
        check(f"{name}large_picture", client.post(prefix + CREATE, json={**ASKED, "image_url": "big"}))
        client.post(prefix + CREATE, json={**ASKED, "request_id": "twice"})
        check(f"{name}repeated", client.post(prefix + CREATE, json={**ASKED, "request_id": "twice"}))
        check(f"{name}unknown_task", client.get(f"{prefix}{BASE}/async-result/nothing"))
        check(f"{name}unknown_address", client.post(f"{prefix}{BASE}/chat/completions", json={}))
        check(f"{name}wrong_method", client.get(prefix + CREATE))
        table.raises = QueueFull(100)
        check(f"{name}queue_full", client.post(prefix + CREATE, json=ASKED))
        table.raises = QuotaExceeded(5, True, 60)
        check(f"{name}quota", client.post(prefix + CREATE, json=ASKED))
        table.raises = RuntimeError("secret")
        check(f"{name}broken", client.post(prefix + CREATE, json=ASKED))
        table.raises = None
        del client.headers["authorization"]
