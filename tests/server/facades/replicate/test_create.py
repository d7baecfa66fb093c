"""How Replicate's façade creates predictions: the input maps to the engine's request, and bad input is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.request import MAX_SEED
from server.errors import DiskFull, NoModel, QueueFull
from server.facades.replicate.models import MODELS
from tests.rigs import golden
from tests.rigs.facade_rig import Rig
from tests.rigs.facades.replicate import B5, I2V, T2V, A
from tests.rigs.stand_ins import CLIP, PICTURE


def test_defaults_are_the_models_own(served: Rig) -> None:
    client, table, intake = served.client, served.table, served.intake
    for path in (
        B5,
        "/v1/models/christophy/cogvideox/predictions",
        "/replicate/v1/models/Cuuupid/CogVideoX-5b/predictions",
    ):
        assert client.post(path, json={"input": {"prompt": "a", "steps": None}}).status_code == 201
        request = table.last.request
        assert (request.num_inference_steps, request.guidance_scale, request.seed) == (50, 6, 42)
        assert (request.num_frames, request.width, request.height, request.fps) == (49, 720, 480, 8)
        assert request.image is None
    assert client.post(T2V, json=A).status_code == 201
    request = table.last.request
    assert (request.num_inference_steps, request.guidance_scale, request.num_frames, request.fps) == (50, 6, 49, 8)
    drawn = {request.seed}
    client.post(T2V, json=A)
    assert len(drawn | {table.last.request.seed}) == 2
    assert client.post(I2V, json={"input": {"prompt": "a", "image": PICTURE}}).status_code == 201
    assert table.last.request.image is not None and intake.seen == [("image", PICTURE)]


def test_every_input_arrives(served: Rig) -> None:
    client, table = served.client, served.table
    own = {"steps": 7.0, "guidance": 7.5, "num_outputs": 1, "extend_prompt": False, "seed": 3, "image": "not looked at"}
    answer = client.post(B5, json={"input": {"prompt": "a", **own}, "stream": True})
    request = table.last.request
    assert (request.num_inference_steps, request.guidance_scale, request.seed, request.image) == (7, 7.5, 3, None)
    assert answer.json()["input"] == {"prompt": "a", **own}, "echoed unchanged, unknown fields included"
    given = {"prompt": "a", "num_inference_steps": 8, "guidance_scale": 3, "num_frames": 25, "seed": -1}
    client.post(T2V, json={"input": given})
    request = table.last.request
    assert (request.num_inference_steps, request.guidance_scale, request.num_frames) == (8, 3, 25)
    assert request.seed == MAX_SEED


def test_ways_to_name_a_version(served: Rig) -> None:
    client, table = served.client, served.table
    for model in MODELS.values():
        given = {"prompt": "a", "image": PICTURE}
        for reference in (model.version, f"{model.slug}:{model.version}", model.slug, *model.published):
            answer = client.post("/v1/predictions", json={"version": reference, "input": given}).json()
            assert (answer["model"], table.last.endpoint) == (model.slug, model.slug)
            assert answer["version"] == (reference if reference in model.published else model.version)
    assert len({model.version for model in MODELS.values()}) == 4
    assert all(len(model.version) == 64 and int(model.version, 16) for model in MODELS.values())
    for unknown in ("0" * 64, "cuuupid/cogvideox-5b:" + "0" * 64, "someone/else", "cuuupid/cogvideox-5b:", "", "a\0"):
        answer = client.post("/v1/predictions", json={"version": unknown, **A})
        assert answer.status_code == 422
        assert answer.json()["title"] in ("Invalid version or not permitted", "Input validation failed")
    theirs = MODELS["thudm/cogvideox-t2v"].version
    assert client.post("/v1/predictions", json={"version": f"cuuupid/cogvideox-5b:{theirs}", **A}).status_code == 422
    golden.check("replicate/unknown_version", client.post("/v1/predictions", json={"version": "0" * 64, **A}))


def test_any_deployment_is_there(served: Rig) -> None:
    client, table = served.client, served.table
    wanted = [
        ("thudm/cogvideox-t2v", {"prompt": "a"}, "thudm/cogvideox-t2v"),
        ("acme/films", {"prompt": "a", "steps": 9}, "cuuupid/cogvideox-5b"),
        ("acme/films", {"prompt": "a", "num_inference_steps": 9}, "thudm/cogvideox-t2v"),
        ("acme/films", {"prompt": "a", "image": PICTURE}, "thudm/cogvideox-i2v"),
    ]
    for name, given, model in wanted:
        answer = client.post(f"/v1/deployments/{name}/predictions", json={"input": given})
        assert (answer.status_code, answer.json()["deployment"], answer.json()["model"]) == (201, name, model)
        assert table.last.endpoint == model
    for body in ({}, {"input": []}, {"input": {"steps": 5}}):
        assert client.post("/v1/deployments/acme/films/predictions", json=body).status_code == 422


INVALID: list[tuple[Any, str, str, str]] = [
    ({}, "", "required", "input is required"),
    ([], "", "invalid_type", "Expected: object, given: array"),
    ({"input": 5}, "input", "invalid_type", "Expected: object, given: integer"),
    ({"input": {}}, "input", "required", "prompt is required"),
    ({"input": {"prompt": None}}, "input", "required", "prompt is required"),
    ({"input": {"prompt": 5}}, "input.prompt", "invalid_type", "Expected: string, given: integer"),
    ({"input": {"prompt": ""}}, "input.prompt", "string_gte", "at least 1"),
    ({"input": {"prompt": "  "}}, "input.prompt", "invalid", "must not be empty"),
    ({"input": {"prompt": "x" * 20_001}}, "input.prompt", "string_lte", "at most 20000"),
    ({"input": {"prompt": "a\0"}}, "input.prompt", "format", "plain text"),
    ({"input": {"prompt": "\ud800"}}, "input.prompt", "format", "plain text"),
    ({"input": {"prompt": "a", "steps": 0}}, "input.steps", "number_gte", "1 (the range is 1 to 120)"),
    ({"input": {"prompt": "a", "steps": 121}}, "input.steps", "number_lte", "120 (the range is 1 to 120)"),
    ({"input": {"prompt": "a", "steps": "50"}}, "input.steps", "invalid_type", "Expected: integer, given: string"),
    ({"input": {"prompt": "a", "steps": 1.5}}, "input.steps", "invalid_type", "Expected: integer, given: number"),
    ({"input": {"prompt": "a", "steps": True}}, "input.steps", "invalid_type", "Expected: integer, given: boolean"),
    ({"input": {"prompt": "a", "guidance": -1}}, "input.guidance", "number_gte", "0 (the range is 0 to 12)"),
    ({"input": {"prompt": "a", "guidance": 12.1}}, "input.guidance", "number_lte", "12 (the range is 0 to 12)"),
    ({"input": {"prompt": "a", "guidance": 10**400}}, "input.guidance", "", ""),
    ({"input": {"prompt": "a", "guidance": []}}, "input.guidance", "invalid_type", "Expected: number, given: array"),
    ({"input": {"prompt": "a", "num_outputs": 2}}, "input.num_outputs", "number_lte", "less than or equal to 1"),
    ({"input": {"prompt": "a", "seed": 2**63}}, "input.seed", "number_lte", "9223372036854775807"),
    ({"input": {"prompt": "a", "seed": 10**400}}, "input.seed", "number_lte", "9223372036854775807"),
    ({"input": {"prompt": "a", "extend_prompt": "no"}}, "input.extend_prompt", "invalid_type", "Expected: boolean"),
    ({**A, "webhook": "ftp://x/y"}, "webhook", "format", "http(s) URL"),
    ({**A, "webhook": "http://"}, "webhook", "format", "http(s) URL"),
    ({**A, "webhook": "http://x:99999/"}, "webhook", "format", "http(s) URL"),
    ({**A, "webhook": 5}, "webhook", "invalid_type", "Expected: string"),
    ({**A, "webhook_completed": "nonsense"}, "webhook_completed", "format", "http(s) URL"),
    (
        {**A, "webhook_events_filter": ["end"]},
        "webhook_events_filter.0",
        "enum",
        "webhook_events_filter must be one of",
    ),
    ({**A, "webhook_events_filter": "start"}, "webhook_events_filter", "invalid_type", "Expected: array"),
    ({**A, "stream": "yes"}, "stream", "invalid_type", "Expected: boolean"),
]


@pytest.mark.parametrize(("body", "field", "kind", "text"), INVALID)
def test_invalid_input(served: Rig, body: Any, field: str, kind: str, text: str) -> None:
    client, table = served.client, served.table
    answer = client.post(B5, content=json.dumps(body))
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["title"]) == (422, 422, "Input validation failed")
    assert answer.headers["content-type"] == "application/problem+json"
    (wrong,) = problem["invalid_fields"]
    assert wrong["field"] == field and kind in wrong["type"] and text in wrong["description"]
    assert wrong["description"] in problem["detail"] and len(answer.text) < 1000
    assert not table.jobs


def test_invalid_input_of_the_others(served: Rig) -> None:
    client, table = served.client, served.table
    for path, name, value, text in (
        (T2V, "num_inference_steps", 501, "the range is 1 to 500"),
        (T2V, "guidance_scale", 0.5, "the range is 1 to 20"),
        (T2V, "num_frames", 0, "the range is 1 to 1000"),
        (T2V, "num_frames", 1001, "the range is 1 to 1000"),
        (I2V, "image", 5, "Expected: string, given: integer"),
        (I2V, "image", "https://x/y.png", "Nothing came from that address"),
        (I2V, "image", "a\0", "plain text"),
    ):
        answer = client.post(path, json={"input": {"prompt": "a", "image": PICTURE, name: value}})
        (wrong,) = answer.json()["invalid_fields"]
        assert (answer.status_code, wrong["field"]) == (422, f"input.{name}")
        assert text in wrong["description"]
    golden.check("replicate/no_image", client.post(I2V, json=A))
    both = client.post(B5, json={"input": {"steps": 500, "guidance": "much"}})
    golden.check("replicate/invalid_input", both)
    assert not table.jobs


@pytest.mark.parametrize("raw", [b"{", b"\xff", b'{"input": NaN}', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_broken_json(served: Rig, raw: bytes) -> None:
    answer = served.client.post(B5, content=raw)
    assert (answer.status_code, answer.json()["title"]) == (400, "Bad request")
    assert "not valid JSON" in answer.json()["detail"]


def test_json_by_any_content_type(served: Rig) -> None:
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
        answer = served.client.post(B5, content=json.dumps(A), headers={"content-type": kind})
        assert answer.status_code == 201


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (QueueFull(3), 429, "3 jobs are waiting"),
        (DiskFull("no room"), 503, "no room"),
        (NoModel("text-to-video", "no such model here"), 404, "no such model here"),
        (RuntimeError("secret"), 500, "log"),
    ],
)
def test_turned_away(served: Rig, error: Exception, code: int, text: str) -> None:
    client, table = served.client, served.table
    table.raises = error
    answer = client.post(B5, json=A)
    assert (answer.status_code, answer.json()["status"]) == (code, code)
    assert text in answer.json()["detail"] and "secret" not in answer.text
    assert ("retry-after" in answer.headers) == (code in (429, 503))
    if code == 429:
        golden.check("replicate/queue_full", answer)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/v1/models/someone/else/predictions", 404),
        ("GET", "/v1/models/someone/else", 404),
        ("GET", "/v1/models/someone/else/versions", 404),
        ("GET", f"/v1/models/cuuupid/cogvideox-5b/versions/{'0' * 64}", 404),
        ("GET", "/v1/predictions/nothing", 404),
        ("GET", "/v1/predictions/%00", 404),
        ("GET", f"/v1/predictions/{'a' * 26}", 404),
        ("GET", f"/v1/predictions/{'7' * 26}", 404),
        ("POST", f"/v1/predictions/{'a' * 26}/cancel", 404),
        ("GET", f"/v1/predictions?cursor=older.{'a' * 26}", 404),
        ("GET", "/v1/predictions?cursor=x", 400),
        ("GET", f"/v1/predictions/{'a' * 26}/stream/{'0' * 64}", 404),
        ("GET", f"/v1/predictions/{'a' * 26}/web/{'0' * 64}", 404),
        ("GET", "/v1/trainings/x", 404),
        ("POST", "/v1/trainings", 405),
        ("POST", "/v1/deployments", 405),
        ("DELETE", "/v1/models/cuuupid/cogvideox-5b", 405),
        ("GET", "/v1/collections/x", 404),
        ("GET", "/v1/files/x", 404),
        ("DELETE", "/v1/files/..%2Fx", 404),
        ("GET", "/replicate", 404),
        ("GET", B5, 405),
    ],
)
def test_no_such_address(served: Rig, method: str, path: str, code: int) -> None:
    answer = served.client.request(method, path)
    assert (answer.status_code, answer.json()["status"]) == (code, code)
    assert set(answer.json()) == {"type", "title", "status", "detail"}
    assert answer.headers["content-type"] == "application/problem+json"


def test_pictures_are_not_echoed_whole(served: Rig) -> None:
    client, table = served.client, served.table
    big = CLIP + "A" * 100_000
    answer = client.post(I2V, json={"input": {"prompt": "a", "image": big}}).json()
    assert len(answer["input"]["image"]) < 200 and "characters" in answer["input"]["image"]
    many = {f"own{n}": n for n in range(5000)}
    client.post(B5, json={"input": {"prompt": "a", **many}})
    assert len(json.dumps(table.last.memo)) < 5000
