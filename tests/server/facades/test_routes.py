"""OpenAI and Replicate share some URLs. Some tests use stub apps that return their own name; other tests use real
façades."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from server.facades import routes
from server.middleware import ByPrefix
from tests.rigs.facade_rig import Build

LISTS = {
    "openai": {"object": "list", "data": [{"id": "one"}]},
    "replicate": {"previous": None, "next": None, "results": [{"name": "two"}]},
}
KEY = {"authorization": "Bearer mine"}


def vendor(name: str, models_status: int = 200) -> ASGIApp:
    async def models(request: Request) -> JSONResponse:
        return JSONResponse(LISTS[name] if models_status == 200 else {"error": name}, models_status)

    async def whose(request: Request) -> JSONResponse:
        return JSONResponse({"whose": name, "bytes": len(await request.body()), "path": request.url.path})

    app = Starlette(
        routes=[
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/files", models, methods=["GET"]),
            Route("/v1/models", whose, methods=["QUERY"]),
            Route("/{rest:path}", whose, methods=["GET", "POST", "DELETE", "QUERY"]),
        ]
    )
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    return app


def front(*names: str, openai_status: int = 200, replicate_status: int = 200) -> TestClient:
    status = {"openai": openai_status, "replicate": replicate_status}
    apps = {name: vendor(name, status[name]) for name in names}
    return TestClient(ByPrefix(Starlette(), routes.shared(apps)))


def whose(answer: Any) -> str:
    return str(answer.json()["whose"])


@pytest.mark.parametrize("path", ["/v1/models", "/v1/files"])
def test_one_list_has_the_keys_of_both(path: str) -> None:
    answer = front("openai", "replicate").get(path, headers={"origin": "http://page"})
    assert answer.json() == {**LISTS["openai"], **LISTS["replicate"]}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"


def test_who_may_not_have_openais_list_gets_its_refusal() -> None:
    answer = front("openai", "replicate", openai_status=401).get("/v1/models")
    assert (answer.status_code, answer.json()) == (401, {"error": "openai"})


def test_openais_list_stands_without_the_other() -> None:
    assert front("openai", "replicate", replicate_status=404).get("/v1/models").json() == LISTS["openai"]


@pytest.mark.parametrize("name", ["openai", "replicate"])
def test_who_is_alone_has_all_of_them(name: str) -> None:
    client = front(name)
    assert client.get("/v1/models").json() == LISTS[name]
    assert whose(client.post("/v1/files", files={"content": b"x"})) == name
    assert whose(client.get("/v1/files/file-x")) == name


def test_nobody_has_them_where_neither_is_served() -> None:
    assert front().get("/v1/models").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/v1/models/cogvideox-5b", "openai"),
        ("GET", "/v1/models/zai-org/cogvideox-5b", "replicate"),
        ("POST", "/v1/models/zai-org/cogvideox-5b/predictions", "replicate"),
        ("GET", "/v1/models/zai-org/cogvideox-5b/versions/abc", "replicate"),
        ("GET", "/v1/files/file-abc", "openai"),
        ("DELETE", "/v1/files/file-abc", "openai"),
        ("GET", "/v1/files/abc", "replicate"),
        ("GET", "/v1/files/abc/download", "replicate"),
        ("DELETE", "/v1/files/abc", "replicate"),
    ],
)
def test_the_rest_by_path(method: str, path: str, name: str) -> None:
    answer = front("openai", "replicate").request(method, path)
    assert whose(answer) == name
    assert answer.json()["path"] == path


PAGE = b'Content-Disposition: form-data; name="content"\r\n'


@pytest.mark.parametrize(
    ("data", "files", "name"),
    [
        ({}, {"content": ("a.png", b"picture")}, "replicate"),
        ({"metadata": "{}"}, {"content": ("a.png", b"picture")}, "replicate"),
        ({}, {"type": (None, "image/png"), "content": b"picture"}, "replicate"),
        ({}, {"content": ("purpose.png", b"x" * 300_000)}, "replicate"),
        ({}, {"file": ("a.png", b"picture"), "purpose": (None, "vision")}, "openai"),
        ({"purpose": "vision"}, {"file": ("content", b"x" * 300_000)}, "openai"),
        ({"purpose": "vision"}, {"file": ("page.txt", PAGE)}, "openai"),
        ({}, {"other": (None, "x")}, "openai"),
    ],
)
def test_forms_by_their_first_part(data: dict[str, str], files: dict[str, Any], name: str) -> None:
    client = front("openai", "replicate")
    request = client.build_request("POST", "/v1/files", data=data, files=files)
    answer = client.send(request)
    assert whose(answer) == name
    assert answer.json()["bytes"] == len(request.read()), "the whole form reaches the right app"


def test_a_form_in_the_smallest_pieces() -> None:
    form = b"--x\r\ncontent-disposition: form-data; name=content\r\n\r\npicture\r\n--x--\r\n"
    answer = front("openai", "replicate").post("/v1/files", content=(bytes([byte]) for byte in form))
    assert (whose(answer), answer.json()["bytes"]) == ("replicate", len(form))


def test_what_is_no_form_is_openais() -> None:
    client = front("openai", "replicate")
    assert whose(client.post("/v1/files", json={"purpose": "vision"})) == "openai"
    assert whose(client.post("/v1/files")) == "openai"
    answer = client.post("/v1/files", content=b"y" * 200_000)
    assert (whose(answer), answer.json()["bytes"]) == ("openai", 200_000)


@pytest.fixture
def real(build: Build) -> TestClient:
    """Returns a client of the real façades of OpenAI and Replicate."""
    rig = build("openai", keys="mine")
    rig.beside("openai", "replicate")
    rig.client.headers.update(KEY)
    return rig.client


def test_the_real_lists_of_models(real: TestClient) -> None:
    body = real.get("/v1/models").json()
    assert body["object"] == "list"
    listed = {model["id"] for model in body["data"]}
    assert {one for one in listed if not one.startswith("sora-")} == {"cogvideox-5b", "cogvideox-5b-i2v"}
    assert {"sora-2", "sora-2-pro"} < listed
    assert {"previous", "next"} <= set(body)
    assert all(model["owner"] and model["name"] for model in body["results"])
    assert body["results"]
    assert real.get("/v1/models/").json() == body


def test_the_real_files(real: TestClient) -> None:
    ours = real.post("/v1/files", files={"file": ("a.png", b"red")}, data={"purpose": "vision"}).json()
    theirs = real.post("/v1/files", files={"content": ("b.png", b"blue")}).json()
    assert ours["id"].startswith("file-") and not theirs["id"].startswith("file-")
    body = real.get("/v1/files").json()
    assert [file["id"] for file in body["data"]] == [ours["id"]]
    assert [file["id"] for file in body["results"]] == [theirs["id"]]
    assert real.get(f"/v1/files/{ours['id']}").json() == ours
    assert real.get(f"/v1/files/{theirs['id']}").json() == theirs
    assert real.delete(f"/v1/files/{ours['id']}").json()["deleted"] is True
    assert real.delete(f"/v1/files/{theirs['id']}").status_code == 204
    body = real.get("/v1/files").json()
    assert (body["data"], body["results"]) == ([], [])


def test_the_real_refusals(real: TestClient) -> None:
    nobody = {"authorization": ""}
    for answer in (
        real.get("/v1/models", headers=nobody),
        real.get("/v1/files", headers=nobody),
        real.post("/v1/files", files={"file": b"x"}, headers=nobody),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert real.get("/v1/models/nothing").json()["error"]["code"] == "model_not_found"
    assert real.post("/v1/files", files={"purpose": (None, "vision")}).json()["error"]["param"] == "file"
    for answer, status in (
        (real.post("/v1/files", files={"content": b"x"}, headers=nobody), 401),
        (real.get("/v1/models/owner/name", headers=nobody), 401),
        (real.get("/v1/files/nothing"), 404),
        (real.get("/v1/models/owner/name"), 404),
    ):
        assert answer.status_code == status
        assert {"title", "status", "detail"} <= set(answer.json()), "Replicate's error format"


def test_a_name_whose_slash_is_escaped_is_openais(real: TestClient) -> None:
    assert real.get("/v1/models/zai-org%2FCogVideoX-5b").json()["id"] == "zai-org/CogVideoX-5b"
    assert real.get("/v1/models/zai-org/CogVideoX-5b").status_code == 404, "Replicate has no such model"


def test_a_search_for_models_is_replicates() -> None:
    assert whose(front("openai", "replicate").request("QUERY", "/v1/models", content="cogvideox")) == "replicate"
