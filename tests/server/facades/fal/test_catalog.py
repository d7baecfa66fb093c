"""fal's catalogue agrees with the API; fal's tools read the catalogue before they call a model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator

from server.facades.fal.models import ENDPOINTS
from server.facades.registry import FACADES
from tests.rigs.facade_rig import HERE, Build, Rig

IDS = list(ENDPOINTS)


@pytest.fixture
def served(build: Build) -> Rig:
    """A server with every cloud's API at its usual path and with API keys; only the catalogue needs no key."""
    rig = build(keys="id:secret")
    rig.beside(*FACADES)
    return rig


def got(served: Rig, path: str, **query: Any) -> Any:
    answer = served.client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(body: Any) -> list[str]:
    return [model["endpoint_id"] for model in body["models"]]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "cogvideox"}, IDS),
        ({"q": "CogVideoX image"}, IDS[1:2]),
        ({"q": "flux"}, []),
        ({"category": "text-to-video"}, IDS[:1]),
        ({"category": "text-to-image"}, []),
        ({"status": "active", "category": "video-to-video"}, IDS[2:]),
        ({"status": "deprecated"}, []),
        ({"endpoint_id": IDS[2]}, IDS[2:]),
        ({"endpoint_id": [IDS[2], IDS[0]]}, [IDS[2], IDS[0]]),
        ({"endpoint_id": f"{IDS[2]},{IDS[0]}"}, [IDS[2], IDS[0]]),
        ({"limit": 100}, IDS),
    ],
)
def test_search(served: Rig, query: dict[str, Any], found: list[str]) -> None:
    body = got(served, "/v1/models", **query)
    assert (ids(body), body["has_more"], body["next_cursor"]) == (found, False, None)
    for model in body["models"]:
        about = model["metadata"]
        assert (about["category"], about["status"]) == (ENDPOINTS[model["endpoint_id"]].task.value, "active")
        assert about["display_name"] and about["description"] and about["updated_at"]
        assert "openapi" not in model


def test_pages(served: Rig) -> None:
    seen, query = [], {"limit": 1}
    while True:
        body = got(served, "/v1/models", **query)
        seen += ids(body)
        if not body["has_more"]:
            break
        query["cursor"] = body["next_cursor"]
    assert seen == IDS
    assert body["next_cursor"] is None


def test_whose_list_it_is(served: Rig) -> None:
    client = served.client
    bearer, key = {"authorization": "Bearer id:secret"}, {"authorization": "Key id:secret"}
    assert set(client.get("/v1/models", headers=bearer).json()) == {"object", "data", "previous", "next", "results"}
    assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models?limit=1000", headers=bearer).json()["object"] == "list"
    for answer in (
        client.get("/v1/models", headers=key),
        client.get("/v1/models", headers={"host": "api.fal.ai"}),
        client.get("/v1/models?limit=3"),
        client.get("/v1/models?limit=3&q=cogvideox", headers=bearer),
        client.get("/fal/v1/models"),
        client.get("/fal/proxy", headers={"x-fal-target-url": "https://api.fal.ai/v1/models?q=cogvideox"}),
    ):
        assert ids(answer.json()) == IDS
    assert client.get("/v1/models/cogvideox-5b", headers=bearer).json()["object"] == "model"
    assert client.request("QUERY", "/v1/models", content="cogvideox", headers=bearer).json()["results"]


def test_an_unknown_app(served: Rig) -> None:
    body = got(served, "/v1/models", endpoint_id=["fal-ai/flux/dev", IDS[0]], expand="openapi-3.0")
    assert (ids(body), "metadata" in body["models"][0]) == (["fal-ai/flux/dev", IDS[0]], False)
    assert body["models"][0]["openapi"]["error"]["code"] == "expansion_failed"
    for path in ("/v1/models/pricing", "/api/openapi/queue/openapi.json"):
        missing = served.client.get(path, params={"endpoint_id": "fal-ai/flux/dev"})
        assert (missing.status_code, IDS[0] in missing.json()["detail"]) == (404, True)
    assert served.client.get("/models/fal-ai/flux/dev/llms.txt").status_code == 404
    assert served.client.get("/run/fal-ai/flux/dev/schema").status_code == 404


def test_prices(served: Rig) -> None:
    for query in ({}, {"endpoint_id": IDS}):
        body = got(served, "/v1/models/pricing", **query)
        assert [price["endpoint_id"] for price in body["prices"]] == IDS
        assert {(price["unit_price"], price["currency"]) for price in body["prices"]} == {(0, "USD")}
    wanted = {"estimate_type": "unit_price", "endpoints": {IDS[0]: {"unit_quantity": 50}}}
    assert served.client.post("/v1/models/pricing/estimate", json=wanted).json()["total_cost"] == 0
    assert served.client.post("/v1/models/pricing/estimate", json=[]).status_code == 400


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"limit": "0"}, "limit must be a whole number from 1 to 100, got 0"),
        ({"limit": "many"}, "limit must be"),
        ({"limit": "101"}, "limit must be"),
        ({"q": "a", "cursor": "-1"}, "cursor must be"),
        ({"expand": "everything"}, "expand must be openapi-3.0 or enterprise_status, got everything"),
        ({"status": "new"}, "status must be active or deprecated"),
        ({"endpoint_id": [f"a/{n}" for n in range(51)]}, "at most 50"),
    ],
)
def test_bad_searches(served: Rig, query: dict[str, Any], said: str) -> None:
    answer = served.client.get("/v1/models", params=query)
    assert (answer.status_code, said in answer.json()["detail"]) == (400, True), answer.text


