"""What every API owes to HTTP, whichever cloud it stands for: bodies, HEAD, ranges, pages of other sites, prefixes."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Mount

from server.facades.wire import MAX_BODY
from tests.server.house import app, ended, house_of
from tests.server.live import exchange, live

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAABkAAQBAAAA\r\n"
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "fal": ("/queue/fal-ai/cogvideox-5b", {"prompt": "steps=1"}),
    "segmind": ("/v2/cog-video-5b-t2v", {"prompt": "steps=1"}),
    "zhipu": ("/api/paas/v4/videos/generations", {"model": "cogvideox-2", "prompt": "steps=1"}),
    "modelslab": ("/api/v6/video/text2video", {"model_id": "cogvideox", "prompt": "steps=1", "instant_response": True}),
    "openai": ("/v1/videos", {"prompt": "steps=1"}),
    "replicate": ("/v1/models/cuuupid/cogvideox-5b/predictions", {"input": {"prompt": "steps=1"}}),
    "huggingface": ("/hf-inference/models/zai-org/CogVideoX-5b", {"inputs": "steps=1"}),
}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "png")
    return file.getvalue()


PNG = png()
API = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return app(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def port(made: FastAPI) -> Iterator[int]:
    with live(made) as port:
        yield port


@pytest.fixture(scope="module")
def client(made: FastAPI, port: int) -> TestClient:
    """Over the same server; its lifespan is the port's."""
    return TestClient(made, raise_server_exceptions=False)


def last_prompt(made: FastAPI, name: str) -> str:
    return house_of(made).context.jobs.page(name, "", 1)[0].request.prompt


def asking(name: str, prompt: str) -> tuple[str, bytes]:
    path, fields = CALLS[name]
    return path, json.dumps(fields).replace("steps=1", f"steps=1 {prompt}").encode()


def upload_address(client: TestClient) -> str:
    asked = {"file_name": "a.bin", "content_type": "application/octet-stream"}
    address: str = client.post("/storage/upload/initiate", json=asked).json()["upload_url"]
    return address


# -- an upgrade nobody wants ------------------------------------------------------------------------------------------


@API
def test_a_body_beside_an_upgrade_is_read(made: FastAPI, port: int, name: str) -> None:
    path, body = asking(name, "upgraded")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: a\r\n{H2C}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    pair = head.encode() + body + b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer, rest = exchange(port, pair)
    assert answer.startswith((b"http/1.1 200", b"http/1.1 201")), (answer, rest)
    assert b"alive" in rest, "the next request on the connection is read too"
    assert last_prompt(made, name) == "steps=1 upgraded"


def test_an_upload_beside_an_upgrade_is_stored(client: TestClient, port: int) -> None:
    address = upload_address(client)
    path = address.partition("testserver")[2]
    head = f"PUT {path} HTTP/1.1\r\nHost: a\r\n{H2C.replace('Upgrade,', 'Upgrade, close,')}Content-Length: 856\r\n\r\n"
    assert exchange(port, head.encode() + bytes(856))[0].startswith(b"http/1.1 200")
    assert len(client.get(address.partition("/multipart/")[0]).content) == 856


# -- uploads of nothing -----------------------------------------------------------------------------------------------

