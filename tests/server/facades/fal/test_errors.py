"""Every error of fal's façade: invalid input, bad media, failures of the engine, unknown URLs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.errors import DiskFull, NoModel, QueueFull
from tests.rigs.facade_rig import Rig
from tests.rigs.facades.fal import QUEUE, RUN
from tests.rigs.job_table import fail
from tests.rigs.stand_ins import PICTURE


def invalid(**fields: Any) -> dict[str, Any]:
    return {"prompt": "a", **fields}


INVALID = [
    ({}, "missing", ["body", "prompt"]),
    (invalid(prompt=5), "string_type", ["body", "prompt"]),
    (invalid(prompt="  "), "value_error", ["body", "prompt"]),
    (invalid(prompt="x" * 20_001), "string_too_long", ["body", "prompt"]),
    (invalid(prompt="a\0b"), "string_unicode", ["body", "prompt"]),
    (invalid(negative_prompt="\ud800"), "string_unicode", ["body", "negative_prompt"]),
    (invalid(num_inference_steps=51), "less_than_equal", ["body", "num_inference_steps"]),
    (invalid(num_inference_steps=0), "greater_than_equal", ["body", "num_inference_steps"]),
    (invalid(num_inference_steps="many"), "int_parsing", ["body", "num_inference_steps"]),
    (invalid(seed=10**300), "less_than_equal", ["body", "seed"]),
    (invalid(seed=-1), "greater_than_equal", ["body", "seed"]),
    (invalid(guidance_scale=20.5), "less_than_equal", ["body", "guidance_scale"]),
    (invalid(guidance_scale=10**400), "float_type", ["body", "guidance_scale"]),
    (invalid(num_inference_steps=True), "int_type", ["body", "num_inference_steps"]),
    (invalid(seed=False), "int_type", ["body", "seed"]),
    (invalid(guidance_scale=True), "float_type", ["body", "guidance_scale"]),
    (invalid(video_size={"width": True}), "int_type", ["body", "video_size", "width"]),
    (invalid(export_fps=3), "greater_than_equal", ["body", "export_fps"]),
    (invalid(use_rife="perhaps"), "bool_parsing", ["body", "use_rife"]),
    (invalid(use_rife=True), "feature_not_supported", ["body", "use_rife"]),
    (invalid(video_size="huge"), "one_of", ["body", "video_size"]),
    (invalid(video_size=[1, 2]), "one_of", ["body", "video_size"]),
    (invalid(video_size={"width": 0}), "greater_than", ["body", "video_size", "width"]),
    (invalid(video_size={"width": 15}), "value_error", ["body", "video_size"]),
    (invalid(video_size={"width": 9000}), "value_error", ["body", "video_size"]),
    (invalid(video_size={"height": 20000}), "value_error", ["body", "video_size"]),
    (invalid(loras={}), "list_type", ["body", "loras"]),
    (invalid(loras=[{}]), "missing", ["body", "loras", 0, "path"]),
    (invalid(loras=[{"path": "https://x/y"}]), "file_download_error", ["body", "loras", 0, "path"]),
    (invalid(loras=[{"path": "style"}, {"path": "mine"}]), "value_error", ["body", "loras", 1, "path"]),
    (invalid(loras=[{"path": "style", "scale": 11}]), "less_than_equal", ["body", "loras", 0, "scale"]),
    (invalid(loras=[{"path": "style", "scale": True}]), "float_type", ["body", "loras", 0, "scale"]),
    (invalid(loras=[{"path": "style"}] * 40), "sequence_too_long", ["body", "loras"]),
    ([], "dict_type", ["body"]),
    ("text", "dict_type", ["body"]),
]


@pytest.mark.parametrize(("body", "kind", "loc"), INVALID)
def test_invalid_input(served: Rig, body: Any, kind: str, loc: list[str | int]) -> None:
    """For invalid input, fal.run answers 422. The queue accepts the request, and answers the same 422 when the client
    asks for the result."""
    client, table = served.client, served.table
    raw = json.dumps(body)
    answer = client.post(RUN, content=raw)
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert [(one["type"], one["loc"]) for one in detail] == [(kind, loc)]
    assert detail[0]["msg"] and "14142" not in detail[0]["msg"]
    assert detail[0]["url"].endswith(kind)
    assert answer.headers["x-fal-retryable"] == answer.headers["x-fal-needs-retry"] == "false"
    assert not table.jobs
    receipt = client.post(QUEUE, content=raw)
    assert receipt.status_code == 200
    status = client.get(receipt.json()["status_url"])
    assert status.status_code == 200
    assert status.json()["status"] == "COMPLETED"
    assert status.json()["error_type"] == kind
    assert loc[-1] == "body" or str(loc[-1]) in status.json()["error"]
    result = client.get(receipt.json()["response_url"])
    assert (result.status_code, result.json()["detail"]) == (422, detail)
    json.dumps(table.last.memo).encode()
    assert len(json.dumps(table.last.memo)) < 200_000


@pytest.mark.parametrize(
    "raw",
    [
        b'{"prompt": "a"',
        b"\xff\xfe",
        b'{"prompt": "a", "seed": NaN}',
        b'{"prompt": "a", "guidance_scale": Infinity}',
        b'{"prompt": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "x": [' + b"0," * 100_000 + b"0]}",
        b"prompt=a",
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data", ""])
def test_broken_json(served: Rig, raw: bytes, kind: str) -> None:
    client = served.client
    answer = client.post(RUN, content=raw, headers={"content-type": kind})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == "json_invalid"
    receipt = client.post(QUEUE, content=raw, headers={"content-type": kind})
    assert client.get(receipt.json()["response_url"]).json() == answer.json()


def test_infinite_number(served: Rig) -> None:
    answer = served.client.post(RUN, content=b'{"prompt": "a", "guidance_scale": 1e999}')
    assert answer.json()["detail"][0]["type"] == "finite_number"


def test_a_body_too_large(served: Rig) -> None:
    for content, headers in (((b" " * 2**20 for _ in range(130)), {}), (b"{}", {"content-length": str(2**30)})):
        answer = served.client.post(RUN, content=content, headers=headers)
        assert answer.status_code == 413
        assert "128 MiB" in answer.json()["detail"]


def test_media_errors(served: Rig) -> None:
    client = served.client
    answer = client.post(f"{RUN}/image-to-video", json={"prompt": "a", "image_url": "https://x/y.png"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == "file_download_error"
    assert answer.json()["detail"][0]["loc"] == ["body", "image_url"]
    answer = client.post(f"{RUN}/video-to-video", json={"prompt": "a", "video_url": "big"})
    assert answer.json()["detail"][0]["ctx"] == {"max_size": 10}
    answer = client.post(f"{RUN}/video-to-video", json={"prompt": "a", "image_url": PICTURE})
    assert answer.json()["detail"][0]["loc"] == ["body", "video_url"]


def test_data_uris_stay_out_of_the_job_table(served: Rig) -> None:
    client, table = served.client, served.table
    client.post(f"{QUEUE}/image-to-video", json={"prompt": "a", "image_url": PICTURE + "A" * 10**6, "key": "k"})
    assert len(json.dumps(table.last.memo)) < 500
    assert "key" not in table.last.memo


FAILED = [
    (fail("out_of_memory"), 500, "internal_server_error"),
    (fail("internal"), 500, "internal_server_error"),
    (fail("model_error"), 500, "internal_server_error"),
    (fail("worker_lost"), 500, "runner_disconnected"),
    (fail("bad_output"), 422, "no_media_generated"),
    (fail("invalid_request", field="image"), 422, "value_error"),
    (fail("media_error", field="video"), 422, "unsupported_video_format"),
    (fail("media_error", field="image"), 422, "image_load_error"),
]


@pytest.mark.parametrize(("end", "code", "kind"), FAILED)
def test_failures_of_the_engine(served: Rig, end: Any, code: int, kind: str) -> None:
    client, table = served.client, served.table
    table.end = end
    receipt = client.post(QUEUE, json={"prompt": "a"}).json()
    status = client.get(receipt["status_url"])
    assert (status.status_code, status.json()["status"], status.json()["error_type"]) == (200, "COMPLETED", kind)
    assert "it broke" in status.json()["error"]
    result = client.get(receipt["response_url"])
    assert result.status_code == code
    assert result.headers["x-fal-request-id"] == receipt["request_id"]
    ran = client.post(RUN, json={"prompt": "a"})
    assert (ran.status_code, ran.json()) == (code, result.json())


def test_unknown_request(served: Rig) -> None:
    client, table = served.client, served.table
    for job_id in ("nothing", "%00", "%F0%9F%90%8B"):
        for method, tail in (("GET", ""), ("GET", "/status"), ("GET", "/status/stream"), ("PUT", "/cancel")):
            answer = client.request(method, f"{QUEUE}/requests/{job_id}{tail}")
            assert (answer.status_code, answer.json()["status"]) == (404, "NOT_FOUND")
    theirs = table.add("segmind")
    assert client.get(f"{QUEUE}/requests/{theirs.id}/status").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "code", "text"),
    [
        ("POST", f"{RUN}/stream", 404, "Path /stream not found"),
        ("POST", f"{RUN}/image-to-video/stream/", 404, "Path /image-to-video/stream not found"),
        ("GET", "/storage/nothing", 404, "Path /storage/nothing not found"),
        ("GET", "/files/upload", 405, "Method Not Allowed"),
        ("POST", f"{QUEUE}/nothing", 404, "Path /nothing not found"),
        ("POST", "/run/fal-ai/flux/dev", 404, 'Application "fal-ai/flux" not found'),
        ("POST", "/queue/x", 404, 'Application "x" not found'),
        ("GET", QUEUE, 405, "Method Not Allowed"),
        ("DELETE", RUN, 405, "Method Not Allowed"),
        ("POST", "/fal/nowhere", 404, "Path /fal/nowhere not found"),
    ],
)
def test_no_such_address(served: Rig, method: str, path: str, code: int, text: str) -> None:
    answer = served.client.request(method, path)
    assert (answer.status_code, answer.json()["detail"]) == (code, text)
    assert answer.headers["x-fal-request-id"]


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (QueueFull(3), 429, "concurrent_requests_limit"),
        (DiskFull("no room"), 507, "internal_error"),
        (RuntimeError("secret"), 500, "internal_error"),
    ],
)
def test_turned_away(served: Rig, error: Exception, code: int, kind: str) -> None:
    client, table = served.client, served.table
    table.raises = error
    for surface in (RUN, QUEUE):
        answer = client.post(surface, json={"prompt": "a"})
        assert (answer.status_code, answer.json()["error_type"]) == (code, kind)
        assert "secret" not in answer.text


def test_no_model(served: Rig) -> None:
    client, table = served.client, served.table
    table.raises = NoModel("image-to-video", "no such model here")
    answer = client.post(RUN, json={"prompt": "a"})
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, "feature_not_supported")
