"""fal's storage: uploads in one or several parts, permissions, lifetimes, and uploaded files as inputs."""

from __future__ import annotations

import base64
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from server.errors import DiskFull
from server.facades.fal import tokens
from server.facades.kit.samples import RED
from tests.rigs.facade_rig import HERE, Build, Clock, Rig
from tests.rigs.facades.fal import APP, RUN

KEY = {"authorization": "Key id:secret"}
PNG = base64.b64decode(RED.partition(",")[2])
BRIEF = '{"expiration_duration_seconds": 60, "initial_acl": {"default": "forbid"}}'


@pytest.fixture
def store(build: Build) -> Rig:
    return build(keys="id:secret", clock=Clock(1_800_000_000.0), real_media=True)


def token(store: Rig, **headers: str) -> dict[str, str]:
    answer = store.client.post("/storage/auth/token?storage_type=fal-cdn-v3", json={}, headers=KEY | headers)
    assert answer.status_code == 200
    return {"authorization": f"{answer.json()['token_type']} {answer.json()['token']}"}


def initiate(store: Rig, path: str = "initiate", **headers: str) -> dict[str, str]:
    body = {"file_name": "red circle.png", "content_type": "image/png"}
    answer = store.client.post(f"/storage/upload/{path}?storage_type=gcs", json=body, headers=KEY | headers)
    assert answer.status_code == 200
    assert set(answer.json()) == {"upload_url", "file_url"}
    found: dict[str, str] = answer.json()
    return found


def test_token(store: Rig) -> None:
    """The token has four fields. Its time needs a UTC offset, because without one the Python client's second upload
    fails."""
    body = store.client.post("/storage/auth/token?storage_type=fal-cdn-v3", json={}, headers=KEY).json()
    assert set(body) == {"token", "token_type", "base_url", "expires_at"}
    assert (body["token_type"], body["base_url"]) == ("Bearer", HERE)
    until = datetime.fromisoformat(body["expires_at"])
    assert until.utcoffset() == timedelta(0) and body["expires_at"].endswith("+00:00")
    assert 3500 < until.timestamp() - time.time() < 3700
    assert "secret" not in body["token"]


def test_whole(store: Rig) -> None:
    headers = {**token(store), "content-type": "image/png", "x-fal-file-name": "my circle.png"}
    answer = store.client.post("/files/upload", content=PNG, headers=headers)
    assert answer.status_code == 200
    url = answer.json()["access_url"]
    assert url.startswith(f"{HERE}/fal/files/") and url.endswith("/my-circle.png")
    read = store.client.get(url)
    assert (read.status_code, read.content, read.headers["content-type"]) == (200, PNG, "image/png")
    assert store.client.head(url).headers["content-length"] == str(len(PNG))
    assert store.client.get(url, headers={"range": "bytes=1-3"}).content == b"PNG"


@pytest.mark.parametrize(
    ("name", "media_type", "ending"),
    [
        ("", "image/jpeg", "/file.jpg"),
        ("../../etc/passwd", "text/plain; charset=utf-8", "/passwd.txt"),
        ("..", "", "/file"),
        ("lora.safetensors", "application/octet-stream", "/lora.safetensors"),
        ("page.html", "text/html", "/page.html"),
        ("a" * 300 + ".png", "image/png", "a.png"),
    ],
)
def test_names(store: Rig, name: str, media_type: str, ending: str) -> None:
    headers = {**KEY, "content-type": media_type, "x-fal-file-name": name}
    url = store.client.post("/files/upload", content=b"abc", headers=headers).json()["access_url"]
    assert url.endswith(ending)
    read = store.client.get(url)
    assert (read.status_code, read.content) == (200, b"abc")
    assert "html" not in read.headers["content-type"]


@pytest.mark.parametrize("form", ["whole", "gcs", "parts"])
def test_an_upload_is_taken_as_input(store: Rig, form: str) -> None:
    """The server recognises the URL of an uploaded file under any of its host names, and does not fetch that URL."""
    if form == "whole":
        url = store.client.post("/files/upload", content=PNG, headers={**KEY, "content-type": "image/png"}).json()[
            "access_url"
        ]
    else:
        begun = initiate(store, "initiate" if form == "gcs" else "initiate-multipart")
        url = begun["file_url"]
        if form == "gcs":
            assert store.client.put(begun["upload_url"], content=PNG).status_code == 200
        else:
            assert store.client.put(begun["upload_url"] + "/1", content=PNG).status_code == 200
            body = {"parts": [{"partNumber": 1, "etag": "x"}]}
            assert store.client.post(begun["upload_url"] + "/complete", json=body).status_code == 200
    for address in (url, url.replace(HERE, "https://v3.fal.media")):
        body = {"prompt": "a", "image_url": address}
        answer = store.client.post(f"{RUN}/image-to-video", json=body, headers=KEY)
        assert answer.status_code == 200, answer.text
        image = store.table.last.request.image
        assert image is not None and Path(image.path).read_bytes() == PNG