EMPTY_FILE = ("a.png", b"", "image/png")
EMPTY: dict[str, Callable[[TestClient], Any]] = {
    "fal's upload": lambda c: c.post("/files/upload", content=b"", headers={"content-type": "image/png"}),
    "fal's PUT": lambda c: c.put(upload_address(c), content=b""),
    "fal's PUT, in chunks": lambda c: c.put(upload_address(c), content=iter([b""])),
    "fal's PUT, compressed": lambda c: c.put(
        upload_address(c), content=gzip.compress(b""), headers={"content-encoding": "gzip"}
    ),
    "fal's part": lambda c: c.put(upload_address(c) + "/1", content=b""),
    "fal's parts": lambda c: c.post(upload_address(c) + "/complete", json={"parts": []}),
    "OpenAI's file": lambda c: c.post("/openai/v1/files", data={"purpose": "vision"}, files={"file": EMPTY_FILE}),
    "OpenAI's picture": lambda c: c.post("/v1/videos", data={"prompt": "p"}, files={"input_reference": EMPTY_FILE}),
    "Replicate's file": lambda c: c.post("/replicate/v1/files", files={"content": EMPTY_FILE}),
    "Segmind's": lambda c: c.post("/upload-asset", json={"data_urls": ["data:image/png;base64,"]}),
    "Segmind's form": lambda c: c.post("/v1/cog-video-5b-i2v", data={"prompt": "p"}, files={"image": EMPTY_FILE}),
    "ModelsLab's": lambda c: c.post("/api/v7/base64_to_url", json={"base64_string": "data:image/png;base64,"}),
    "302's form": lambda c: c.post(
        "/302/v2/video/create", data={"model": "cogvideox-2", "prompt": "p"}, files={"image": EMPTY_FILE}
    ),
    "a data URI": lambda c: c.post(
        "/api/paas/v4/videos/generations",
        json={"model": "cogvideox-2", "prompt": "p", "image_url": "data:image/png;base64,"},
    ),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_upload_without_a_byte_is_refused(client: TestClient, made: FastAPI, name: str) -> None:
    kept = {artifact.name for artifact in house_of(made).health.data.artifacts.iterdir()}
    answer = EMPTY[name](client)
    assert answer.status_code in (400, 422) or answer.json()["status"] == "error", answer.text
    assert re.search("empty|no data|missing|at least 1 item", answer.text), answer.text
    assert {artifact.name for artifact in house_of(made).health.data.artifacts.iterdir()} == kept


# -- compressed bodies ------------------------------------------------------------------------------------------------


def raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZIP", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without its header": ("deflate", raw),
    "identity": ("identity", bytes),
    "a list": ("identity, gzip", gzip.compress),
    "two members": ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
}


@API
def test_a_compressed_body_is_read(made: FastAPI, client: TestClient, name: str) -> None:
    for coding, (header, pack) in CODINGS.items():
        if name == "huggingface" and coding not in ("gzip", "deflate"):  # each call waits for its video
            continue
        path, body = asking(name, coding)
        headers = {"content-encoding": header, "content-type": "application/json"}
        answer = client.post(path, content=pack(body), headers=headers)
        assert answer.status_code in (200, 201), (coding, answer.text)
        assert last_prompt(made, name) == f"steps=1 {coding}"


@API
@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "nonsense"])
def test_another_coding_is_named(client: TestClient, name: str, coding: str) -> None:
    path, body = asking(name, coding)
    plain = client.post(path, content=b"{", headers={"content-type": "application/json"})
    answer = client.post(path, content=body, headers={"content-encoding": coding})
    assert answer.status_code == 415, answer.text
    assert coding in answer.text and "gzip, deflate" in answer.text
    shapes = [one.json() for one in (answer, plain)]
    assert name in ("fal", "replicate") or [set(shape) for shape in shapes] == [set(shapes[0])] * 2, shapes


TORN = {
    "cut off": gzip.compress(b'{"prompt": "a"}')[:-9],
    "not gzip": b'{"prompt": "a"}',
    "with a wrong sum": gzip.compress(b'{"prompt": "a"}')[:-8] + bytes(8),
    "with more behind it": gzip.compress(b"{}") + b"more",
    "in too many members": gzip.compress(b" ") * 200,
}


@API
def test_a_body_that_is_no_gzip_is_refused(client: TestClient, name: str) -> None:
    for torn in TORN.values():
        answer = client.post(CALLS[name][0], content=torn, headers={"content-encoding": "gzip"})
        assert answer.status_code == 400, answer.text
        assert "gzip body" in answer.text or "not gzip" in answer.text, answer.text


@pytest.fixture(scope="module")
def bomb() -> bytes:
    packed = gzip.compress(bytes(2 * MAX_BODY), 6)
    assert len(packed) < 2**19
    return packed


TOO_LARGE = {"modelslab": 200, "zhipu": 435}


@API
def test_a_bomb_is_refused_before_it_is_large(client: TestClient, bomb: bytes, name: str) -> None:
    answer = client.post(CALLS[name][0], content=bomb, headers={"content-encoding": "gzip"})
    assert answer.status_code == TOO_LARGE.get(name, 413) and "128 MiB" in answer.text, answer.text


