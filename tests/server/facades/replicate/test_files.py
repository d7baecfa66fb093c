"""Replicate's files, stored in a real folder, and the answers about models, deployments and the account."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from server.facades.replicate import files
from server.facades.replicate.models import MODELS
from tests.rigs import golden
from tests.rigs.facade_rig import Build, Clock, Rig

PNG = b"\x89PNG\r\n\x1a\n and no more"
FILES = "/v1/files"


@pytest.fixture
def clock() -> Clock:
    return Clock(1_700_000_000.0)


@pytest.fixture
def served(build: Build, clock: Clock) -> Rig:
    rig = build(keys="mine,yours", clock=clock)
    rig.client.headers["authorization"] = "Bearer mine"
    return rig


def upload(client: TestClient, **more: Any) -> Any:
    return client.post(FILES, files={"content": ("red circle.png", PNG, "image/png")}, **more)


def check(name: str, answer: Any, file_id: str) -> None:
    golden.check(f"replicate/{name}", answer, replace={file_id: "<id>"})


def test_upload(served: Rig) -> None:
    client, artifacts = served.client, served.context.artifacts
    answer = upload(client, data={"metadata": json.dumps({"by": "me"})})
    file = answer.json()
    check("file", answer, file["id"])
    assert file["checksums"]["sha256"] == hashlib.sha256(PNG).hexdigest()
    stored = artifacts.of_url(file["urls"]["get"])
    assert stored is not None and artifacts.read(stored) == PNG
    assert client.get(f"{FILES}/{file['id']}").json() == file
    assert client.get(f"/replicate{FILES}").json() == {"previous": None, "next": None, "results": [file]}
    gone = client.delete(f"{FILES}/{file['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert artifacts.of_url(file["urls"]["get"]) is None
    check("unknown_file", client.get(f"{FILES}/{file['id']}"), file["id"])
    assert client.delete(f"{FILES}/{file['id']}").status_code == 404
    assert client.get(FILES).json()["results"] == []


def test_metadata_as_a_part_of_json(served: Rig) -> None:
    """The JavaScript client sends the metadata as a form part of type JSON."""
    client = served.client
    parts = {"content": ("blob", PNG, ""), "metadata": ("blob", b'{"a": [1]}', "application/json")}
    file = client.post(FILES, files=parts).json()
    assert (file["metadata"], file["name"], file["content_type"]) == ({"a": [1]}, "blob", "application/octet-stream")
    assert upload(client).json()["metadata"] == {}
    named = upload(client, data={"filename": "b.jpg", "type": "image/jpeg"}).json()
    assert (named["name"], named["content_type"]) == ("b.jpg", "image/jpeg")
    assert named["urls"]["get"].endswith("/b.jpg")


def test_files_are_their_owners(served: Rig) -> None:
    client = served.client
    file = upload(client).json()
    theirs = {"authorization": "Bearer yours"}
    assert client.get(f"{FILES}/{file['id']}", headers=theirs).status_code == 404
    assert client.delete(f"{FILES}/{file['id']}", headers=theirs).status_code == 404
    assert client.get(FILES, headers=theirs).json()["results"] == []
    assert client.get(f"{FILES}/{file['id']}").status_code == 200
    assert client.post(FILES, headers={"authorization": ""}).status_code == 401


def test_lists_of_one_key_take_turns(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAGE_WAIT", 0.01)
    rig = build(keys="mine,yours")
    context = rig.context
    client = rig.client
    mine, theirs = ({"authorization": f"Bearer {key}"} for key in ("mine", "yours"))
    with context.jobs.pages.held(owner := context.keys.identify(mine)), context.jobs.pages.held(owner):
        assert client.get(FILES, headers=mine).status_code == 429
        assert client.get(FILES, headers=theirs).status_code == 200
    assert client.get(FILES, headers=mine).status_code == 200


def test_files_last_a_day(served: Rig, clock: Clock) -> None:
    client, artifacts = served.client, served.context.artifacts
    file = upload(client).json()
    assert file["expires_at"] == "2023-11-15T22:13:20.000000Z"
    clock.advance(24 * 3600 - 1)
    assert client.get(f"{FILES}/{file['id']}").status_code == 200
    clock.advance(1)
    assert client.get(f"{FILES}/{file['id']}").status_code == 404
    assert client.get(FILES).json()["results"] == []
    assert artifacts.sweep() == 1


@pytest.mark.parametrize(
    ("parts", "field", "text"),
    [
        ({"file": ("a.png", PNG)}, "", "content is required"),
        ({"content": (None, "text")}, "", "content is required"),
        ({"content": ("a", PNG), "metadata": (None, "[1]")}, "metadata", "Expected: object, given: array"),
        ({"content": ("a", PNG), "metadata": (None, '"' + "x" * 70_000 + '"')}, "metadata", "65536 bytes"),
    ],
)
def test_bad_uploads(served: Rig, parts: Any, field: str, text: str) -> None:
    client = served.client
    answer = client.post(FILES, files=parts)
    (wrong,) = answer.json()["invalid_fields"]
    assert (answer.status_code, wrong["field"]) == (422, field) and text in wrong["description"]
    assert client.get(FILES).json()["results"] == []


def test_broken_uploads(served: Rig) -> None:
    client = served.client
    parts = {"content": ("a", PNG), "metadata": (None, "{")}
    assert client.post(FILES, files=parts).status_code == 400
    assert client.post(FILES, json={"content": "x"}).status_code == 422
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        broken = client.post(FILES, content=b"--x\r\nnot a part", headers={"content-type": kind})
        assert (broken.status_code, broken.json()["status"]) == (400, 400)
    large = client.post(FILES, content=b"", headers={"content-length": str(2**40), "content-type": "multipart/x"})
    assert (large.status_code, large.json()["title"]) == (413, "Content too large")


def test_models(served: Rig) -> None:
    client = served.client
    listed = client.get("/v1/models").json()
    assert [f"{one['owner']}/{one['name']}" for one in listed["results"]] == list(MODELS)
    golden.check("replicate/model", client.get("/v1/models/cuuupid/cogvideox-5b"))
    golden.check("replicate/image_model", client.get("/replicate/v1/models/thudm/cogvideox-i2v"))
    for slug, model in MODELS.items():
        about = client.get(f"/v1/models/{slug}").json()
        versions = client.get(f"/v1/models/{slug}/versions").json()
        assert versions == {"previous": None, "next": None, "results": [about["latest_version"]]}
        assert client.get(f"/v1/models/{slug}/versions/{model.version}").json() == about["latest_version"]
        for published in model.published:
            found = client.get(f"/v1/models/{slug}/versions/{published}").json()
            assert found == {**about["latest_version"], "id": published}
        schemas = about["latest_version"]["openapi_schema"]["components"]["schemas"]
        assert schemas["Output"] == {"type": "string", "title": "Output", "format": "uri"}
        assert set(schemas["Input"]["properties"]) == set(model.input.model_fields)
        assert all("type" in spec for spec in schemas["Input"]["properties"].values())
    golden.check("replicate/unknown_model", client.get("/v1/models/someone/else"))


def test_search(served: Rig) -> None:
    client = served.client
    for query, found in (("image to video", ["cogvideox-i2v"]), ("cogvideox", None), ("sdxl", [])):
        answer = client.request("QUERY", "/v1/models", content=query, headers={"content-type": "text/plain"})
        names = [one["name"] for one in answer.json()["results"]]
        assert names == (found if found is not None else [model.name for model in MODELS.values()])


def test_the_rest(served: Rig) -> None:
    client = served.client
    golden.check("replicate/deployment", client.get("/v1/deployments/acme/films"))
    assert len(client.get("/v1/deployments").json()["results"]) == 4
    own = client.get("/v1/deployments/thudm/cogvideox-i2v").json()["current_release"]
    assert (own["model"], own["version"]) == ("thudm/cogvideox-i2v", MODELS["thudm/cogvideox-i2v"].version)
    golden.check("replicate/account", client.get("/v1/account"))
    golden.check("replicate/hardware", client.get("/v1/hardware"))
    golden.check("replicate/collections", client.get("/v1/collections"))
    assert len(client.get("/v1/collections/text-to-video").json()["models"]) == 4
    assert client.get("/v1/trainings").json() == {"previous": None, "next": None, "results": []}


def test_the_document(served: Rig) -> None:
    document = served.app.openapi()
    for path, schema in (
        ("/v1/predictions", "VersionRequest"),
        ("/v1/models/cuuupid/cogvideox-5b/predictions", "CogVideoX5bRequest"),
        ("/v1/models/thudm/cogvideox-t2v/predictions", "CogVideoXTextRequest"),
        ("/v1/models/thudm/cogvideox-i2v/predictions", "CogVideoXImageRequest"),
        ("/v1/deployments/{owner}/{name}/predictions", "DeploymentRequest"),
    ):
        call = document["paths"][path]["post"]
        content = call["requestBody"]["content"]["application/json"]
        assert content["schema"]["$ref"] == f"#/components/schemas/{schema}"
        assert {"Prefer", "Cancel-After"} <= {one["name"] for one in call["parameters"]}
    own = set(document["components"]["schemas"]) - {"HTTPValidationError", "ValidationError"}  # from FastAPI
    for name, schema in document["components"]["schemas"].items():
        for field, spec in schema["properties"].items() if name in own else ():
            first, second = spec["examples"]
            assert first != second, f"{name}.{field}"
    assert not any(path.startswith("/v1/files") or path == "/v1/models" for path in document["paths"])
    refs = set(json.dumps(document).split('"#/components/schemas/')[1:])
    assert {ref.partition('"')[0] for ref in refs} <= set(document["components"]["schemas"])
