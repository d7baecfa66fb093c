"""Replicate's predictions over jobs that end on command: who waits how long, who may see what, what the output is."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator

import pytest

from server.facades.replicate.watch import _event
from tests.server import golden
from tests.server.clients.fake import VIDEO, FakeJobs, fail, hold
from tests.server.test_replicate import B5, WAIT, A, Served, build


@pytest.fixture
def served() -> Iterator[Served]:
    client, jobs, intake = build()
    with client:
        yield client, jobs, intake


def test_the_film_itself_for_replicates_clients_over_http() -> None:
    data = "data:video/mp4;base64,"
    for setting, base, agent, is_data in (
        ("auto", "http://here", "replicate-python/1.0.7", True),
        ("auto", "http://here", "replicate-javascript/1.4.0", True),
        ("auto", "https://here", "replicate-python/1.0.7", False),
        ("auto", "http://here", "python-requests/2", False),
        ("auto", "http://here", "unknown/None; hf_hub/2.4.0", False),
        ("url", "http://here", "replicate-python/1.0.7", False),
        ("data", "https://here", "anything", True),
    ):
        client, _, _ = build(base, replicate_output=setting)
        answer = client.post(B5, json=A, headers={**WAIT, "user-agent": agent}).json()
        assert answer["output"].startswith(data if is_data else f"{base}/files/key-")
        assert client.get(answer["urls"]["get"], headers={"user-agent": agent}).json()["output"] == answer["output"]
        listed = client.get("/v1/predictions", headers={"user-agent": agent}).json()["results"]
        assert listed[0]["output"].startswith(f"{base}/files/"), "a list holds no films"
        if is_data:
            assert b64decode(answer["output"].removeprefix(data)) == VIDEO


def test_blocking(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client, jobs, _ = served
    assert client.post(B5, json=A).json()["status"] == "starting", "without Prefer nobody waits"
    assert client.post(B5, json=A, headers=WAIT).json()["status"] == "succeeded"
    assert client.post(B5, json=A, headers={"prefer": "respond-async, wait=5"}).json()["status"] == "succeeded"
    jobs.end = FakeJobs.start
    monkeypatch.setattr("server.facades.replicate.calls.LONGEST_WAIT", 0.05)
    for prefer in ("wait", "wait=1", "wait=900"):
        answer = client.post(B5, json=A, headers={"prefer": prefer}).json()
        assert (answer["status"], answer["started_at"], answer["output"]) == ("starting", None, None)
        assert client.get(answer["urls"]["get"]).json()["status"] == "processing"
    jobs.end = fail("internal")
    assert client.post(B5, json=A, headers=WAIT).json()["status"] == "failed"
    jobs.end = lambda jobs, job: (jobs.jobs.pop(job), None)[1]
    assert client.post(B5, json=A, headers=WAIT).json()["status"] == "starting", "removed meanwhile"


def test_deadlines(served: Served) -> None:
    client, jobs, _ = served
    jobs.end = hold
    for text, seconds in (("30", 30), ("30s", 30), ("5m", 300), ("1h30m45s", 5445)):
        client.post(B5, json=A, headers={"cancel-after": text})
        assert jobs.last.payload["cancel_after"] == seconds
    for text in ("4", "0m", "soon", "-5", "5x", "1m2h"):
        answer = client.post(B5, json=A, headers={"cancel-after": text})
        assert answer.status_code == 422
        assert answer.json()["invalid_fields"][0]["field"] == "Cancel-After"
    job = jobs.last
    public = client.get("/v1/predictions").json()["results"][0]
    assert public["deadline"] > public["created_at"]
    job.payload["cancel_after"] = -job.created_at
    assert client.get(public["urls"]["get"]).json()["status"] == "canceled"


def test_keys() -> None:
    client, _, _ = build(keys="mine,yours")
    golden.check("replicate/no_key", client.get("/v1/account"))
    golden.check("replicate/wrong_key", client.post(B5, json=A, headers={"authorization": "Bearer theirs"}))
    for given in ("Bearer mine", "Token mine"):
        assert client.get("/v1/account", headers={"authorization": given}).status_code == 200
    answer = client.post(B5, json=A, headers={"authorization": "Bearer mine"}).json()
    for path in (f"/v1/predictions/{answer['id']}", f"/v1/predictions?cursor=older.{answer['id']}"):
        assert client.get(path, headers={"authorization": "Bearer yours"}).status_code == 404
    other = client.post(f"/v1/predictions/{answer['id']}/cancel", headers={"authorization": "Bearer yours"})
    assert other.status_code == 404
    assert client.get("/v1/predictions", headers={"authorization": "Bearer yours"}).json()["results"] == []


def test_browsers(served: Served) -> None:
    client = served[0]
    asked = {
        "origin": "http://page",
        "access-control-request-method": "POST",
        "access-control-request-headers": "prefer",
    }
    assert client.options(B5, headers=asked).headers["access-control-allow-origin"] == "*"
    assert client.post(B5, json={}, headers={"origin": "http://page"}).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        ("", [""]),
        ("a\n", ["a"]),
        ("a\r\nb\rc\n\nd", ["a", "b", "c", "", "d"]),
        ("a\u2028b\x85c\x0bd", ["a\u2028b\x85c\x0bd"]),
    ],
)
def test_an_event_ends_lines_where_its_format_does(data: str, lines: list[str]) -> None:
    """A client joins the lines with line feeds: nothing else may have been cut."""
    assert _event("logs", data, 7) == "event: logs\nid: 7\n" + "".join(f"data: {line}\n" for line in lines) + "\n"
