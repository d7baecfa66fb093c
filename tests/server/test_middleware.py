"""The middleware: routing by path prefix, the model header, failures and trusted proxies."""

from __future__ import annotations

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp
from structlog.testing import capture_logs

from server.middleware import MODEL_HEADER, ByPrefix, Forwarded, Labelled
from server.request_state import note_model


def app(name: str) -> Starlette:
    async def answer(request: Request) -> Response:
        if request.url.path.endswith("/boom"):
            raise ValueError("a prompt")
        headers = {MODEL_HEADER: "its own"} if request.url.path.endswith("/own") else {}
        return PlainTextResponse(f"{name} {request.url.path}", headers=headers)

    return Starlette(routes=[Route("/{rest:path}", answer)])


def client() -> TestClient:
    routes: list[tuple[str, ASGIApp]] = [("/v1", app("short")), ("/v1/videos", app("long")), ("/fal", app("fal"))]
    return TestClient(Labelled(ByPrefix(app("root"), routes), lambda models: "m"), raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/x", "short /v1/x"),
        ("/v1", "short /v1"),
        ("/v1/videos", "long /v1/videos"),
        ("/v1/videos/7", "long /v1/videos/7"),
        ("/v1/videosx", "short /v1/videosx"),
        ("/v10", "root /v10"),
        ("/", "root /"),
        ("/fal/a//b", "fal /fal/a//b"),
    ],
)
def test_longest_prefix_of_whole_segments(path: str, said: str) -> None:
    answer = client().get(path)
    assert (answer.text, answer.headers[MODEL_HEADER]) == (said, "m")


def test_a_response_names_the_models_of_its_jobs() -> None:
    async def answer(request: Request) -> Response:
        for name in request.query_params.getlist("job"):
            note_model(request, name)
        return Response()

    app = Starlette(routes=[Route("/", answer)])
    client = TestClient(Labelled(app, lambda models: ", ".join(sorted(models)) or "all"))
    for query, said in (("", "all"), ("?job=", "all"), ("?job=b", "b"), ("?job=b&job=a&job=b", "a, b"), ("", "all")):
        assert client.get(f"/{query}").headers[MODEL_HEADER] == said


def test_an_app_may_name_its_own_model() -> None:
    assert client().get("/v1/own").headers[MODEL_HEADER] == "its own"


def test_what_an_app_fails_to_answer() -> None:
    with capture_logs() as logged:
        answer = client().get("/v1/boom")
    assert answer.status_code == 500 and answer.headers[MODEL_HEADER] == "m"
    assert "prompt" not in answer.text and "Traceback" not in answer.text
    assert [line["error"] for line in logged] == ["ValueError"] and "prompt" not in str(logged)


def test_a_call_that_is_given_up_at_the_end() -> None:
    async def given_up(*_: object) -> None:
        raise asyncio.CancelledError

    answer = TestClient(Labelled(given_up, lambda models: "m")).get("/")
    assert (answer.status_code, answer.json()) == (503, {"detail": "The server is stopping"})


def test_even_without_error_handling_inside() -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a prompt")

    answer = TestClient(Labelled(broken, lambda models: "m")).get("/")
    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal Server Error"})
    assert answer.headers[MODEL_HEADER] == "m"


@pytest.mark.parametrize(
    ("peer", "headers", "seen"),
    [
        ("10.0.0.1", {}, ("10.0.0.1", "http://inside/x")),
        ("10.0.0.1", {"x-forwarded-host": "video.example", "x-forwarded-proto": "https"}, ("10.0.0.1", "https://video.example/x")),
        ("10.0.0.1", {"x-forwarded-for": "1.2.3.4"}, ("1.2.3.4", "http://inside/x")),
        ("10.0.0.1", {"x-forwarded-for": "6.6.6.6, 1.2.3.4, 10.0.0.2"}, ("1.2.3.4", "http://inside/x")),
        ("10.0.0.1", {"x-forwarded-host": "evil.example, video.example"}, ("10.0.0.1", "http://video.example/x")),
        ("10.0.0.1", {"x-forwarded-proto": "gopher"}, ("10.0.0.1", "http://inside/x")),
        ("10.1.0.1", {"x-forwarded-host": "evil.example", "x-forwarded-for": "1.2.3.4"}, ("10.1.0.1", "http://inside/x")),
        ("testclient", {"x-forwarded-host": "evil.example"}, ("testclient", "http://inside/x")),
    ],
)  # fmt: skip
def test_only_trusted_proxies_are_believed(peer: str, headers: dict[str, str], seen: tuple[str, str]) -> None:
    async def answer(request: Request) -> Response:
        assert request.client is not None
        return PlainTextResponse(f"{request.client.host} {request.url}")

    inner = Starlette(routes=[Route("/{rest:path}", answer)])
    client = TestClient(Forwarded(inner, "10.0.0.0/24, ::1"), base_url="http://inside", client=(peer, 1))
    assert client.get("/x", headers=headers).text == " ".join(seen)
