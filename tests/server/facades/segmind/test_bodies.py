"""Segmind's clients send JSON, forms (some of them truncated), and files as data URIs."""

from __future__ import annotations

import base64
import json

import pytest

from server.errors import DiskFull, UploadTooLarge
from tests.rigs.facade_rig import Build, Rig
from tests.rigs.facades.segmind import I2V, T2V
from tests.rigs.golden import check

PICTURE = b"\x89PNG not really a picture"


@pytest.fixture
def storing(build: Build) -> Rig:
    rig = build(keys="mine")
    rig.client.headers["x-api-key"] = "mine"
    return rig


def as_data(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def test_multipart(served: Rig) -> None:
    client, table, intake = served.client, served.table, served.intake
    big = "data:image/png;base64," + "A" * (3 * 2**20)
    fields = {"prompt": "a", "seed": "5", "steps": "30", "guidance_scale": "7.5", "base64": "false", "frame_rate": ""}
    assert client.post(I2V, data=fields, files={"image": ("a.png", b"bytes")}).status_code == 200
    assert intake.seen[-1] == ("image", b"bytes")
    request = table.last.request
    assert (request.seed, request.num_inference_steps, request.guidance_scale, request.fps) == (5, 30, 7.5, None)
    assert client.post(I2V, files={"prompt": (None, "a"), "image": (None, big)}).status_code == 200
    assert intake.seen[-1] == ("image", big)
    assert len(json.dumps(table.last.memo)) < 1000
    queued = client.post("/v2/cog-video-5b-i2v", data=fields, files={"image": ("a.png", b"bytes")})
    assert queued.json()["status"] == "QUEUED"


WHOLE = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n--x--\r\n'


@pytest.mark.parametrize(
    ("body", "options", "text"),
    [
        (WHOLE, "", "names no boundary"),
        (WHOLE, "; boundary=y", "torn: it ends before its closing boundary"),
        (WHOLE[:-20], "; boundary=x", "torn: it ends before its closing boundary"),
        (b"", "; boundary=x", "torn: it ends before its closing boundary"),
        (WHOLE.replace(b"name=", b"nome="), "; boundary=x", "Content-Disposition"),
        (b"nothing --x--", "; boundary=x", "cannot be read"),
        (WHOLE, "; boundary=x; charset=undefined", "charset"),
    ],
)
@pytest.mark.parametrize("path", [T2V, "/v2/cog-video-5b-i2v"])
def test_a_form_that_cannot_be_read(served: Rig, path: str, body: bytes, options: str, text: str) -> None:
    """The answer says what is wrong with the form, and does not blame invalid JSON or a missing field."""
    client, table = served.client, served.table
    answer = client.post(path, content=body, headers={"content-type": f"multipart/form-data{options}"})
    assert (answer.status_code, set(answer.json())) == (400, {"error"})
    assert answer.json()["error"].startswith("The multipart body ")
    assert text in answer.json()["error"]
    assert not table.jobs


def test_the_same_form_untorn(served: Rig) -> None:
    client, table = served.client, served.table
    for charset in ("", "; charset=utf-8", "; charset=hex", "; charset=none-such"):
        kind = f"multipart/form-data; boundary=x{charset}"
        assert client.post(T2V, content=WHOLE, headers={"content-type": kind}).status_code == 200
        assert table.last.request.prompt == "a"


@pytest.mark.parametrize(
    "raw", [b"{", b"\xff", b'{"prompt": NaN}', b"[" * 100_000, b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}"]
)
def test_broken_json(served: Rig, raw: bytes) -> None:
    answer = served.client.post(T2V, content=raw)
    assert answer.status_code == 400
    assert "not valid JSON" in answer.json()["error"]


def test_content_types(served: Rig) -> None:
    client = served.client
    raw = b'{"prompt": "a"}'
    for kind in ("application/json", "application/json;charset:utf-8;", "application/vnd.x+json", ""):
        assert client.post(T2V, content=raw, headers={"content-type": kind}).status_code == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "nonsense"):
        answer = client.post(T2V, content=raw, headers={"content-type": kind})
        assert answer.status_code == 406
        assert "Invalid content type" in answer.json()["error"]


