"""Golden files of Segmind's answers."""

from __future__ import annotations

from typing import Any

import pytest

from server.errors import QueueFull
from server.jobs.job import JobError
from tests.rigs import golden
from tests.rigs.facade_rig import Build, Rig
from tests.rigs.facades.segmind import I2V, T2V
from tests.rigs.job_table import fail, hold, succeed
from tests.rigs.stand_ins import PICTURE

STATES = ("queued", "running", "succeeded", "failed", "cancelled")
TIMES = ("inference_time", "queue_time", "total_time")


def check(name: str, answer: Any) -> None:
    golden.check(f"segmind/{name}", answer, times=TIMES)


@pytest.mark.parametrize("state", STATES)
def test_states(build: Build, state: str) -> None:
    rig = build()
    client, table = rig.client, rig.table
    table.end = hold
    check("queued-at-submit", client.post("/v2/cog-video-5b-i2v", json={"prompt": "a", "image": PICTURE}))
    job_id = table.last.id
    if state == "cancelled":
        table.cancel(job_id)
    elif state != "queued":
        table.start(job_id)
    if state == "succeeded":
        table.finish(job_id)
    if state == "failed":
        table.fail(job_id, JobError("out_of_memory", "the model does not fit into memory"))
    check(f"{state}-status", client.get(f"/v2/requests/{job_id}/status"))
    check(f"{state}-result", client.get(f"/v2/requests/{job_id}"))
    assert client.get(f"/v1/requests/{job_id}").json() == client.get(f"/v2/requests/{job_id}").json()


@pytest.mark.parametrize(("name", "body"), [("blocking-json", {}), ("blocking-base64", {"base64": True, "seed": 7})])
def test_blocking(build: Build, name: str, body: dict[str, Any]) -> None:
    rig = build()
    client, table = rig.client, rig.table
    table.end = succeed
    check(name, client.post(f"{T2V}?response=json", json={"prompt": "a", **body}))


def test_blocking_failure(served: Rig) -> None:
    client, table = served.client, served.table
    table.end = fail("worker_lost", "its worker died three times")
    check("blocking-failure", client.post(T2V, json={"prompt": "a"}))


def test_errors(build: Build) -> None:
    rig = build(keys="mine")
    client, table = rig.client, rig.table
    check("401-no-key", client.get("/v1/get-user-credits"))
    check("401-bad-key", client.get("/v1/get-user-credits", headers={"x-api-key": "yours"}))
    client.headers["x-api-key"] = "mine"
    check("credits", client.get("/v1/get-user-credits"))
    check("400-range", client.post(T2V, json={"prompt": "a", "steps": 3}))
    check("400-image", client.post(I2V, json={"prompt": "a", "image": "https://x/y.png"}))
    check("400-not-json", client.post(T2V, content=b"{"))
    check("404-model", client.post("/v1/sdxl", json={"prompt": "a"}))
    check("404-request", client.get("/v2/requests/none/status"))
    check("404-page", client.get("/segmind/nowhere"))
    check("405", client.get(T2V))
    check("406", client.post(T2V, content=b"prompt=a", headers={"content-type": "text/plain"}))
    table.raises = QueueFull(3)
    check("429", client.post(T2V, json={"prompt": "a"}))
    table.raises = RuntimeError("secret")
    check("500", client.post(T2V, json={"prompt": "a"}))
