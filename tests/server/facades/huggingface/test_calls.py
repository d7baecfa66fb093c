"""Hugging Face's façade answers for both tasks, every job state and every error, without a worker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.request import GenerationRequest
from server.errors import DiskFull, NoModel, QueueFull
from server.facades.huggingface.models import MODELS, Inference, Parameters, task_of
from server.facades.kit.errors import Unavailable
from server.jobs.job import Status
from tests.rigs.facade_rig import Build, Rig, hang_up
from tests.rigs.golden import check
from tests.rigs.job_table import VIDEO, cancel, fail, hold
from tests.rigs.stand_ins import PICTURE

T2V = "/hf-inference/models/zai-org/CogVideoX-5b"
I2V = "/hf-inference/models/zai-org/CogVideoX-5b-I2V"
PNG = b"\x89PNG\r\n\x1a\n not really"


def test_text(served: Rig) -> None:
    client, table = served.client, served.table
    given = {
        "guidance_scale": 7,
        "num_frames": 16.6,
        "num_inference_steps": 20,
        "seed": 5,
        "negative_prompt": ["a", "b"],
    }
    answer = client.post(T2V, json={"inputs": "a cat", "parameters": given, "options": {"use_cache": False}})
    assert (answer.status_code, answer.content) == (200, VIDEO)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-length"] == str(len(VIDEO))
    assert answer.headers["x-request-id"] == table.last.id
    assert float(answer.headers["x-compute-time"]) >= 0
    request = table.last.request
    assert (request.prompt, request.negative_prompt, request.image) == ("a cat", "a, b", None)
    assert (request.num_frames, request.num_inference_steps, request.guidance_scale, request.seed) == (17, 20, 7, 5)
    assert table.last.memo == {"inputs": "a cat", "parameters": given}


def test_what_is_absent_is_the_models_own(served: Rig) -> None:
    client, table = served.client, served.table
    nothing = dict.fromkeys(Parameters.model_fields)
    for body in ({"inputs": "a"}, {"inputs": "a", "parameters": None}, {"inputs": "a", "parameters": nothing}):
        assert client.post(T2V, json=body).status_code == 200
        request = table.last.request
        assert request.seed is not None
        assert request == GenerationRequest(prompt="a", seed=request.seed)


def test_picture(served: Rig) -> None:
    client, table, intake = served.client, served.table, served.intake
    size = {"width": 480, "height": 320}
    given = {"prompt": "it jumps", "negative_prompt": "dark", "target_size": size, "num_frames": "9"}
    assert client.post(I2V, json={"inputs": "iVBORw0KGgo=", "parameters": given}).content == VIDEO
    assert intake.seen[-1] == ("inputs", "iVBORw0KGgo=")
    request = table.last.request
    assert request.image is not None
    assert (request.prompt, request.negative_prompt) == ("it jumps", "dark")
    assert (request.width, request.height, request.num_frames) == (480, 320, 9)
    big = "A" * 3 * 2**20
    assert client.post(I2V, json={"inputs": big}).status_code == 200
    assert intake.seen[-1] == ("inputs", big)
    assert len(json.dumps(table.last.memo)) < 1000


@pytest.mark.parametrize("kind", [None, "image/png", "application/octet-stream", "application/x-www-form-urlencoded"])
def test_bare_picture(served: Rig, kind: str | None) -> None:
    client, table, intake = served.client, served.table, served.intake
    answer = client.post(I2V, content=PNG, headers={"content-type": kind} if kind else {})
    assert answer.content == VIDEO
    assert intake.seen[-1] == ("inputs", PNG)
    assert table.last.request.prompt.strip(), "CogVideoX needs a prompt"
    assert table.last.memo == {}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\r\n  "])
def test_json_is_told_from_a_picture_by_how_it_begins(served: Rig, mark: bytes) -> None:
    client, table, intake = served.client, served.table, served.intake
    for kind in ({}, {"content-type": "text/plain"}, {"content-type": "image/png"}):
        body = json.dumps({"inputs": PICTURE, "parameters": {"prompt": "it jumps"}}).encode()
        assert client.post(I2V, content=mark + body, headers=kind).status_code == 200
        assert (intake.seen[-1], table.last.request.prompt) == (("inputs", PICTURE), "it jumps")


def test_names(served: Rig) -> None:
    client, table = served.client, served.table
    for name in MODELS:
        for owner in ("zai-org", "THUDM"):
            for written in (f"{owner}/{name}", f"{owner}/{name}".lower()):
                answer = client.post(f"/models/{written}", json={"inputs": PICTURE})
                assert answer.status_code == 200
                assert (table.last.request.image is not None) == ("I2V" in name)
                assert table.last.endpoint == written
    for written in ("zai-org/cogvideox-1.5-5b-i2v", "THUDM/CogVideoX_5b"):
        assert client.post(f"/models/{written}", json={"inputs": PICTURE}).status_code == 200
        assert (table.last.request.image is not None) == ("i2v" in written)
    for path in (f"/huggingface{T2V}", "/huggingface/models/zai-org/CogVideoX-5b", f"{T2V}/"):
        assert client.post(path, json={"inputs": "a"}).status_code == 200
    for other in ("zai-org/CogVLM", "somebody/CogVideoX-5b", "zai-org/CogVideoX-5b-I2V-x", "a/b"):
        answer = client.post(f"/models/{other}", json={"inputs": "a"})
        assert answer.status_code == 404
        assert f"Model {other} does not exist here" in answer.json()["error"]


INVALID = [
    (T2V, {}, "inputs is required"),
    (T2V, {"inputs": " "}, "inputs must not be blank"),
    (T2V, {"inputs": ["a"]}, "inputs must be a string"),
    (T2V, {"inputs": "x" * 20_001}, "inputs must be at most 20000 characters"),
    (T2V, {"inputs": "a\0"}, "inputs must be plain text"),
    (T2V, {"inputs": "a", "parameters": []}, "parameters must be an object"),
    (T2V, {"inputs": "a", "parameters": {"num_frames": 0}}, "parameters.num_frames must be at least 1, got 0"),
    (T2V, {"inputs": "a", "parameters": {"num_frames": 1e300}}, "parameters.num_frames must be at most 1000"),
    (T2V, {"inputs": "a", "parameters": {"num_frames": "many"}}, "parameters.num_frames must be a number"),
    *(
        (T2V, {"inputs": "a", "parameters": {name: True}}, f"parameters.{name} must be a number, got True")
        for name in ("num_frames", "num_inference_steps", "guidance_scale", "seed")
    ),
    (T2V, {"inputs": "a", "parameters": {"num_inference_steps": 2.5}}, "num_inference_steps must be an integer"),
    (T2V, {"inputs": "a", "parameters": {"num_inference_steps": 1001}}, "num_inference_steps must be at most 1000"),
    (
        T2V,
        {"inputs": "a", "parameters": {"guidance_scale": -1}},
        "parameters.guidance_scale must be at least 0, got -1",
    ),
    (T2V, {"inputs": "a", "parameters": {"seed": 2**63}}, "parameters.seed must be at most 9223372036854775807"),
    (T2V, {"inputs": "a", "parameters": {"seed": 10**400}}, "parameters.seed must be"),
    (T2V, {"inputs": "a", "parameters": {"negative_prompt": [1]}}, "parameters.negative_prompt must be a string"),
    (T2V, {"inputs": "a", "parameters": {"target_size": {"width": 9}}}, "target_size.width must be at least 16, got 9"),
    (T2V, [], "The body must be a JSON object"),
    (I2V, {"inputs": ""}, "inputs must not be blank"),
    (I2V, {"inputs": "https://x/y.png"}, "inputs: Nothing came from that address"),
    (I2V, {"inputs": PICTURE, "parameters": {"prompt": "\ud800"}}, "parameters.prompt must be plain text"),
]


@pytest.mark.parametrize(("path", "body", "text"), INVALID)
def test_invalid_input(served: Rig, path: str, body: Any, text: str) -> None:
    client, table = served.client, served.table
    answer = client.post(path, content=json.dumps(body))
    assert (answer.status_code, set(answer.json())) == (422, {"error"})
    assert text in answer.json()["error"]
    assert len(answer.json()["error"]) < 500
    assert not table.jobs


def test_bodies_that_are_neither(served: Rig) -> None:
    client, table = served.client, served.table
    for path, raw, text in (
        (T2V, b"", "inputs is required"),
        (T2V, PNG, "not valid JSON"),
        (T2V, b'{"inputs": NaN}', "not valid JSON"),
        (T2V, b'"a cat"', "must be a JSON object"),
        (I2V, b"", "inputs is required"),
        (I2V, b'{"inputs": ', "not valid JSON"),
        (I2V, b"big", "inputs: Too large"),
    ):
        answer = client.post(path, content=raw)
        assert (answer.status_code, set(answer.json())) == (422, {"error"})
        assert text in answer.json()["error"]
    assert not table.jobs


def test_the_ranges_are_the_engines(served: Rig) -> None:
    """The engine accepts the lowest and the highest value of every range in the schema; it plans each job at
    submission."""
    properties = Parameters.model_json_schema()["properties"]
    for name in ("num_frames", "num_inference_steps", "guidance_scale", "seed"):
        bounds = next(part for part in properties[name]["anyOf"] if "minimum" in part)
        for value in (bounds["minimum"], bounds["maximum"]):
            assert served.client.post(T2V, json={"inputs": "a", "parameters": {name: value}}).status_code == 200
    for side in (16, 4096):
        given = {"target_size": {"width": side, "height": side}}
        assert served.client.post(T2V, json={"inputs": "a", "parameters": given}).status_code == 200


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [
        ("503-queue-full", QueueFull(3), 503),
        ("503-disk-full", DiskFull("too little room on the disk"), 503),
        ("503-stopping", Unavailable("The server is stopping"), 503),
        ("404-no-model", NoModel("text-to-video", "no checkpoint for text-to-video is served here"), 404),
        ("500", RuntimeError("secret"), 500),
    ],
)
def test_turned_away(served: Rig, name: str, error: Exception, code: int) -> None:
    client, table = served.client, served.table
    table.raises = error
    answer = client.post(T2V, json={"inputs": "a"})
    assert answer.status_code == code
    check(f"huggingface/{name}", answer)


@pytest.mark.parametrize(
    ("name", "end", "code"),
    [
        ("failed", fail("out_of_memory", "the model does not fit into memory"), 500),
        ("failed-worker", fail("worker_lost", "its worker died three times"), 503),
        ("failed-picture", fail("media_error", "it is torn", "image"), 422),
        ("failed-request", fail("invalid_request", "too many", "num_frames"), 422),
        ("cancelled", cancel, 503),
    ],
)
def test_failures_of_the_engine(served: Rig, name: str, end: Any, code: int) -> None:
    client, table = served.client, served.table
    table.end = end
    answer = client.post(T2V, json={"inputs": "a"})
    assert answer.status_code == code
    assert answer.headers["x-request-id"] == table.last.id
    check(f"huggingface/{name}", answer)


def test_errors(build: Build) -> None:
    rig = build(keys="mine")
    client, table = rig.client, rig.table
    check("huggingface/401-no-key", client.post(T2V, json={"inputs": "a"}))
    check("huggingface/401-bad-key", client.post(T2V, json={"inputs": "a"}, headers={"authorization": "Bearer yours"}))
    client.headers["authorization"] = "Bearer mine"
    assert client.post(T2V, json={"inputs": "a"}).content == VIDEO
    check("huggingface/404-model", client.post("/models/zai-org/none", json={"inputs": "a"}))
    check("huggingface/404-page", client.post("/models/CogVideoX-5b", json={"inputs": "a"}))
    check("huggingface/405", client.get(T2V))
    check("huggingface/422", client.post(T2V, json={"inputs": "a", "parameters": {"seed": -1}}))
    check("huggingface/422-json", client.post(T2V, content=b"{"))
    check("huggingface/422-picture", client.post(I2V, json={"inputs": "https://x/y.png"}))
    assert len(table.jobs) == 1


def test_who_hangs_up_cancels(build: Build) -> None:
    """A client that hangs up cannot fetch the video later, so its job is cancelled."""
    rig = build()
    table = rig.table
    table.end = hold
    hang_up(rig, T2V, b'{"inputs": "a"}')
    assert table.last.status is Status.CANCELLED


def test_browsers(served: Rig) -> None:
    answer = served.client.post(T2V, json={}, headers={"origin": "http://page"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_schemas_are_documented(served: Rig) -> None:
    document = served.app.openapi()
    assert list(document["paths"]) == ["/hf-inference/models/{owner}/{name}"]
    call = document["paths"]["/hf-inference/models/{owner}/{name}"]["post"]
    assert set(call["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
    assert set(call["responses"]["200"]["content"]) == {"video/mp4"}
    assert {"Inference", "Parameters", "Size"} <= set(document["components"]["schemas"])
    examples = [parameter["schema"]["examples"] for parameter in call["parameters"]]
    assert all(task_of(owner, name) for owner, name in zip(*examples, strict=True))


@pytest.mark.parametrize("model", [Inference, Parameters])
def test_every_field_has_two_valid_examples(model: type[Inference] | type[Parameters]) -> None:
    properties = model.model_json_schema()["properties"]
    usual = {name: spec["examples"][0] for name, spec in properties.items()}
    for name, spec in properties.items():
        first, second = spec["examples"]
        assert first != second
        for value in (first, second):
            model.model_validate({**usual, name: value})
