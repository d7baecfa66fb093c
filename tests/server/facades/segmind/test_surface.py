"""Segmind's routes, their use from browsers, and their documentation."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from server.facades.routes import RESERVED
from server.facades.segmind.models import SLUGS, ImageToVideo, TextToVideo, UploadAsset
from tests.rigs.facade_rig import Build, Rig
from tests.rigs.facades.segmind import I2V, T2V


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/v1/sdxl", 404),
        ("POST", "/v2/sdxl", 404),
        ("GET", T2V, 405),
        ("POST", "/v1/get-user-credits", 405),
        ("GET", "/v2/requests/nothing", 404),
        ("GET", "/v2/requests/nothing/status", 404),
        ("GET", "/v1/requests/%00", 404),
        ("GET", "/segmind/nowhere/at/all", 404),
        ("GET", "/upload-asset", 405),
        ("PUT", "/v2/cog-video-5b-t2v", 405),
    ],
)
def test_no_such_address(served: Rig, method: str, path: str, code: int) -> None:
    answer = served.client.request(method, path)
    assert answer.status_code == code
    assert set(answer.json()) == {"error"}


def test_reserved_words_are_no_models(served: Rig) -> None:
    client = served.client
    assert RESERVED.isdisjoint(SLUGS)
    for word in RESERVED - {"get-user-credits"}:
        for path in (f"/v1/{word}", f"/segmind/v1/{word}"):
            answer = client.post(path, json={"prompt": "a"})
            assert (answer.status_code, answer.json()) == (404, {"error": "Not found"})
    assert "Model sdxl not found" in client.post("/v1/sdxl", json={"prompt": "a"}).json()["error"]


def test_browsers(build: Build, served: Rig) -> None:
    """A page must be able to read the reason of a refusal, even if the key is missing."""
    for client in (served.client, build(keys="mine").client):
        answer = client.post(T2V, json={}, headers={"origin": "http://page"})
        assert answer.status_code in (400, 401)
        assert answer.headers["access-control-allow-origin"] == "*"
        exposed = answer.headers["access-control-expose-headers"]
        assert {"x-request-id", "x-seed-value", "x-rate-limit-reset-at-utc"} <= set(exposed.split(", "))
        asked = {"origin": "http://page", "access-control-request-method": "POST"}
        before = client.options(T2V, headers={**asked, "access-control-request-headers": "x-api-key,content-type"})
        assert before.status_code == 200
        assert "x-api-key" in before.headers["access-control-allow-headers"]


def test_schemas_are_documented(served: Rig) -> None:
    document = served.app.openapi()
    assert {"TextToVideo", "ImageToVideo", "UploadAsset"} <= set(document["components"]["schemas"])
    content = document["paths"][I2V]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    parameters = document["paths"][T2V]["post"]["parameters"]
    assert {(one["in"], one["name"]) for one in parameters} == {("query", "response"), ("header", "X-Response-Format")}
    assert not any(path.startswith("/segmind") for path in document["paths"])


@pytest.mark.parametrize("model", [TextToVideo, ImageToVideo, UploadAsset])
def test_every_field_has_two_valid_examples(model: type[BaseModel]) -> None:
    properties = model.model_json_schema()["properties"]
    usual = {name: spec["examples"][0] for name, spec in properties.items()}
    for name, spec in properties.items():
        first, second = spec["examples"]
        assert first != second
        for value in (first, second):
            model.model_validate({**usual, name: value})
