"""Request bodies in every API: compressed and empty bodies, bodies with an upgrade header, forms without file names."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from server.limits.bodies import MAX_BODY
from tests.rigs.house import house_of
from tests.rigs.live import API, CALLS, asking, exchange, last_prompt, upload_address

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAABkAAQBAAAA\r\n"


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "png")
    return file.getvalue()


PNG = png()


# -- upgrade headers --------------------------------------------------------------------------------------------------


@API
def test_a_body_beside_an_upgrade_is_read(made: FastAPI, port: int, name: str) -> None:
    path, body = asking(name, "upgraded")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: a\r\n{H2C}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    pair = head.encode() + body + b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer, rest = exchange(port, pair)
    assert answer.startswith((b"http/1.1 200", b"http/1.1 201")), (answer, rest)
    assert b"alive" in rest, "the server reads the next request on the connection too"
    assert last_prompt(made, name) == "steps=1 upgraded"


def test_an_upload_beside_an_upgrade_is_stored(client: TestClient, port: int) -> None:
    address = upload_address(client)
    path = address.partition("testserver")[2]
    head = f"PUT {path} HTTP/1.1\r\nHost: a\r\n{H2C.replace('Upgrade,', 'Upgrade, close,')}Content-Length: 856\r\n\r\n"
    assert exchange(port, head.encode() + bytes(856))[0].startswith(b"http/1.1 200")
    assert len(client.get(address.partition("/multipart/")[0]).content) == 856


# -- empty uploads ----------------------------------------------------------------------------------------------------

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
    kept = {artifact.name for artifact in house_of(made).data.artifacts.iterdir()}
    answer = EMPTY[name](client)
    assert answer.status_code in (400, 422) or answer.json()["status"] == "error", answer.text
    assert re.search("empty|no data|missing|at least 1 item", answer.text), answer.text
    assert {artifact.name for artifact in house_of(made).data.artifacts.iterdir()} == kept


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
    assert answer.status_code == 201 and answer.json()["size"] == len(data), "this is Replicate's form"
    refused = client.post("/v1/files", content=packed, headers={**headers, "content-encoding": "br"})
    assert refused.status_code == 415 and "br" in refused.json()["error"]["message"]


# -- forms ------------------------------------------------------------------------------------------------------------


def form(name: str, data: bytes, kind: str = "", **fields: str) -> tuple[bytes, dict[str, str]]:
    """Returns a form whose file has no file name; some clients send such forms, for example for a Blob."""
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


@pytest.mark.parametrize("name", UNNAMED)
def test_a_file_without_a_name_and_without_a_byte(client: TestClient, name: str) -> None:
    """The part has no file name but declares an image. A browser's empty file field declares no image."""
    path, field, fields, _ = UNNAMED[name]
    body, headers = form(field, b"", "image/png", **fields)
    answer = client.post(path, content=body, headers=headers)
    assert answer.status_code in (400, 422) and field in answer.text, answer.text


@pytest.mark.parametrize("name", [one for one in UNNAMED if one != "replicate"])
def test_a_form_that_breaks_off_is_refused(client: TestClient, name: str) -> None:
    """If the server accepted the form, it would silently drop the last part, here an image."""
    path, field, fields, _ = UNNAMED[name]
    body, headers = form(field, PNG, "image/png", **fields)
    answer = client.post(path, content=body.removesuffix(b"--b--\r\n"), headers=headers)
    assert answer.status_code == 400 and "closing boundary" in answer.text, answer.text


@pytest.mark.parametrize("charset", ["utf-16", "utf-7", "ascii", "nonsense", "base64", "rot13"])
def test_forms_in_strange_charsets(client: TestClient, charset: str) -> None:
    body, headers = form("prompt", "café".encode())
    headers["content-type"] += f"; charset={charset}"
    for path in ("/v1/videos", "/302/v2/video/create", "/v2/cog-video-5b-t2v", "/replicate/v1/files"):
        assert client.post(path, content=body, headers=headers).status_code in (200, 400, 422), path