def test_a_compressed_upload_is_stored_plain(client: TestClient) -> None:
    data = bytes(range(256)) * 4000
    address = upload_address(client)
    assert client.put(address, content=gzip.compress(data), headers={"content-encoding": "gzip"}).status_code == 200
    assert client.get(address.partition("/multipart/")[0]).content == data
    for header, body in (("br", data), ("gzip", data)):
        answer = client.put(upload_address(client), content=body, headers={"content-encoding": header})
        assert answer.status_code in (400, 415) and header in answer.json()["detail"]
    form = client.build_request("POST", "/v1/files", files={"content": ("a.bin", data)})
    packed = gzip.compress(form.read())
    headers = {"content-type": form.headers["content-type"], "content-encoding": "gzip"}
    answer = client.post("/v1/files", content=packed, headers=headers)
    assert answer.status_code == 201 and answer.json()["size"] == len(data), "it is Replicate's form"
    refused = client.post("/v1/files", content=packed, headers={**headers, "content-encoding": "br"})
    assert refused.status_code == 415 and "br" in refused.json()["error"]["message"]


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
    assert client.head("/run/fal-ai/cogvideox-5b?prompt=a").status_code == 405, "it would make a video"


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


# -- pages of other sites ---------------------------------------------------------------------------------------------

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


# -- below a path of a proxy's ----------------------------------------------------------------------------------------

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
    for one in (client, behind):  # told of it or not
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


# -- forms ------------------------------------------------------------------------------------------------------------


def form(name: str, data: bytes, kind: str = "", **fields: str) -> tuple[bytes, dict[str, str]]:
    """A form whose file comes without a file name, as `name=@file` without one, or a Blob, is sent by some."""
    parts = [f'--b\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'.encode() for n, v in fields.items()]
    typed = f"Content-Type: {kind}\r\n" if kind else ""
    parts += [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n{typed}\r\n'.encode() + data + b"\r\n--b--\r\n"]
    return b"".join(parts), {"content-type": "multipart/form-data; boundary=b"}


UNNAMED: dict[str, tuple[str, str, dict[str, str], int]] = {
    "openai": ("/v1/videos", "input_reference", {"prompt": "p"}, 200),
    "openai's files": ("/openai/v1/files", "file", {"purpose": "vision"}, 200),
    "segmind": ("/v2/cog-video-5b-i2v", "image", {"prompt": "p"}, 200),
    "302": ("/302/v2/video/create", "image", {"model": "cogvideox-2", "prompt": "p"}, 200),
    "replicate": ("/replicate/v1/files", "content", {}, 201),
}


@pytest.mark.parametrize("kind", ["", "image/png", "application/octet-stream"])
@pytest.mark.parametrize("name", UNNAMED)
def test_a_file_needs_no_file_name(client: TestClient, name: str, kind: str) -> None:
    path, field, fields, status = UNNAMED[name]
    body, headers = form(field, PNG, kind, **fields)
    answer = client.post(path, content=body, headers=headers)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("prompt", ["café 猫", "one\ntwo", "tab\there"])
def test_a_text_stays_a_text(made: FastAPI, client: TestClient, prompt: str) -> None:
    body, headers = form("prompt", prompt.encode())
    assert client.post("/v1/videos", content=body, headers=headers).status_code == 200
    assert last_prompt(made, "openai") == prompt
    body, headers = form("prompt", "café".encode("latin-1"))
    assert client.post("/v1/videos", content=body, headers=headers).status_code == 200
    assert last_prompt(made, "openai") == "café"
    body, headers = form("prompt", b"a\0b")
    assert "NUL" in client.post("/v1/videos", content=body, headers=headers).json()["error"]["message"]


def test_a_file_in_the_place_of_a_text(client: TestClient) -> None:
    body, headers = form("prompt", PNG)
    answer = client.post("/v1/videos", content=body, headers=headers)
    assert answer.status_code == 400 and "'prompt'" in answer.json()["error"]["message"]


def test_a_long_file_without_a_name(client: TestClient) -> None:
    body, headers = form("content", PNG + bytes(3 * 2**20))
    answer = client.post("/replicate/v1/files", content=body, headers=headers)
    assert answer.status_code == 201 and answer.json()["size"] == len(PNG) + 3 * 2**20


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_a_file_without_a_name_in_pieces(client: TestClient, size: int) -> None:
    body, headers = form("content", PNG)
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    answer = client.post("/replicate/v1/files", content=pieces, headers=headers)
    assert answer.status_code == 201, answer.text
    assert client.get(answer.json()["urls"]["get"]).content == PNG