def without_examples(value: Any) -> Any:
    """Removes `examples` from the schemas; fal uses this keyword, but OpenAPI 3.0 does not allow it in a schema."""
    if isinstance(value, dict):
        return {name: without_examples(part) for name, part in value.items() if name != "examples"}
    return [without_examples(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("endpoint_id", IDS)
def test_one_document_at_every_address(served: Rig, endpoint_id: str) -> None:
    document = got(served, "/api/openapi/queue/openapi.json", endpoint_id=endpoint_id)
    OpenAPIV30SpecValidator(without_examples(document)).validate()
    assert document["servers"] == [{"url": f"{HERE}/queue"}]
    assert document["info"]["x-fal-metadata"]["endpointId"] == endpoint_id
    for path in (f"/run/{endpoint_id}/schema", f"/queue/{endpoint_id}/schema", f"/models/{endpoint_id}/schema"):
        assert got(served, path) == document
    assert got(served, f"/{endpoint_id}/schema") == document
    (model,) = got(served, "/v1/models", endpoint_id=endpoint_id, expand="openapi-3.0")["models"]
    assert model["openapi"] == document


def input_of(document: dict[str, Any], endpoint_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Finds the input's schema in the same way as fal's tools do; returns this schema and all schemas."""
    schemas = document["components"]["schemas"]
    body = document["paths"][f"/{endpoint_id}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return schemas[body["$ref"].rpartition("/")[2]], schemas


@pytest.mark.parametrize("endpoint_id", IDS)
def test_ranges_and_defaults_are_the_real_ones(served: Rig, endpoint_id: str) -> None:
    client, table = served.client, served.table
    document = got(served, "/api/openapi/queue/openapi.json", endpoint_id=endpoint_id)
    schema, schemas = input_of(document, endpoint_id)
    assert set(schema["properties"]) == set(ENDPOINTS[endpoint_id].input.model_fields)
    assert schema["x-fal-order-properties"] == list(schema["properties"])
    needed = {name: schema["properties"][name]["examples"][0] for name in schema["required"]}
    assert "prompt" in needed

    def status(**fields: Any) -> int:
        headers = {"authorization": "Key id:secret"}
        return client.post(f"/run/{endpoint_id}", json={**needed, **fields}, headers=headers).status_code

    assert status() == 200
    plain = table.last.request
    defaults = {name: spec["default"] for name, spec in schema["properties"].items() if "default" in spec}
    assert defaults["num_inference_steps"] == plain.num_inference_steps == 50
    assert defaults["video_size"] == {"width": plain.width, "height": plain.height}
    assert (defaults["guidance_scale"], defaults["export_fps"]) == (plain.guidance_scale, plain.fps)
    del defaults["use_rife"]  # this rig cannot interpolate frames
    assert status(**defaults) == 200
    checked = 0
    for name, spec in schema["properties"].items():
        for bound, beyond in (("minimum", -1), ("maximum", 1)):
            if bound in spec:
                checked += 1
                assert status(**{name: spec[bound]}) == 200, (name, bound)
                assert status(**{name: spec[bound] + beyond}) == 422, (name, bound)
    assert checked >= 8
    size = schemas["ImageSize"]["properties"]
    for low, high in [(size["width"]["minimum"], size["width"]["maximum"])]:
        assert status(video_size={"width": low, "height": high}) == 200
        assert status(video_size={"width": low - 1, "height": high}) == 422
        assert status(video_size={"width": low, "height": high + 1}) == 422
    words = schema["properties"]["video_size"]["anyOf"][1]["enum"]
    assert {status(video_size=word) for word in words} == {200}
    most = schema["properties"]["loras"]["maxItems"]
    assert status(loras=[{"path": "style"}] * most) == 200
    assert status(loras=[{"path": "style"}] * (most + 1)) == 422
    assert status(prompt="") == 422


@pytest.mark.parametrize("endpoint_id", IDS)
def test_a_page_for_language_models(served: Rig, endpoint_id: str) -> None:
    answer = served.client.get(f"/models/{endpoint_id}/llms.txt")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    text = answer.text
    for name in ENDPOINTS[endpoint_id].input.model_fields:
        assert f"- **`{name}`** (" in text
    assert f"{HERE}/run/{endpoint_id}" in text
    assert "Range: 1 to 50" in text and "Default: 16" in text and "square_hd" in text
    sent = json.loads(text.split("--data '")[1].split("'")[0])
    assert set(sent) >= {"prompt"}
    assert len(text) < 8000


def test_other_clouds_without_fal(served: Rig) -> None:
    key = {"authorization": "Bearer id:secret"}
    served.beside("openai", "replicate")
    assert served.client.get("/v1/models?limit=2", headers=key).json()["object"] == "list"


def test_fal_without_other_clouds(served: Rig) -> None:
    served.beside("fal")
    assert ids(served.client.get("/v1/models").json()) == IDS