def test_upload(storing: Rig) -> None:
    client, artifacts = storing.client, storing.context.artifacts
    files = [
        (as_data("image/png", PICTURE), "image/png", PICTURE),
        (as_data("video/mp4", b"film"), "video/mp4", b"film"),
        ("data:text/plain,a%20note", "text/plain", b"a note"),
        (as_data("text/html", b"<script>"), "application/octet-stream", b"<script>"),
        ("data:;base64,Zm9v", "application/octet-stream", b"foo"),
        (
            f" DATA:image/JPEG;charset=x;BASE64,{base64.b64encode(PICTURE).decode().rstrip('=')}\n",
            "image/jpeg",
            PICTURE,
        ),
    ]
    for path in ("/upload-asset", "/segmind/upload-asset"):
        answer = client.post(path, json={"data_urls": [uri for uri, _, _ in files], "more": 1})
        assert answer.status_code == 200
        body = answer.json()
        assert set(body) == {"file_urls", "message"}
        for url, (_, media_type, data) in zip(body["file_urls"], files, strict=True):
            key = url.removeprefix("http://here:8000/files/").split("/")[0]
            stored = artifacts.find(key)
            assert stored is not None
            assert (stored.media_type, artifacts.read(stored)) == (media_type, data)
            assert artifacts.of_url(url), "the server recognises its own URL"
            assert artifacts.expires_at(key) is None
    keys = {url.split("/")[-2]: f"key-{n}" for n, url in enumerate(body["file_urls"])}
    check("segmind/upload", answer, replace=keys)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "data_urls is required"),
        ({"data_urls": None}, "data_urls is required"),
        ({"data_urls": "data:,a"}, "data_urls must be a list"),
        ({"data_urls": []}, "data_urls must hold at least one entry"),
        ({"data_urls": ["data:,a"] * 101}, "data_urls must hold at most 100 entries"),
        ({"data_urls": ["data:,a", 5]}, "data_urls[1] must be a string"),
        ({"data_urls": ["data:,a", "https://here/a.png"]}, "data_urls[1] must be a data: URI"),
        ({"data_urls": ["data:image/png;base64"]}, "data_urls[0] must be a data: URI"),
        ({"data_urls": ["data:image/png;base64,a*b"]}, "data_urls[0] says base64"),
        ({"data_urls": ["data:image/png;base64,"]}, "data_urls[0] holds no data"),
        ([], "must be a JSON object"),
        ("{", "not valid JSON"),
    ],
)
def test_what_cannot_be_uploaded(storing: Rig, body: object, text: str) -> None:
    """If one file is refused, the server stores none of them."""
    client, artifacts = storing.client, storing.context.artifacts
    answer = client.post("/upload-asset", content=body if isinstance(body, str) else json.dumps(body))
    assert (answer.status_code, set(answer.json())) == (400, {"error"})
    assert text in answer.json()["error"]
    assert not list(artifacts._data.artifacts.iterdir())


def test_uploads_turned_away(storing: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client, uploads = storing.client, storing.context.uploads
    body = {"data_urls": ["data:,a"]}
    assert client.post("/upload-asset", json=body, headers={"x-api-key": "yours"}).status_code == 401
    form = client.post("/upload-asset", files={"data_urls": (None, "data:,a")})
    assert (form.status_code, set(form.json())) == (406, {"error"})
    for error, code in ((UploadTooLarge("the file is too large"), 413), (DiskFull("no room"), 507)):

        async def refuse(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(uploads, "store", refuse)
        answer = client.post("/upload-asset", json=body)
        assert (answer.status_code, answer.json()) == (code, {"error": str(error)})
