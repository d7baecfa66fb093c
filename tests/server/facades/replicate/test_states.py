"""Tests how a prediction in every state appears in answers, lists, webhooks and streams, and on its web page."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
from dataclasses import replace
from typing import Any

import pytest
from replicate.prediction import Prediction

from pipelines.request import GenerationRequest
from server.facades.replicate import logs
from server.facades.replicate.answers import job_id, public_id
from server.jobs.job import Job, JobError, LogLine
from tests.rigs import golden
from tests.rigs.facade_rig import Build, Rig
from tests.rigs.facades.replicate import B5, T2V
from tests.rigs.job_table import fail, hold
from tests.rigs.stand_ins import PICTURE

A = {"input": {"prompt": "a", "steps": 8}}
SECONDS = ("predict_time", "total_time")


@pytest.fixture
def served(build: Build) -> Rig:
    rig = build()
    rig.hold()
    return rig


def check(name: str, answer: Any, job: Job) -> None:
    token = re.compile(r"[0-9a-f]{64}(?=\"|$)")
    body = answer if isinstance(answer, dict) else answer.json()
    text = re.sub(r"\[\d\d:\d\d<\S+,\s+\S+\]", "[<tqdm>]", json.dumps(body, ensure_ascii=False))
    for url in ("stream", "web"):
        text = re.sub(rf"/{url}/{token.pattern}", f"/{url}/<token>", text)
    found = json.loads(text)
    if not isinstance(answer, dict):
        found = {"http": answer.status_code, "body": found}
    golden.check(f"replicate/{name}", found, times=SECONDS, replace={public_id(job.id): "<id>"})


def test_ids_are_26_characters_of_base32() -> None:
    job = "6d9c5ba7-1f6f-4d52-a1f5-07a0b2a5a0f1"
    assert re.fullmatch("[a-z2-7]{26}", public_id(job)) and job_id(public_id(job)) == job
    for other in ("", "a", "a" * 25, public_id(job).upper(), public_id(job)[:-1] + "5", "é" * 26, "a" * 32):
        assert job_id(other) is None


def test_success(served: Rig) -> None:
    client, table = served.client, served.table
    created = client.post(B5, json=A)
    job = table.last
    check("created", created, job)
    url = created.json()["urls"]["get"]
    check("queued", client.get(url), job)
    table.start(job.id)
    table.progress(job.id, step=6, steps=50)
    check("running", client.get(url), job)
    table.progress(job.id, step=50, steps=50)
    table.finish(job.id)
    check("succeeded", client.get(url), job)
    assert client.post(created.json()["urls"]["cancel"]).json() == client.get(url).json(), "too late to cancel"


def test_failure(served: Rig) -> None:
    client, table = served.client, served.table
    url = client.post(B5, json=A).json()["urls"]["get"]
    table.start(table.last.id)
    table.fail(table.last.id, JobError("out_of_memory", "too little memory"))
    check("failed", client.get(url), table.last)
    for path, words in ((B5, "steps: no"), (T2V, "num_inference_steps: no")):
        url = client.post(path, json={"input": {"prompt": "a"}}).json()["urls"]["get"]
        table.start(table.last.id)
        table.fail(table.last.id, JobError("invalid_request", "no", "num_inference_steps"))
        assert client.get(url).json()["error"] == words


def test_cancelling(served: Rig) -> None:
    client, table = served.client, served.table
    urls = client.post(B5, json=A).json()["urls"]
    check("canceled_queued", client.post(urls["cancel"], headers={"content-type": "application/json"}), table.last)
    urls = client.post(B5, json=A).json()["urls"]
    job = table.last
    table.start(job.id)
    worker = threading.Timer(0.2, table.stop, [job.id])
    worker.start()
    answer = client.post(urls["cancel"])
    worker.join()
    check("canceled_running", answer, job)
    assert client.get(urls["get"]).json() == answer.json()
    check("unknown_id", client.get(f"/v1/predictions/{'a' * 26}"), job)


def test_cancelling_what_does_not_stop_soon(served: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client, table = served.client, served.table
    monkeypatch.setattr("server.facades.replicate.calls.CANCEL_WITHIN", 0.05)
    urls = client.post(B5, json=A).json()["urls"]
    table.start(table.last.id)
    assert client.post(urls["cancel"]).json()["status"] == "processing"
    assert table.last.cancel_requested


def test_lists(served: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client, table = served.client, served.table
    empty = {"previous": None, "next": None, "results": []}
    assert client.get("/v1/predictions").json() == empty
    made = [client.post(B5, json=A).json()["id"]]
    check("list", client.get("/v1/predictions"), table.last)
    made += [client.post(B5, json=A).json()["id"] for _ in range(6)]
    monkeypatch.setattr("server.facades.replicate.calls.PAGE", 3)
    pages, url = [], "/replicate/v1/predictions"
    while url:
        page = client.get(url).json()
        pages.append(page)
        url = page["next"]
        assert url is None or url.startswith("http://here:8000/replicate/v1/predictions?cursor=")
    seen = [[one["id"] for one in page["results"]] for page in pages]
    assert seen == [made[6:3:-1], made[3:0:-1], made[:1]]
    assert pages[0]["previous"] is None
    assert client.get(pages[2]["previous"]).json()["results"] == pages[1]["results"]
    back = client.get(pages[1]["previous"]).json()
    assert (back["results"], back["previous"], back["next"]) == (pages[0]["results"], None, pages[0]["next"])


def test_progress_is_read_by_the_client() -> None:
    for done, steps in ((0, 50), (1, 3), (6, 50), (49, 50), (50, 50)):
        line = logs.bar(done, steps, 5.0, None)
        found = Prediction.Progress.parse(f"Using seed: 1\nbegun\n{line}")
        assert found is not None
        assert (found.current, found.total) == (done, steps)
        assert found.percentage == int(100 * done / steps) / 100
    assert logs.bar(6, 50, 5.0, None) == " 12%|█▏        | 6/50 [00:05<00:36,  1.20it/s]"
    assert logs.bar(25, 50, 100.0, 3725.0) == " 50%|█████     | 25/50 [01:40<1:02:05,  4.00s/it]"
    assert logs.bar(0, 50, 0.0, None) == "  0%|          | 0/50 [00:00<?, ?it/s]"
    assert logs.bar(50, 50, 100.0, None) == "100%|██████████| 50/50 [01:40<00:00,  2.00s/it]"


def test_logs() -> None:
    job = Job("a", "replicate", "e", GenerationRequest("p", seed=5), {}, "m", 1.0)
    lines = [LogLine(1, 1.0, "INFO", "one"), LogLine(2, 1.0, "WARN", "two")]
    assert logs.text(job, lines, 2.0) == ""
    job = replace(job, started_at=1.0)
    assert logs.text(job, lines, 2.0) == "Using seed: 5\none\ntwo"
    job = replace(job, step=1, steps=2, eta=1.0)
    assert logs.text(job, lines, 2.0).splitlines()[-1] == " 50%|█████     | 1/2 [00:01<00:01,  1.00it/s]"
    assert "[00:05<" in logs.text(replace(job, finished_at=6.0), [], 99.0)


HOOK = "https://example.com/hook?a=1"


def test_webhooks_are_told_of_what_was_asked(served: Rig) -> None:
    client, table = served.client, served.table
    every = ("start", "output", "logs", "completed")
    for fields, events in (
        ({}, every),
        ({"webhook_events_filter": ["completed", "start", "start"]}, ("start", "completed")),
        ({"webhook_events_filter": None}, every),
    ):
        answer = client.post(B5, json={**A, "webhook": HOOK, **fields}).json()
        hook = table.last.webhook
        assert hook is not None and (hook.url, hook.base, hook.events) == (HOOK, "http://here:8000", events)
        assert (answer["webhook"], answer["webhook_events_filter"]) == (HOOK, list(events))
    client.post(B5, json={**A, "webhook_completed": HOOK})
    assert table.last.webhook is not None and table.last.webhook.events == ("completed",)
    client.post(B5, json=A)
    assert table.last.webhook is None


def test_what_webhooks_are_told(served: Rig) -> None:
    """The body for an event shows the prediction at the time of the event, even if the job has progressed since."""
    client, table = served.client, served.table
    client.post(B5, json={**A, "webhook": HOOK})
    job = table.last
    table.start(job.id)
    table.progress(job.id, step=6, steps=50)
    written = {}

    def write(event: str, number: int = 7) -> dict[str, Any]:
        letter = served.letter(table[job.id], event)
        assert letter is not None
        headers = letter.sign(letter.body, 1_700_000_000.5, number)
        assert headers["content-type"] == "application/json"
        assert headers["webhook-timestamp"] == "1700000000"
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + letter.body
        key = client.get("/v1/webhooks/default/secret").json()["key"]
        digest = hmac.new(base64.b64decode(key.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
        written[headers["webhook-id"]] = event
        body: dict[str, Any] = json.loads(letter.body)
        return body

    check("webhook_start", write("start"), job)
    check("webhook_logs", write("logs"), job)
    table.progress(job.id, step=7, steps=50)
    assert write("logs")["logs"] != ""
    table.finish(job.id)
    check("webhook_output", write("output"), job)
    check("webhook_completed", write("completed"), job)
    late = write("start")
    assert (late["status"], late["output"], late["completed_at"]) == ("processing", None, None)
    assert late["logs"] == "Using seed: 42"
    assert write("logs", 8)["status"] == "processing"
    assert len(written) == 2, "a repeated notice keeps its id; another notice has another id"


def test_webhooks_of_failed_and_cancelled_ones(served: Rig) -> None:
    client, table = served.client, served.table
    for end in ("failed", "canceled"):
        client.post(B5, json={**A, "webhook": HOOK})
        if end == "failed":
            table.start(table.last.id)
            table.fail(table.last.id, JobError("internal", "it broke"))
        else:
            table.cancel(table.last.id)
        letter = served.letter(table.last)
        assert letter is not None
        check(f"webhook_{end}", json.loads(letter.body), table.last)


def test_each_key_has_its_own_webhook_secret(build: Build) -> None:
    rig = build(keys="mine,yours")
    context = rig.context
    client = rig.client
    assert client.get("/v1/webhooks/default/secret").status_code == 401
    keys = {
        client.get("/v1/webhooks/default/secret", headers={"authorization": f"Bearer {key}"}).json()["key"]
        for key in ("mine", "yours")
    }
    assert len(keys) == 2
    for key in keys:
        assert key.count("_") == 1
        raw = base64.b64decode(key.removeprefix("whsec_"), validate=True)
        assert len(raw) == 32 and raw != context.signing.secret


def test_streams(build: Build) -> None:
    rig = build(keys="mine")
    table = rig.table
    client = rig.client
    key = {"authorization": "Bearer mine"}
    answer = client.post(B5, json=A, headers={**key, "prefer": "wait"}).json()
    told = client.get(answer["urls"]["stream"])
    assert told.headers["content-type"].startswith("text/event-stream")
    events = [dict(line.split(": ", 1) for line in block.splitlines()) for block in told.text.strip().split("\n\n")]
    assert [event["event"] for event in events] == ["logs", "output", "done"]
    assert events[0]["data"] == "begun" and events[1]["data"] == answer["output"]
    assert len({event["id"] for event in events}) == 3
    assert client.get(answer["urls"]["stream"][:-1] + "x").status_code == 404
    table.end = fail("internal")
    answer = client.post(B5, json=A, headers=key).json()
    assert "event: error\nid: 2\ndata: it broke\n" in client.get(answer["urls"]["stream"]).text


def test_pages_for_browsers(build: Build) -> None:
    rig = build(keys="mine")
    table = rig.table
    table.end = hold
    client = rig.client
    url = client.post(B5, json=A, headers={"authorization": "Bearer mine"}).json()["urls"]["web"]
    page = client.get(url, follow_redirects=False)
    assert (page.status_code, page.text, page.headers["refresh"]) == (200, "starting", "2")
    table.start(table.last.id)
    assert client.get(url).text.splitlines() == ["processing", "Using seed: 42", "begun"]
    table.finish(table.last.id)
    page = client.get(url, follow_redirects=False)
    assert (page.status_code, page.headers["location"][:23]) == (303, "http://here:8000/files/")
    assert client.get(url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 404


def test_an_image_prediction_is_echoed(served: Rig) -> None:
    client, table = served.client, served.table
    wanted = {"input": {"prompt": "a", "image": PICTURE}, "version": "thudm/cogvideox-i2v"}
    check("created_image", client.post("/v1/predictions", json=wanted), table.last)
