"""Replicate's predictions without a worker: waiting calls, permissions and the output."""

from __future__ import annotations

import json
import time
from base64 import b64decode

import pytest
from starlette.requests import Request

from pipelines.request import Media
from server.facades.replicate.calls import wait_seconds
from server.facades.replicate.watch import _event
from server.jobs.job import Job
from tests.rigs import golden
from tests.rigs.facade_rig import Build, Clock, Rig
from tests.rigs.facades.replicate import B5, I2V, WAIT, A
from tests.rigs.job_table import VIDEO, Table, fail, hold
from tests.rigs.stand_ins import PICTURE, AnyFile

PYTHON = "replicate-python/1.0.7"
JAVASCRIPT = "replicate-javascript/1.4.0"
AI_SDK = "ai-sdk/replicate/3.0.46 ai-sdk/provider-utils/5.0.81 runtime/node.js/v24.19.0"
DATA = "data:video/mp4;base64,"


@pytest.mark.parametrize(
    ("setting", "base", "agent", "is_data"),
    [
        ("auto", "http://here", PYTHON, True),
        ("auto", "http://1.1.1.1", PYTHON, True),
        ("auto", "http://here", JAVASCRIPT, True),
        ("auto", "http://here", "replicate-python/10.0.0b1", True),
        ("auto", "http://here", "Replicate/Python 2.0.0-beta.4", True),
        ("auto", "http://here", "AsyncReplicate/Python 2.0.0-beta.4", True),
        ("auto", "http://here", "_ModuleClient/Python 2.0.0-beta.4", True),
        ("auto", "https://here", PYTHON, False),
        ("auto", "https://here", "Replicate/Python 2.0.0-beta.4", False),
        ("auto", "http://here", "replicate-python/0.25.2", False),
        ("auto", "http://here", "replicate-python/0.34.2", False),
        ("auto", "http://here", "replicate-javascript/0.34.1", False),
        ("auto", "http://here", "replicate-go/1.0.0", False),
        ("auto", "http://here", "my-program replicate-python/1.0.7", False),
        ("auto", "http://here", "python-requests/2", False),
        ("auto", "http://here", "unknown/None; hf_hub/2.4.0", False),
        ("auto", "http://here", AI_SDK, True),
        ("auto", "https://127.0.0.1:8000", AI_SDK, True),
        ("auto", "http://[::1]:8000", f"ai/7.0.173 {AI_SDK}", True),
        ("auto", "http://gpu.local", AI_SDK, True),
        ("auto", "http://localhost", AI_SDK, True),
        ("auto", "http://10.1.2.3:8000", AI_SDK, True),
        ("auto", "http://192.168.1.5", AI_SDK, True),
        ("auto", "https://video.example.org", AI_SDK, False),
        ("auto", "http://1.1.1.1:8000", AI_SDK, False),
        ("url", "http://here", PYTHON, False),
        ("url", "http://localhost", AI_SDK, False),
        ("data", "https://here", "anything", True),
    ],
)
def test_the_film_itself_for_those_who_cannot_read_its_address(
    build: Build, setting: str, base: str, agent: str, is_data: bool
) -> None:
    client = build(base=base, replicate_output=setting).client
    said = {"user-agent": agent}
    answer = client.post(B5, json=A, headers={**WAIT, **said}).json()
    assert answer["output"].startswith(DATA if is_data else f"{base}/files/")
    assert client.get(answer["urls"]["get"], headers=said).json()["output"] == answer["output"]
    assert client.post(answer["urls"]["cancel"], headers=said).json()["output"] == answer["output"]
    listed = client.get("/v1/predictions", headers=said).json()["results"]
    assert listed[0]["output"].startswith(f"{base}/files/"), "a list holds no video data"
    assert "_" not in {name[0] for name in answer}, "internal fields are not shown"
    if is_data:
        assert b64decode(answer["output"].removeprefix(DATA)) == VIDEO


def test_a_prediction_that_nobody_waited_for_names_its_address(build: Build) -> None:
    """The same clients also offer `predictions.create()`, and programs that call it read a URL from `output`."""
    client = build(base="http://here").client
    for agent in (PYTHON, JAVASCRIPT, "Replicate/Python 2.0.0-beta.4"):
        for prefer in ({}, {"prefer": "respond-async"}, {"prefer": "wait=0"}):
            answer = client.post(B5, json=A, headers={**prefer, "user-agent": agent}).json()
            got = client.get(answer["urls"]["get"], headers={"user-agent": agent}).json()
            assert got["output"].startswith("http://here/files/")


def test_how_a_prediction_is_answered_is_kept_with_it(build: Build) -> None:
    client = build(base="http://here").client
    client.post(B5, json=A, headers={**WAIT, "user-agent": PYTHON})
    url = client.get("/v1/predictions").json()["results"][0]["urls"]["get"]
    for agent, is_data in ((PYTHON, True), (JAVASCRIPT, True), ("replicate-python/0.34.2", False), ("curl/8", False)):
        assert client.get(url, headers={"user-agent": agent}).json()["output"].startswith(DATA) is is_data
    url = client.post(B5, json=A, headers={**WAIT, "user-agent": "curl/8"}).json()["urls"]["get"]
    assert client.get(url, headers={"user-agent": PYTHON}).json()["output"].startswith("http://here/files/")


