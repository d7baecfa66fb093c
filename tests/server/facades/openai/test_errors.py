"""Every refusal of OpenAI's façade has OpenAI's envelope and names the parameter."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.request import Task
from server.errors import DiskFull, NoModel, QueueFull, QuotaExceeded
from server.facades.kit.errors import Unavailable
from server.facades.kit.samples import RED
from tests.rigs import golden
from tests.rigs.facade_rig import Build, Rig

UNKNOWN = "video_00000000000000000000000000000000"
HERE = "/v1/videos"


def error_of(answer: Any) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert len(answer.text) < 1000
    return dict(body["error"])


LONG = "x" * 20_001
INVALID: list[tuple[Any, str | None, str, str]] = [
    ({}, "prompt", "missing_required_parameter", "Missing required parameter: 'prompt'."),
    ({"prompt": None}, "prompt", "missing_required_parameter", "Missing"),
    ({"prompt": "  "}, "prompt", "invalid_value", "must not be blank"),
    ({"prompt": 5}, "prompt", "invalid_type", "must be a string"),
    ({"prompt": LONG}, "prompt", "string_above_max_length", "at most 20000 characters"),
    ({"prompt": "a\0"}, "prompt", "invalid_value", "NUL"),
    ({"prompt": "\ud800"}, "prompt", "invalid_value", "plain text"),
    ({"prompt": "a", "model": "gpt-4"}, "model", "invalid_value", "'cogvideox-5b', 'cogvideox-5b-i2v'"),
    ({"prompt": "a", "model": "sora-1"}, "model", "invalid_value", "'sora-2', 'sora-2-pro', and the names of all"),
    ({"prompt": "a", "model": ["sora-2"]}, "model", "invalid_type", "must be a string"),
    ({"prompt": "a", "model": "cogvideox-5b-i2v"}, "input_reference", "missing_required_parameter", "pictures only"),
    ({"prompt": "a", "seconds": 0}, "seconds", "integer_below_min_value", "between 1 and 60, got 0"),
    ({"prompt": "a", "seconds": "61"}, "seconds", "integer_above_max_value", "between 1 and 60"),
    ({"prompt": "a", "seconds": "four"}, "seconds", "invalid_type", "an integer between 1 and 60, got 'four'"),
    ({"prompt": "a", "seconds": 4.5}, "seconds", "invalid_type", "an integer between 1 and 60, got 4.5"),
    ({"prompt": "a", "seconds": True}, "seconds", "invalid_value", "must be a number"),
    ({"prompt": "a", "seconds": 60, "fps": 120}, "seconds", "invalid_value", "are 7200 frames, at most 1000"),
    ({"prompt": "a", "size": "720"}, "size", "invalid_value", "WIDTHxHEIGHT"),
    ({"prompt": "a", "size": "10x720"}, "size", "invalid_value", "16 to 4096"),
    ({"prompt": "a", "size": "720x4097"}, "size", "invalid_value", "16 to 4096"),
    ({"prompt": "a", "size": "1080p"}, "size", "invalid_value", "WIDTHxHEIGHT"),
    ({"prompt": "a", "size": 720}, "size", "invalid_type", "string"),
    ({"prompt": "a", "width": 15}, "width", "integer_below_min_value", "between 16 and 4096, got 15"),
    ({"prompt": "a", "height": "4097"}, "height", "integer_above_max_value", "between 16 and 4096"),
    ({"prompt": "a", "num_frames": 0}, "num_frames", "integer_below_min_value", "between 1 and 1000"),
    ({"prompt": "a", "num_frames": 1001}, "num_frames", "integer_above_max_value", "between 1 and 1000"),
    ({"prompt": "a", "fps": 121}, "fps", "integer_above_max_value", "between 1 and 120"),
    ({"prompt": "a", "num_inference_steps": 201}, "num_inference_steps", "integer_above_max_value", "1 and 200"),
    ({"prompt": "a", "guidance_scale": 20.5}, "guidance_scale", "decimal_above_max_value", "between 0 and 20"),
    ({"prompt": "a", "guidance_scale": "much"}, "guidance_scale", "invalid_type", "a number between 0 and 20"),
    ({"prompt": "a", "guidance_scale": "nan"}, "guidance_scale", "invalid_type", "a number"),
    ({"prompt": "a", "seed": -1}, "seed", "integer_below_min_value", "between 0 and 9223372036854775807, got -1"),
    ({"prompt": "a", "seed": 10**400}, "seed", "integer_above_max_value", "between 0"),
    ({"prompt": "a", "negative_prompt": LONG}, "negative_prompt", "string_above_max_length", "20000"),
    ({"prompt": "a", "input_reference": 5}, "input_reference", "invalid_value", "image_url or file_id"),
    ({"prompt": "a", "input_reference": ""}, "input_reference", "invalid_value", "blank"),
    ({"prompt": "a", "input_reference": {}}, "input_reference", "invalid_value", "either image_url or file_id"),
    ({"prompt": "a", "input_reference": {"image_url": 5}}, "input_reference", "invalid_value", "text as its image_url"),
    (
        {"prompt": "a", "input_reference": {"image_url": RED, "file_id": "f"}},
        "input_reference",
        "invalid_value",
        "eith",
    ),
    ({"prompt": "a", "input_reference": {"file_id": "file-x"}}, "input_reference", "not_found", "No such File"),
    ({"prompt": "a", "input_reference": "http://x/y.png"}, "input_reference", "file_download_error", "Nothing came"),
    ({"prompt": "a", "image_reference": "big"}, "image_reference", "file_too_large", "Too large"),
    ({"prompt": "a", "image_reference": RED, "input_reference": RED}, "image_reference", "invalid_value", "either"),
    ({"prompt": "a", "video_params": "[1]"}, "video_params", "invalid_value", "an object, or an object as JSON text"),
    ({"prompt": "a", "video_params": "{broken"}, "video_params", "invalid_value", "an object as JSON text"),
    ({"prompt": "a", "video_params": {"fps": 500}}, "fps", "integer_above_max_value", "between 1 and 120"),
    ({"prompt": "a", "extra_params": 3}, "extra_params", "invalid_value", "an object"),
    ([], None, "invalid_type", "must be a JSON object"),
]


@pytest.mark.parametrize(("body", "param", "code", "text"), INVALID)
@pytest.mark.parametrize("path", [HERE, f"{HERE}/sync", f"/openai{HERE}"])
def test_invalid_input(served: Rig, path: str, body: Any, param: str | None, code: str, text: str) -> None:
    client, table = served.client, served.table
    answer = client.post(path, content=json.dumps(body))
    error = error_of(answer)
    assert answer.status_code == (404 if code == "not_found" else 400)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert text in error["message"]
    assert param is None or param in error["message"] or param in ("model", "input_reference")
    assert not table.jobs


def test_invalid_remix(served: Rig) -> None:
    client, table = served.client, served.table
    path = f"{HERE}/{client.post(HERE, json={'prompt': 'a'}).json()['id']}/remix"
    assert error_of(client.post(path, json={}))["param"] == "prompt"
    assert error_of(client.post(path, json={"prompt": " "}))["code"] == "invalid_value"
    assert len(table.jobs) == 1


RAW = [b"{", b"\xff", b'{"prompt": NaN}', b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}"]


@pytest.mark.parametrize("raw", RAW)
def test_broken_json(served: Rig, raw: bytes) -> None:
    answer = served.client.post(HERE, content=raw)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_json")


def test_broken_forms(served: Rig) -> None:
    client, table = served.client, served.table
    for raw, kind in (
        (b"--x\r\nnothing", "multipart/form-data"),
        (b"--x\r\nnot a part", "multipart/form-data; boundary=x"),
        (b"%ff%00=%", "application/x-www-form-urlencoded"),
    ):
        answer = client.post(HERE, content=raw, headers={"content-type": kind})
        assert answer.status_code == 400
        error_of(answer)
    assert not table.jobs


def test_too_large(served: Rig) -> None:
    answer = served.client.post(HERE, content=b"", headers={"content-length": str(2**40)})
    assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("queue_full", QueueFull(3)),
        ("quota", QuotaExceeded(5, daily=True, retry_after=3599.5)),
        ("disk_full", DiskFull("only 3 MiB are free on the server's disk")),
        ("no_model", NoModel("text-to-video", "no checkpoint for text-to-video is served here")),
        ("unavailable", Unavailable("the server has stopped working on jobs; its log says why")),
        ("internal", RuntimeError("secret")),
    ],
)
def test_turned_away(served: Rig, name: str, error: Exception) -> None:
    client, table = served.client, served.table
    table.raises = error
    answer = client.post(HERE, json={"prompt": "a"})
    assert "secret" not in answer.text
    error_of(answer)
    golden.check(f"openai/error_{name}", answer)
    assert answer.headers.get("retry-after") == {"queue_full": "5", "quota": "3600"}.get(name)


@pytest.mark.parametrize(
    ("task", "body", "text"),
    [
        (Task.T2V, {"prompt": "a", "input_reference": RED}, "No model served here makes videos from pictures"),
        (Task.I2V, {"prompt": "a"}, "from pictures only"),
        (Task.I2V, {"prompt": "a", "model": "sora-2"}, "from pictures only"),
    ],
)
def test_a_task_without_a_model(build: Build, task: Task, body: dict[str, Any], text: str) -> None:
    answer = build(tasks=[task]).client.post(HERE, json=body)
    assert (answer.status_code, error_of(answer)["param"]) == (400, "input_reference")
    assert text in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", f"{HERE}/{UNKNOWN}", "unknown_video"),
        ("GET", f"{HERE}/{UNKNOWN}/content", "unknown_video"),
        ("DELETE", f"{HERE}/{UNKNOWN}", "unknown_video"),
        ("GET", f"/openai{HERE}/{UNKNOWN}/", "unknown_video"),
        ("GET", f"{HERE}?after={UNKNOWN}", "unknown_after"),
        ("GET", f"{HERE}?limit=0", "limit_too_small"),
        ("GET", f"{HERE}?order=up", "unknown_order"),
        ("POST", f"{HERE}/edits", "no_edits"),
        ("POST", "/v1/chat/completions", "no_chat"),
    ],
)
def test_refusals(served: Rig, method: str, path: str, name: str) -> None:
    answer = served.client.request(method, path)
    error_of(answer)
    golden.check(f"openai/error_{name}", answer)


@pytest.mark.parametrize("query", ["limit=101", "limit=x", "limit=-1", "limit=" + "9" * 5000, "after=x", "after=%00"])
def test_bad_pages(served: Rig, query: str) -> None:
    assert served.client.get(f"{HERE}?{query}").status_code == 400
    error_of(served.client.get(f"{HERE}?{query}"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{HERE}/nothing"),
        ("GET", f"{HERE}/video_%00"),
        ("GET", f"{HERE}/{UNKNOWN[6:]}"),
        ("POST", f"{HERE}/{UNKNOWN}/remix"),
        ("POST", f"{HERE}/characters"),
        ("GET", f"{HERE}/characters/char_1"),
        ("POST", f"{HERE}/extensions"),
        ("PUT", HERE),
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/images/generations"),
        ("POST", "/v1/audio/speech"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/responses"),
        ("PUT", "/v1/files"),
        ("GET", "/v1/files/file-nothing"),
        ("DELETE", "/v1/files/file-nothing"),
        ("GET", "/openai"),
        ("GET", "/openai/v1/assistants"),
    ],
)
def test_no_such_address(served: Rig, method: str, path: str) -> None:
    answer = served.client.request(method, path, content=b'{"prompt": "a"}' if method == "POST" else None)
    assert answer.status_code == 404
    error_of(answer)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", HERE), ("GET", f"{HERE}/{UNKNOWN}"), ("GET", "/v1/models"), ("POST", "/v1/files"), ("POST", "/v1/chat")],
)
def test_keys(build: Build, method: str, path: str) -> None:
    client = build(keys="mine").client
    answers = {
        "no_key": client.request(method, path),
        "wrong_key": client.request(method, path, headers={"authorization": "Bearer sk-yours"}),
    }
    for name, answer in answers.items():
        assert answer.status_code == 401
        assert "sk-yours" not in answer.text
        golden.check(f"openai/error_{name}", answer)
    for headers in ({"authorization": "Bearer mine"}, {"x-api-key": "mine"}):
        assert client.request(method, path, headers=headers).status_code != 401


def test_a_bug_is_not_shown(served: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(served.context.jobs, "find", broken)
    answer = served.client.get(f"{HERE}/{UNKNOWN}")
    assert (answer.status_code, error_of(answer)["type"]) == (500, "server_error")
    assert "secret" not in answer.text
