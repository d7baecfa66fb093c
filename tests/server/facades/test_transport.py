"""HTTP features of every API: HEAD, byte ranges, event streams, cross-origin pages, and path prefixes of a proxy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.rigs.house import app, ended, house_of
from tests.rigs.live import API, CALLS, asking, exchange, upload_address

# -- files and HEAD ---------------------------------------------------------------------------------------------------


def test_openais_video_is_sent_as_a_file(made: FastAPI, client: TestClient) -> None:
    made_by = client.post("/v1/videos", json={"prompt": "steps=1 bytes=5000"}).json()["id"]
    house = house_of(made)
    job = ended(house, house.context.jobs.page("openai", "", 1)[0])
    path = f"/v1/videos/{made_by}/content"
    whole = client.get(path)
    assert (whole.status_code, len(whole.content), whole.headers["accept-ranges"]) == (200, 5000, "bytes")
    head = client.head(path)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "5000")
    part = client.get(path, headers={"range": "bytes=-10"})
    assert (part.status_code, part.content) == (206, whole.content[-10:])
    assert part.headers["content-range"] == "bytes 4990-4999/5000"
    assert client.get(path, headers={"range": "bytes=5000-"}).headers["content-range"] == "bytes */5000"
    assert client.get(path, headers={"if-none-match": f'W/{whole.headers["etag"]}, "b"'}).status_code == 304
    thumbnail = client.get(f"{path}?variant=thumbnail", headers={"range": "bytes=0-1"})
    assert (thumbnail.status_code, thumbnail.headers["content-type"]) == (206, "image/jpeg")
    assert job.video is not None
    house.context.artifacts.remove(job.video)
    gone = client.get(path)
    assert gone.status_code == 404 and gone.json()["error"]["code"] == "not_found"


def test_head_wherever_there_is_get(made: FastAPI, client: TestClient) -> None:
    video = client.post("/v1/videos", json={"prompt": "steps=1"}).json()["id"]
    fal = client.post("/queue/fal-ai/cogvideox-5b", json={"prompt": "steps=1"}).json()
    replicate = client.post("/v1/models/cuuupid/cogvideox-5b/predictions", json={"input": {"prompt": "steps=1"}}).json()
    house = house_of(made)
    for name in ("openai", "fal", "replicate"):
        ended(house, house.context.jobs.page(name, "", 1)[0])
    paths = [
        *("/", "/health", "/health/live", "/health/ready", "/docs", "/openapi.json", "/v1/models", "/v1/videos"),
        *(f"/v1/videos/{video}", "/v1/files", "/replicate/v1/files", "/v1/account", "/v1/get-user-credits"),
        *(fal["status_url"], fal["response_url"], f"{fal['status_url']}/stream", "/.well-known/jwks.json"),
        *(replicate["urls"]["get"], replicate["urls"]["stream"], "/v1/predictions", "/nowhere", "/v1/videos/nowhere"),
    ]
    for path in paths:
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers.get("content-type") == get.headers.get("content-type"), path
    assert client.head("/run/fal-ai/cogvideox-5b?prompt=a").status_code == 405, "the GET would create a video"


def test_an_unknown_unit_is_no_range(made: FastAPI, client: TestClient) -> None:
    file = house_of(made).context.artifacts.put("a.mp4", "video/mp4", bytes(100))
    answer = client.get(f"/files/{file.key}/a.mp4", headers={"range": "seconds=1-2"})
    assert (answer.status_code, len(answer.content)) == (200, 100)


# -- event streams ----------------------------------------------------------------------------------------------------


def streams(client: TestClient) -> list[str]:
    fal = client.post("/queue/fal-ai/cogvideox-5b", json={"prompt": "steps=1"}).json()
    made = client.post("/v1/models/cuuupid/cogvideox-5b/predictions", json={"input": {"prompt": "steps=1"}}).json()
    return [f"{fal['status_url']}/stream", made["urls"]["stream"]]


def test_no_proxy_keeps_a_stream_back(client: TestClient) -> None:
    for address in streams(client):
        headers = client.get(address).headers
        assert headers["x-accel-buffering"] == "no" and "no-cache" in headers["cache-control"]
        assert headers["content-type"].startswith("text/event-stream")


def test_a_stream_over_http_1_0_ends_with_its_connection(client: TestClient, port: int) -> None:
    for address in streams(client):
        path = address.partition("testserver")[2]
        head, body = exchange(port, f"GET {path} HTTP/1.0\r\nHost: a\r\n\r\n".encode())
        assert b"transfer-encoding" not in head and b"connection: close" in head
        assert body.startswith((b"data: ", b"event: ")) and body.endswith(b"\n\n")
        head, body = exchange(port, f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert b"transfer-encoding: chunked" in head and body.endswith(b"0\r\n\r\n")


# -- cross-origin pages -----------------------------------------------------------------------------------------------

PAGE = {"origin": "https://studio.example"}


@pytest.mark.parametrize(
    "path", ["/", "/health", "/docs", "/files/x/y.mp4", "/nowhere", *(p for p, _ in CALLS.values())]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "QUERY"])
def test_a_preflight_is_granted_everywhere(client: TestClient, path: str, method: str) -> None:
    names = "authorization,x-api-key,x-fal-queue-priority"
    asked = {**PAGE, "access-control-request-method": method, "access-control-request-headers": names}
    plain = client.options(path, headers=asked)
    assert plain.status_code == 200 and "access-control-allow-private-network" not in plain.headers
    answer = client.options(path, headers={**asked, "access-control-request-private-network": "true"})
    assert answer.status_code == 200 and answer.headers["access-control-allow-private-network"] == "true"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert method in answer.headers["access-control-allow-methods"].split(", ")
    assert answer.headers["access-control-allow-headers"] == names


def test_a_page_may_read_every_answer(client: TestClient, made: FastAPI) -> None:
    file = house_of(made).context.artifacts.put("a.mp4", "video/mp4", bytes(100))
    own = [client.get(path, headers=PAGE) for path in ("/", "/health", "/openapi.json", f"/files/{file.key}/a.mp4")]
    missing = [client.get(path, headers=PAGE) for path in ("/nowhere", "/files/x/y", "/v1/videos/x", "/v2/x", "/run/x")]
    wrong = [client.delete(path, headers=PAGE) for path in ("/health", *(path for path, _ in CALLS.values()))]
    bad = [client.post(path, content=b"{", headers=PAGE) for path, _ in CALLS.values()]
    assert {answer.status_code for answer in own} == {200}
    assert {answer.status_code for answer in missing} == {404}
    assert {answer.status_code for answer in wrong} <= {404, 405}
    for answer in (*own, *missing, *wrong, *bad):
        assert answer.headers.get_list("access-control-allow-origin") == ["*"], answer.url
        shown = answer.headers["access-control-expose-headers"].split(", ")
        assert {"etag", "content-range", "retry-after", "x-fal-request-id", "x-request-id"} <= set(shown)


def test_a_page_may_read_what_the_connection_refuses(port: int) -> None:
    for request in (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n"):
        head, _ = exchange(port, request)
        assert head.startswith(b"http/1.1 4") and b"access-control-allow-origin: *" in head


def test_a_page_may_read_refusals_of_keys_limits_and_sizes(tmp_path: Path) -> None:
    with TestClient(app(tmp_path, api_keys="a:1", rate_limit="2/hour"), raise_server_exceptions=False) as client:
        seen = set()
        for key, body in (("b", b"{}"), ("a:1", b"{"), ("a:1", b"{"), ("a:1", b"{")):
            for path in ("/v1/videos", "/queue/fal-ai/cogvideox-5b"):
                answer = client.post(path, content=body, headers={**PAGE, "authorization": f"Bearer {key}"})
                seen.add(answer.status_code)
                assert answer.headers["access-control-allow-origin"] == "*"
        assert {401, 429} <= seen
        asked = {**PAGE, "access-control-request-method": "POST"}
        for _ in range(5):
            assert client.options("/v1/videos", headers=asked).status_code == 200


# -- behind a proxy's path prefix -------------------------------------------------------------------------------------

BEHIND = {"x-forwarded-prefix": "/studio/", "x-forwarded-host": "video.example", "x-forwarded-proto": "https"}


@pytest.fixture(scope="module")
def behind(made: FastAPI, port: int) -> TestClient:
    return TestClient(made, headers=BEHIND, client=("127.0.0.1", 1))


ADDRESS = re.compile(r'"(https?://[^"]+)"')


@API
def test_addresses_lie_below_the_prefix(behind: TestClient, name: str) -> None:
    path, body = asking(name, "below")
    answer = behind.post(path, content=body, headers={"content-type": "application/json"})
    found = [one for one in ADDRESS.findall(answer.text) if "github.com" not in one and "docs." not in one]
    assert found or name in ("zhipu", "openai", "huggingface")
    assert all(one.startswith("https://video.example/studio/") for one in found), found


def test_uploads_and_files_lie_below_the_prefix(behind: TestClient) -> None:
    address = upload_address(behind)
    assert address.startswith("https://video.example/studio/fal/files/")
    put = behind.put(address.partition("/studio")[2], content=b"abc")
    assert put.status_code == 200
    assert behind.get(address.partition("/studio")[2].partition("/multipart/")[0]).content == b"abc"
    files = behind.post("/v1/files", files={"content": ("a.txt", b"abc")}).json()
    assert files["urls"]["get"].startswith("https://video.example/studio/files/")
    token = behind.post("/storage/auth/token").json()
    assert token["base_url"] == "https://video.example/studio"


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_docs_below_a_prefix(client: TestClient, behind: TestClient, path: str) -> None:
    for one in (client, behind):  # the first client sends no path prefix, the second one sends a prefix
        page = one.get(path, follow_redirects=False)
        assert page.status_code == 200
        links = re.findall(r"""(?:src=|href=|url: )["']([^"']+)["']""", page.text)
        assert len(links) == 4
        for link in links:
            assert link.startswith("../" if path.endswith("/") else "./")
            assert one.get("/docs/../" + link.lstrip("./")).status_code == 200
    assert behind.get("/openapi.json").json()["servers"] == [{"url": "/studio"}]
    assert "servers" not in client.get("/openapi.json").json()


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        ("/a, /b", "/a/b"),
        ("a/b/", "/a/b"),
        ("/", ""),
        ("", ""),
        ("/../x", ""),
        ("/a?b", ""),
        ("//evil.example", "/evil.example"),
        ("/v1", "/v1"),
        ("/fal", "/fal"),
        ("/a" * 30, ""),
        ('/"><script>', ""),
    ],
)
def test_prefixes(made: FastAPI, port: int, given: str, prefix: str) -> None:
    client = TestClient(made, headers={"x-forwarded-prefix": given}, client=("127.0.0.1", 1))
    token = client.post("/storage/auth/token").json()
    assert token["base_url"] == f"http://testserver{prefix}"
    assert client.get("/v1/models").status_code == 200
    stranger = TestClient(made, headers={"x-forwarded-prefix": given}, client=("192.0.2.1", 1))
    assert stranger.post("/storage/auth/token").json()["base_url"] == "http://testserver"


def test_mounted_in_another_app(made: FastAPI, port: int) -> None:
    client = TestClient(Starlette(routes=[Mount("/studio", made)]), client=("192.0.2.1", 1))
    assert client.get("/studio/openapi.json").json()["servers"] == [{"url": "/studio"}]
    assert (
        client.get("/studio/docs").status_code
        == client.get("/studio/static-offline-docs/swagger-ui.css").status_code
        == 200
    )
    address = client.post("/studio/storage/upload/initiate", json={"file_name": "a", "content_type": "a/b"}).json()
    assert address["file_url"].startswith("http://testserver/studio/fal/files/")
    assert client.put(address["upload_url"], content=b"abc").status_code == 200
    assert client.get(address["file_url"]).content == b"abc"


def test_a_public_url_with_a_path(tmp_path: Path) -> None:
    with TestClient(app(tmp_path, public_url="https://video.example/studio")) as client:
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/studio"}]
        assert client.post("/storage/auth/token").json()["base_url"] == "https://video.example/studio"
