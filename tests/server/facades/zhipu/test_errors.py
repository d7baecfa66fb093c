"""Zhipu's façade refuses with a status, a code written as text, and a message that names the field."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from server.errors import DiskFull, NoModel, QueueFull, QuotaExceeded
from server.facades.kit.errors import Unavailable
from server.facades.kit.samples import BLUE
from server.limits.bodies import MAX_BODY
from tests.rigs.facade_rig import Build, Rig
from tests.rigs.facades.zhipu import ASKED, BASE, CREATE, UNIFIED, token
from tests.rigs.job_table import fail

SIZES = "720x480, 1024x1024, 1280x720, 720x1280, 1280x960, 960x1280, 1920x1080, 1080x1920, 2048x1080 or 3840x2160"


def error_of(answer: Any, status: int) -> tuple[str, str]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    relayed = str(answer.url.path).startswith(("/zhipu/", "/302/"))
    assert set(body["error"]) == {"code", "message"} | ({"err_code", "type"} if relayed else set())
    assert isinstance(body["error"]["code"], str)
    assert len(body["error"]["message"]) < 600
    return body["error"]["code"], body["error"]["message"]


INVALID: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "1213", "model is required"),
    ({"model": "sora"}, "1211", "'sora' does not exist; there are cogvideox-3, cogvideox-2"),
    ({"model": 5}, "1214", "model must be a string"),
    ({"prompt": None}, "1213", "prompt or image_url is required"),
    ({"prompt": "  ", "image_url": ""}, "1213", "prompt or image_url is required"),
    ({"prompt": "x" * 513}, "1261", "prompt must be at most 512 characters long, not 513"),
    ({"prompt": 5}, "1214", "prompt must be a string"),
    ({"prompt": "a\0"}, "1214", "prompt must be plain text"),
    ({"prompt": "\ud800"}, "1214", "prompt must be"),
    ({"size": "640x480"}, "1214", f"size must be 480p, 720p, 1080p, 2k, 4k, {SIZES}, got '640x480'"),
    ({"size": 5}, "1214", "size must be a string"),
    ({"size": "1080"}, "1214", "size must be 480p, 720p, 1080p"),
    ({"size": "8K"}, "1214", "size must be 480p, 720p, 1080p"),
    ({"model": "zai-org/CogVideoX-5b-I2V"}, "1214", "image_url: zai-org/CogVideoX-5b-I2V makes videos from pictures"),
    ({"fps": 24}, "1214", "fps must be 30 or 60, got 24"),
    ({"fps": "fast"}, "1214", "fps must be 30 or 60, got 'fast'"),
    ({"fps": True}, "1214", "fps must be 30 or 60"),
    ({"fps": 10**400}, "1214", "fps must be 30 or 60"),
    ({"duration": 6}, "1214", "duration must be 5 or 10, got 6"),
    ({"duration": 5.5}, "1214", "duration must be 5 or 10, got 5.5"),
    ({"duration": [5]}, "1214", "duration must be 5 or 10"),
    ({"quality": "best"}, "1214", "quality must be speed or quality, got 'best'"),
    ({"quality": ["speed"]}, "1214", "quality must be speed or quality"),
    ({"with_audio": "perhaps"}, "1214", "with_audio must be true or false, got 'perhaps'"),
    ({"watermark_enabled": 7}, "1214", "watermark_enabled must be true or false, got 7"),
    ({"user_id": "short"}, "1214", "user_id must be at least 6 characters long"),
    ({"user_id": "x" * 129}, "1214", "user_id must be at most 128 characters long"),
    ({"request_id": "x" * 257}, "1214", "request_id must be at most 256 characters long"),
    ({"request_id": ["x"]}, "1214", "request_id must be a string"),
    ({"request_id": "\0"}, "1214", "request_id must be plain text"),
    ({"image_url": 5}, "1214", "image_url must be a string"),
    ({"image_url": [BLUE, 5]}, "1214", "image_url must be a string"),
    ({"image_url": {"link": BLUE}}, "1214", "image_url must be a string"),
    ({"image_url": "http://x/y.png"}, "1214", "image_url: Nothing came from that address"),
    ({"image_url": "a\0"}, "1214", "image_url must be plain text"),
    ({"image_url": [BLUE, BLUE]}, "1214", "image_url: only cogvideox-3 takes two pictures"),
    (
        {"image_url": [BLUE, {"url": BLUE}], "model": "cogvideox-3"},
        "1214",
        "can begin with a picture, not end with one",
    ),
    ({"image_url": [BLUE] * 3}, "1214", "image_url must be one picture, or two"),
    ({"fps": 24, "duration": 6}, "1214", "fps must be 30 or 60, got 24; duration must be 5 or 10, got 6"),
]


@pytest.mark.parametrize("path", [CREATE, f"/zhipu{CREATE}", UNIFIED])
@pytest.mark.parametrize(("fields", "code", "text"), INVALID)
def test_invalid_input(served: Rig, path: str, fields: dict[str, Any], code: str, text: str) -> None:
    client, table = served.client, served.table
    found, message = error_of(client.post(path, content=json.dumps({**ASKED, **fields})), 400)
    assert (found, text in message) == (code, True), message
    assert not table.jobs


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"end_image": BLUE}, "1214", "end_image: the model served here can begin with a picture"),
        ({"video": "http://x/y.mp4"}, "1214", "video: CogVideoX has no video input"),
        ({"resolution": "900p"}, "1214", "resolution must be 480p, 720p"),
        ({"aspect_ratio": "21:9"}, "1214", "aspect_ratio must be 16:9, 9:16"),
        ({"image": "http://x/y.png"}, "1214", "image: Nothing came"),
        ({"model": "cogvideox_9"}, "1211", "does not exist"),
        ({"negative_prompt": "x" * 513}, "1261", "negative_prompt must be at most 512"),
    ],
)
def test_invalid_input_of_the_unified_form(served: Rig, fields: dict[str, Any], code: str, text: str) -> None:
    found, message = error_of(served.client.post(UNIFIED, json={**ASKED, **fields}), 400)
    assert (found, text in message) == (code, True), message


def test_a_message_does_not_repeat_a_whole_picture(served: Rig) -> None:
    code, _ = error_of(served.client.post(CREATE, json={**ASKED, "size": "x" * 100_000}), 400)
    assert code == "1214"


@pytest.mark.parametrize(
    "raw",
    [b"{", b"\xff", b"[]", b'"text"', b'{"model": NaN}', b"[" * 100_000, b'{"fps": ' + b"9" * 5000 + b"}", b"a=b&c=d"],
)
def test_broken_bodies(served: Rig, raw: bytes) -> None:
    for path in (CREATE, UNIFIED, "/cogvideox/v4/async-results"):
        assert error_of(served.client.post(path, content=raw), 400)[0] == "1210"


def test_bodies_that_are_too_large(served: Rig) -> None:
    answer = served.client.post(CREATE, content=b"{}", headers={"content-length": str(MAX_BODY + 1)})
    assert error_of(answer, 435) == ("1220", "The request body is larger than 128 MiB")
    assert error_of(served.client.post(CREATE, json={**ASKED, "image_url": "big"}), 435)[0] == "1220"


def test_an_empty_body(served: Rig) -> None:
    assert error_of(served.client.post(CREATE), 400) == ("1213", "model is required")


@pytest.mark.parametrize(
    ("error", "status", "code", "text"),
    [
        (QueueFull(3), 429, "1305", "the queue is full"),
        (QuotaExceeded(2, False, 9.5), 429, "1302", "2 jobs at a time"),
        (QuotaExceeded(2, True, 100), 429, "1304", "2 jobs a day"),
        (DiskFull("no room"), 507, "500", "no room"),
        (Unavailable("stopping"), 503, "1305", "stopping"),
        (NoModel("image-to-video", "no such model here"), 400, "1211", "no such model here"),
        (RuntimeError("secret"), 500, "500", "internal server error"),
    ],
)
@pytest.mark.parametrize("path", [CREATE, UNIFIED])
def test_turned_away(served: Rig, path: str, error: Exception, status: int, code: str, text: str) -> None:
    client, table = served.client, served.table
    table.raises = error
    answer = client.post(path, json=ASKED)
    found, message = error_of(answer, status)
    assert (found, text in message, "secret" in answer.text) == (code, True, False)
    assert (answer.headers.get("x-should-retry") == "false") == (status == 429 or isinstance(error, DiskFull))
    waits = {"the queue is full": "5", "2 jobs at a time": "10", "2 jobs a day": "100"}
    assert answer.headers.get("retry-after") == waits.get(text)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", f"{BASE}/async-result/nothing", 404, "1214"),
        ("GET", f"{BASE}/async-result/%00", 404, "1214"),
        ("POST", f"/zhipu{BASE}/async-result/nothing", 404, "1214"),
        ("GET", "/302/v2/video/fetch/nothing", 404, "1214"),
        ("POST", f"{BASE}/chat/completions", 404, "1222"),
        ("GET", "/302/v1/models", 404, "1222"),
        ("GET", "/zhipu", 404, "1222"),
        ("GET", CREATE, 405, "1222"),
        ("DELETE", f"{BASE}/async-result/x", 405, "1222"),
    ],
)
def test_no_such_address(served: Rig, method: str, path: str, status: int, code: str) -> None:
    answer = served.client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("code", "field", "shown", "text"),
    [
        ("internal", None, "500", "it broke"),
        ("out_of_memory", None, "500", "it broke"),
        ("worker_lost", None, "500", "it broke"),
        ("bad_output", None, "500", "it broke"),
        ("media_error", "image", "1214", "image_url: it broke"),
        ("invalid_request", "num_frames", "1214", "duration: it broke"),
    ],
)
def test_failures_of_the_engine(served: Rig, code: str, field: str | None, shown: str, text: str) -> None:
    client, table = served.client, served.table
    table.end = fail(code, field=field)
    task = client.post(CREATE, json=ASKED).json()["id"]
    result = client.get(f"{BASE}/async-result/{task}")
    assert (result.status_code, result.json()["task_status"]) == (200, "FAIL")
    assert result.json()["error"] == {"code": shown, "message": text}
    unified = client.get(f"/302/v2/video/fetch/{task}")
    assert (unified.status_code, unified.json()["status"], unified.json()["video_url"]) == (200, "failed", None)
    assert unified.json()["error"]["message"] == text


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "1001"),
        ("", "1001"),
        ("Bearer ", "1001"),
        ("Bearer id.wrong", "1002"),
        ("Bearer id", "1002"),
        ("Bearer secret", "1002"),
        ("id.secret", None),
        ("Bearer id.secret", None),
        (f"Bearer {token('id', 'secret')}", None),
        (token("id", "secret"), None),
        (f"Bearer {token('id', 'forged')}", "1002"),
        (f"Bearer {token('who', 'secret')}", "1002"),
        (f"Bearer {token('id', 'secret', alg='none')}", "1002"),
        (f"Bearer {token('id', 'secret', exp=(time.time() - 3600) * 1000)}", "1003"),
        (f"Bearer {token('id', 'secret', exp=time.time() - 3600)}", "1003"),
    ],
)
def test_keys(build: Build, header: str | None, code: str | None) -> None:
    client = build(keys="id.secret").client
    headers = {} if header is None else {"authorization": header}
    for path in (CREATE, f"/zhipu{CREATE}", UNIFIED):
        answer = client.post(path, json=ASKED, headers=headers)
        if code is None:
            assert answer.status_code == 200
        else:
            assert error_of(answer, 401)[0] == code
            assert "secret" not in answer.text
    relayed = client.get("/302/v2/video/fetch/x", headers=headers).json()["error"]
    expected = {None: (-99, "api_error"), "1001": (-10001, "unauthorized")}
    assert (relayed["err_code"], relayed["type"]) == expected.get(code, (-10002, "unauthorized"))