def test_webhooks_name_the_address(served: Rig) -> None:
    table = served.table
    client = served.client
    hook = {"webhook": "https://example.com/hook"}
    client.post(B5, json={**A, **hook}, headers={**WAIT, "user-agent": PYTHON})
    letter = served.letter(table.last)
    assert letter is not None and json.loads(letter.body)["output"].startswith("http://here:8000/files/")


def test_blocking(served: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client, table = served.client, served.table
    assert client.post(B5, json=A).json()["status"] == "starting", "without Prefer the call does not wait"
    assert client.post(B5, json=A, headers=WAIT).json()["status"] == "succeeded"
    assert client.post(B5, json=A, headers={"prefer": "respond-async, wait=5"}).json()["status"] == "succeeded"
    table.end = Table.start
    monkeypatch.setattr("server.facades.replicate.agents.LONGEST_WAIT", 0.05)
    for prefer in ("wait", "wait=1", "wait=900"):
        answer = client.post(B5, json=A, headers={"prefer": prefer}).json()
        assert (answer["status"], answer["started_at"], answer["output"]) == ("starting", None, None)
        assert client.get(answer["urls"]["get"]).json()["status"] == "processing"
    table.end = fail("internal")
    assert client.post(B5, json=A, headers=WAIT).json()["status"] == "failed"
    table.end = Table.delete
    assert client.post(B5, json=A, headers=WAIT).json()["status"] == "starting", "deleted meanwhile"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"prefer": "wait"}, 54),
        ({"prefer": "wait=60"}, 54),
        ({"prefer": "respond-async; wait=600"}, 54),
        ({"prefer": f"wait={'9' * 400}"}, 54),
        ({"prefer": "wait=53"}, 53),
        ({"prefer": "wait", "user-agent": PYTHON}, 54),
        ({"prefer": "wait", "user-agent": "replicate-python/0.34.2"}, 25),
        ({"prefer": "wait=10", "user-agent": "replicate-python/0.34.2"}, 10),
        ({"prefer": "wait", "x-stainless-read-timeout": "60"}, 54),
        ({"prefer": "wait=60", "x-stainless-read-timeout": "12.0"}, 10.8),
        ({"prefer": "wait", "x-stainless-read-timeout": "600"}, 54),
        *(
            ({"prefer": "wait", "x-stainless-read-timeout": odd}, 54)
            for odd in ("0", "-1", "nan", "inf", "1e1", "x", "")
        ),
    ],
)
def test_a_blocking_call_ends_before_its_client_gives_up(headers: dict[str, str], seconds: float) -> None:
    """Replicate's newer client waits for 60 s or for the time in its request, and then creates another prediction."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert wait_seconds(Request({"type": "http", "headers": raw})) == pytest.approx(seconds)


def test_what_comes_before_the_wait_is_part_of_it(served: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait includes the time that the server needs before it (to fetch an image, for example)."""
    client, table = served.client, served.table
    table.end = Table.start
    waited: list[float | None] = []

    async def wait(job_id: str, timeout: float | None = None) -> Job:
        waited.append(timeout)
        return table[job_id]

    async def slow(intake: AnyFile, value: str, field: str, *, owner: str = "") -> Media:
        clock[0] += 50.0
        return Media("somewhere", "0" * 64)

    clock = [time.monotonic()]
    monkeypatch.setattr("server.facades.replicate.calls.monotonic", lambda: clock[0])
    monkeypatch.setattr(AnyFile, "picture", slow)
    monkeypatch.setattr(served.context.jobs, "wait", wait)
    assert client.post(I2V, json={"input": {"prompt": "a", "image": PICTURE}}, headers=WAIT).status_code == 201
    clock[0] += 100.0
    assert client.post(B5, json=A, headers=WAIT).status_code == 201
    assert waited == pytest.approx([4.0, 54.0])


def test_deadlines(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1_800_000_000.0)
    monkeypatch.setattr(time, "time", clock)
    rig = build(clock=clock)
    client, table = rig.client, rig.table
    table.end = hold
    for text, seconds in (("30", 30), ("30s", 30), ("5m", 300), ("1h30m45s", 5445)):
        client.post(B5, json=A, headers={"cancel-after": text})
        assert table.last.end_by == 1_800_000_000.0 + seconds
    for text in ("4", "0m", "soon", "-5", "5x", "1m2h"):
        answer = client.post(B5, json=A, headers={"cancel-after": text})
        assert answer.status_code == 422
        assert answer.json()["invalid_fields"][0]["field"] == "Cancel-After"
    public = client.get("/v1/predictions").json()["results"][0]
    assert public["deadline"] > public["created_at"]
    clock.advance(5445)
    rig.store.expire()
    assert client.get(public["urls"]["get"]).json()["status"] == "canceled"


def test_keys(build: Build) -> None:
    client = build(keys="mine,yours").client
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


def test_browsers(served: Rig) -> None:
    client = served.client
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
    """Clients join the `data:` lines with line feeds, so the server splits the text only at the format's line ends."""
    assert _event("logs", data, 7) == "event: logs\nid: 7\n" + "".join(f"data: {line}\n" for line in lines) + "\n"