def test_nothing_was_uploaded_yet(store: Rig) -> None:
    begun = initiate(store)
    assert store.client.get(begun["file_url"]).status_code == 404
    body = {"prompt": "a", "image_url": begun["file_url"]}
    answer = store.client.post(f"{RUN}/image-to-video", json=body, headers=KEY)
    assert answer.json()["detail"][0]["type"] == "file_download_error"


def test_with_an_address_of_its_own(store: Rig) -> None:
    """The JS client sends no key with the file, and reads the answer according to its content type."""
    begun = initiate(store)
    answer = store.client.put(begun["upload_url"], content=PNG, headers={"content-type": "image/png"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/plain")
    read = store.client.get(begun["file_url"])
    assert (read.content, read.headers["content-type"]) == (PNG, "image/png")
    again = store.client.put(begun["upload_url"], content=b"other")
    assert (again.status_code, again.json()["error_type"]) == (400, "bad_request")
    assert store.client.get(begun["file_url"]).content == PNG


def test_python_parts(store: Rig) -> None:
    """The Python client may send and list the parts in any order and send a part twice; the tag is in a header."""
    headers = {**token(store), "content-type": "video/mp4", "x-fal-file-name": "film.mp4"}
    begun = store.client.post("/files/upload/multipart", headers=headers).json()
    assert set(begun) == {"access_url", "uploadId"}
    parts = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    tags = {}
    for number, content in ((3, b"ef"), (1, b"XX"), (2, b"cd"), (1, b"ab")):
        answer = store.client.put(f"{parts}/{number}", content=content, headers=token(store))
        assert answer.status_code == 200
        tags[number] = answer.headers["etag"]
    body = {"parts": [{"partNumber": n, "etag": tags[n]} for n in (2, 3, 1)]}
    assert store.client.post(f"{parts}/complete", json=body, headers=token(store)).status_code == 200
    read = store.client.get(begun["access_url"])
    assert (read.content, read.headers["content-type"]) == (b"abcdef", "video/mp4")


def test_javascript_parts(store: Rig) -> None:
    """The JavaScript client reads the part number and the tag from the JSON answer."""
    begun = initiate(store, "initiate-multipart")
    told = [store.client.put(f"{begun['upload_url']}/{n}", content=c).json() for n, c in ((1, b"ab"), (2, b"c"))]
    assert [one["partNumber"] for one in told] == [1, 2] and told[0]["etag"] != told[1]["etag"]
    answer = store.client.post(f"{begun['upload_url']}/complete", json={"parts": told})
    assert answer.status_code == 200 and answer.json()
    assert store.client.get(begun["file_url"]).content == b"abc"


@pytest.mark.parametrize("header", ["x-fal-object-lifecycle", "x-fal-object-lifecycle-preference"])
@pytest.mark.parametrize("form", ["whole", "gcs", "parts"])
def test_kept_for_a_time(store: Rig, form: str, header: str) -> None:
    brief = {header: BRIEF}
    if form == "whole":
        url = store.client.post("/files/upload", content=PNG, headers=KEY | brief).json()["access_url"]
    elif form == "gcs":
        begun = initiate(store, **brief)
        url = begun["file_url"]
        store.client.put(begun["upload_url"], content=PNG)
    else:
        started = store.client.post("/files/upload/multipart", headers=KEY | brief).json()
        url = started["access_url"]
        store.client.put(f"{url}/multipart/{started['uploadId']}/1", content=PNG)
        body = {"parts": [{"partNumber": 1, "etag": ""}]}
        store.client.post(f"{url}/multipart/{started['uploadId']}/complete", json=body)
    store.clock.advance(59)
    assert store.client.get(url).content == PNG
    store.clock.advance(2)
    assert store.client.get(url).status_code == 404


@pytest.mark.parametrize("value", ["{}", '{"expiration_duration_seconds": null}', '{"expiration_duration_seconds": 0}'])
def test_kept_for_ever(store: Rig, value: str) -> None:
    headers = {**KEY, "x-fal-object-lifecycle": value}
    url = store.client.post("/files/upload", content=PNG, headers=headers).json()["access_url"]
    store.clock.advance(10**9)
    assert store.client.get(url).content == PNG


@pytest.mark.parametrize(
    "value",
    ["1h", "[]", '{"expiration_duration_seconds": -1}', '{"expiration_duration_seconds": NaN}', "9" * 5000, "\xff"],
)
def test_a_lifecycle_that_cannot_be_read(store: Rig, value: str) -> None:
    """The server refuses an unreadable lifetime, because a client that asks for an expiry must get one."""
    for path, name in (
        ("/files/upload", "x-fal-object-lifecycle"),
        ("/files/upload", "x-fal-object-lifecycle-preference"),
        (f"/queue{APP}", "x-fal-object-lifecycle-preference"),
        (RUN, "x-fal-object-lifecycle-preference"),
    ):
        headers = {**KEY, name: value.encode("latin-1")}
        answer = store.client.post(path, content=b'{"prompt": "a"}', headers=headers)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request")
        assert name in answer.json()["detail"] and "3600" in answer.json()["detail"]
    assert not store.table.jobs


def test_who_may(store: Rig) -> None:
    """An upload needs a key or an upload token. An upload token allows only uploads, and no other token allows
    uploads."""
    body = {"file_name": "a", "content_type": "b"}
    calls = ["/storage/auth/token", "/files/upload", "/files/upload/multipart", "/storage/upload/initiate"]
    for path in (*calls, "/storage/upload/initiate-multipart", "/tokens/"):
        nobody = store.client.post(path, json=body)
        assert (nobody.status_code, nobody.json()["detail"]) == (401, "Authentication is required")
        wrong = store.client.post(path, json=body, headers={"authorization": "Key no:no"})
        assert (wrong.status_code, wrong.json()["detail"]) == (401, "invalid key credentials")
    upload = token(store)
    for path in ("/storage/auth/token", "/storage/upload/initiate", "/tokens", RUN):
        assert store.client.post(path, json=body, headers=upload).status_code == 401
    app = store.client.post("/tokens/", json={"allowed_apps": ["cogvideox-5b"]}, headers=KEY).json()
    ticket = initiate(store)["upload_url"].rpartition("/")[2]
    for other in (app, ticket, "x", upload["authorization"][7:] + "0", "é"):
        value = f"Bearer {other}".encode()
        answer = store.client.post("/files/upload", content=b"x", headers={"authorization": value})  # type: ignore[dict-item]
        assert answer.status_code == 401


def test_tokens_end(store: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, begun = token(store), initiate(store)
    now = time.time()
    monkeypatch.setattr(tokens.time, "time", lambda: now + 3601)
    assert store.client.post("/files/upload", content=b"x", headers=upload).status_code == 401
    monkeypatch.setattr(tokens.time, "time", lambda: now + 86_401)
    late = store.client.put(begun["upload_url"], content=b"x")
    assert (late.status_code, late.json()["error_type"]) == (403, "bad_request")


def test_addresses_cannot_be_made_up(store: Rig) -> None:
    first, second = initiate(store)["upload_url"], initiate(store)["upload_url"]
    swapped = first.partition("/multipart/")[0] + "/multipart/" + second.partition("/multipart/")[2]
    for url in (swapped, first[:-1] + ("0" if first[-1] != "0" else "1"), f"{HERE}/fal/files/k/n/multipart/t"):
        for method, tail in (("PUT", ""), ("PUT", "/1"), ("POST", "/complete")):
            answer = store.client.request(method, url + tail, content=b"x", headers=KEY)
            assert answer.status_code == 403, url + tail
    assert store.client.get(first.partition("/multipart/")[0]).status_code == 404


@pytest.mark.parametrize(
    ("tail", "body", "code"),
    [
        ("/0", None, 400),
        ("/10001", None, 400),
        ("/x", None, 400),
        ("/complete", {"parts": [{"partNumber": 2, "etag": ""}]}, 400),
        ("/complete", {"parts": []}, 422),
        ("/complete", {"parts": [{"partNumber": 10**9}]}, 422),
        ("/complete", {}, 422),
        ("/complete", [1], 422),
    ],
)
def test_parts_that_are_wrong(store: Rig, tail: str, body: Any, code: int) -> None:
    url = initiate(store, "initiate-multipart")["upload_url"]
    store.client.put(f"{url}/1", content=b"x")
    answer = store.client.request("PUT" if body is None else "POST", url + tail, json=body)
    assert answer.status_code == code
    assert answer.json()["detail"]


def test_too_large(store: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.media.uploads.UPLOAD_BYTES", 4)
    url = initiate(store)["upload_url"]
    for answer in (
        store.client.post("/files/upload", content=b"abcde", headers=KEY),
        store.client.put(url, content=b"abcde"),
        store.client.put(f"{url}/1", content=b"abcde"),
    ):
        assert (answer.status_code, answer.json()["error_type"]) == (413, "bad_request")


def test_no_room(store: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise DiskFull("no room")

    monkeypatch.setattr(store.context.artifacts, "check_room", full)
    answer = store.client.post("/files/upload", content=b"x", headers=KEY)
    assert (answer.status_code, answer.json()["error_type"]) == (507, "internal_error")


@pytest.mark.parametrize("host", ["rest.fal.ai", "rest.alpha.fal.ai", "v3.fal.media", "fal.run", "queue.fal.run"])
@pytest.mark.parametrize("mount", ["", "/fal"])
def test_ways_to_the_storage(store: Rig, host: str, mount: str) -> None:
    """A client reaches the storage in three ways: by Host header, under the server's own prefix, and through the proxy
    route."""
    body = {"file_name": "a.png", "content_type": "image/png"}
    for path, wanted in (
        ("/storage/auth/token", "token"),
        ("/storage/upload/initiate/?storage_type=gcs", "upload_url"),
        ("/files/upload/", "access_url"),
        ("/files/upload/multipart", "uploadId"),
    ):
        answer = store.client.post(f"http://{host}{mount}{path}", json=body, headers=KEY, follow_redirects=False)
        assert wanted in answer.json(), path
        url = answer.json().get("file_url") or answer.json().get("access_url")
        assert url is None or url.startswith(f"http://{host}/fal/files/")
        aimed = {**KEY, "x-fal-target-url": f"https://{host}{path}"}
        assert wanted in store.client.post("/fal/proxy", json=body, headers=aimed).json()


def test_app_token(store: Rig) -> None:
    """An app token replaces the key in calls of the app for which it was issued, and in no other call."""
    asked = {"allowed_apps": ["cogvideox-5b"], "token_expiration": 120}
    made = store.client.post("/tokens/", json=asked, headers=KEY)
    assert made.status_code == 200 and isinstance(made.json(), str) and "secret" not in made.text
    stream = store.client.post(f"{RUN}/stream?fal_jwt_token={made.json()}", json={"prompt": "a"})
    assert (stream.status_code, stream.json()["detail"]) == (404, "Path /stream not found")
    assert store.client.post(f"{RUN}?fal_jwt_token={made.json()}", json={"prompt": "a"}).status_code == 200
    assert store.table.last.owner == store.context.keys.identify(KEY)
    other = store.client.post("/tokens", json={"allowed_apps": ["flux"]}, headers=KEY).json()
    for path in (f"{RUN}?fal_jwt_token={other}", f"{RUN}?fal_jwt_token=x", f"/queue{APP}?fal_jwt_token={made.json()}"):
        assert store.client.post(path, json={"prompt": "a"}).status_code == 401


@pytest.mark.parametrize(
    "body", [{}, {"allowed_apps": "x"}, {"allowed_apps": [], "token_expiration": 0}, {"allowed_apps": [1]}, "text"]
)
def test_app_token_refused(store: Rig, body: Any) -> None:
    answer = store.client.post("/tokens", json=body, headers=KEY)
    assert (answer.status_code, answer.json()["detail"][0]["loc"][0]) == (422, "body")


def test_browsers(store: Rig) -> None:
    url = initiate(store)["upload_url"]
    asked = {"origin": "http://page", "access-control-request-method": "PUT"}
    preflight = store.client.options(url, headers={**asked, "access-control-request-headers": "content-type"})
    assert preflight.status_code == 200 and "PUT" in preflight.headers["access-control-allow-methods"]
    answer = store.client.put(url, content=PNG, headers={"origin": "http://page"})
    assert answer.headers["access-control-allow-origin"] == "*"
    read = store.client.get(url.partition("/multipart/")[0], headers={"origin": "http://page"})
    assert read.headers.get_list("access-control-allow-origin") == ["*"]


def test_public_url(build: Build) -> None:
    store = build(public_url="https://films.example.org/v")
    begun = initiate(store)
    assert begun["upload_url"].startswith("https://films.example.org/v/fal/files/")
    assert store.context.artifacts.of_url(begun["file_url"]) is None
    store.client.put(begun["upload_url"].replace("https://films.example.org/v", ""), content=PNG)
    file = store.context.artifacts.of_url(begun["file_url"])
    assert file is not None and store.context.artifacts.read(file) == PNG
