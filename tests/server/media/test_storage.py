"""The server writes, serves and deletes files on the local disk and on S3."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import obstore
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from obstore.exceptions import GenericError
from structlog.testing import capture_logs

from server.datadir import DataDir
from server.errors import BadSetting, DiskFull
from server.house import storage_of
from server.media.artifact import Artifact
from server.media.artifacts import Artifacts, Limits
from server.media.conditions import ranges_of
from server.media.storage import LocalStorage, Storage, StorageDown
from server.media.storage_s3 import ObjectStorage
from tests.rigs.house import plain
from tests.rigs.s3 import Cloud

KEY = "k" * 32
FILM = bytes(range(256)) * 8
HEADERS = {"content-type": "video/mp4", "content-disposition": "inline", "cache-control": "private"}
DAY = 86_400.0


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    data = DataDir(tmp_path / "data")
    yield data
    data.close()


@pytest.fixture
def artifacts(data: DataDir, storage: Storage) -> Artifacts:
    return Artifacts(data, storage=storage)


@pytest.fixture
def lasting_cloud(s3: Cloud) -> Iterator[Cloud]:
    """An S3 server that the test may stop."""
    yield s3
    s3.start()


def client_of(artifacts: Artifacts) -> TestClient:
    app = FastAPI()

    @app.head("/files/{key}/{name}")
    @app.get("/files/{key}/{name}")
    def file(request: Request, key: str, name: str) -> Response:
        return artifacts.respond(request, key, name)

    return TestClient(app, follow_redirects=False)


def address(artifact: Artifact) -> str:
    return f"/files/{artifact.key}/{artifact.file_name}"


@pytest.mark.parametrize("until", [None, 10.5, float("inf")])
@pytest.mark.parametrize("size", [0, 3, 11 * 2**20])
def test_put_and_had(storage: Storage, tmp_path: Path, until: float | None, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    storage.put(KEY, "film.mp4", content, until, HEADERS)
    storage.put("p" * 32, "file", tmp_path / "file", until, HEADERS)
    for key, name in ((KEY, "film.mp4"), ("p" * 32, "file")):
        stored = storage.find(key)
        assert stored is not None
        assert (stored.key, stored.name, stored.size, stored.until) == (key, name, size, until)
        assert abs(stored.made_at - time.time()) < 60
        assert storage.read(key, name) == content
        with pytest.raises(FileNotFoundError):
            storage.read(key, "other")
    assert {stored.key for stored in storage.all()} == {KEY, "p" * 32}
    storage.remove(KEY)
    storage.remove(KEY)
    assert storage.find(KEY) is None and [stored.key for stored in storage.all()] == ["p" * 32]
    assert storage.find("q" * 32) is None


def test_other_peoples_objects(s3: Cloud) -> None:
    """The storage neither lists nor removes the objects of other programs, even if their names begin with the storage's
    prefix."""
    url = s3.url()
    storage, neighbour = ObjectStorage(url), ObjectStorage(f"{url}-2")
    neighbour.put(KEY, "a.mp4", FILM, 0.0, HEADERS)
    for path in ("notes.txt", f"{KEY[:-1]}/a.mp4", f"{KEY}x/a.mp4", f"{KEY}/deep/a.mp4"):
        obstore.put(storage._store, path, b"mine")
    assert list(storage.all()) == [] and storage.find(KEY) is None
    storage.put(KEY, "a.mp4", FILM, 0.0, HEADERS)
    storage.remove(KEY)
    there = {meta["path"] for page in obstore.list(storage._store) for meta in page}
    assert there == {"notes.txt", f"{KEY[:-1]}/a.mp4", f"{KEY}x/a.mp4", f"{KEY}/deep/a.mp4"}
    assert neighbour.find(KEY) is not None


# -- serving ----------------------------------------------------------------------------------------------------------


def test_served(artifacts: Artifacts) -> None:
    film = artifacts.put("video.mp4", "video/mp4", FILM)
    with client_of(artifacts) as client:
        whole = client.get(address(film))
        assert (whole.status_code, whole.content) == (200, FILM)
        shown = {
            "content-type": "video/mp4",
            "content-disposition": 'inline; filename="video.mp4"',
            "content-length": "2048",
            "accept-ranges": "bytes",
            "x-content-type-options": "nosniff",
            "access-control-allow-origin": "*",
            "cache-control": "private, max-age=3600",
        }
        assert {name: whole.headers.get(name) for name in shown} == shown
        assert whole.headers["etag"].startswith('"') and whole.headers["last-modified"]
        head = client.head(address(film))
        assert (head.status_code, head.content) == (200, b"")
        assert dict(head.headers) == dict(whole.headers)


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=2000-", 2000, 2048),
        ("bytes=2000-99999", 2000, 2048),
        ("bytes=-48", 2000, 2048),
        ("bytes=-9999", 0, 2048),
        (f"bytes=2000-{10**20}", 2000, 2048),
        (f"bytes=-{10**20}", 0, 2048),
        ("bytes=0-", 0, 2048),
    ],
)
def test_ranges(artifacts: Artifacts, asked: str, begin: int, end: int) -> None:
    film = artifacts.put("video.mp4", "video/mp4", FILM)
    with client_of(artifacts) as client:
        for condition in ({}, {"if-range": client.head(address(film)).headers["etag"]}):
            part = client.get(address(film), headers={"range": asked, **condition})
            assert (part.status_code, part.content) == (206, FILM[begin:end])
            assert part.headers["content-range"] == f"bytes {begin}-{end - 1}/2048"
            assert part.headers["content-length"] == str(end - begin)
            head = client.head(address(film), headers={"range": asked})
            assert (head.status_code, head.headers["content-length"]) == (206, str(end - begin))
        changed = client.get(address(film), headers={"range": asked, "if-range": '"another"'})
        assert (changed.status_code, changed.content) == (200, FILM)


@pytest.mark.parametrize("asked", ["bytes=2048-", "bytes=9999-10000", "bytes=-0", f"bytes={10**20}-"])
def test_no_such_range(artifacts: Artifacts, asked: str) -> None:
    film = artifacts.put("video.mp4", "video/mp4", FILM)
    with client_of(artifacts) as client:
        answer = client.get(address(film), headers={"range": asked})
        assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */2048")


NO_RANGES = ["", "bytes=5-2", "bytes=-", "lines=1-2", "items=0-1", "bytes", "bytes=", "bytes=a-b", "bytes=+1-2"]


@pytest.mark.parametrize("asked", [*NO_RANGES, "bytes=1_0-20", "bytes=0-1,a-b", "bytes=" + "0-0," * 101, "0-1"])
def test_what_is_no_range_means_all(artifacts: Artifacts, asked: str) -> None:
    film = artifacts.put("video.mp4", "video/mp4", FILM)
    with client_of(artifacts) as client:
        answer = client.get(address(film), headers={"range": asked})
        assert (answer.status_code, answer.content) == (200, FILM)
    assert ranges_of("bytes=٣-", 2048) is None


def test_several_ranges(artifacts: Artifacts, storage: Storage) -> None:
    film = artifacts.put("video.mp4", "video/mp4", FILM)
    with client_of(artifacts) as client:
        answer = client.get(address(film), headers={"range": "bytes=0-9, 20-29,9999-"})
        one = client.get(address(film), headers={"range": "Bytes=9999-,,20-29"})
    assert (one.status_code, one.content) == (206, FILM[20:30])
    if not isinstance(storage, LocalStorage):
        assert (answer.status_code, answer.content) == (200, FILM)
        return
    assert answer.status_code == 206 and answer.headers["content-type"].startswith("multipart/byteranges")
    assert answer.content.count(b"Content-Range: bytes") == 2 and FILM[20:30] in answer.content
    assert len(answer.content) == int(answer.headers["content-length"])


LATER, EARLIER = "Fri, 01 Jan 2100 00:00:00 GMT", "Mon, 01 Jan 2001 00:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-none-match": "{tag}"}, 304),
        ({"if-none-match": "W/{tag}"}, 304),
        ({"if-none-match": '"a", "b,c",W/{tag}'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"another"'}, 200),
        ({"if-none-match": '"another"', "if-modified-since": LATER}, 200),
        ({"if-none-match": "{tag}", "range": "bytes=0-9"}, 304),
        ({"if-modified-since": "{modified}"}, 304),
        ({"if-modified-since": LATER}, 304),
        ({"if-modified-since": EARLIER}, 200),
        ({"if-modified-since": "yesterday"}, 200),
        ({"if-match": "{tag}"}, 200),
        ({"if-match": "*"}, 200),
        ({"if-match": "W/{tag}"}, 412),
        ({"if-match": '"another"'}, 412),
        ({"if-unmodified-since": "{modified}"}, 200),
        ({"if-unmodified-since": EARLIER}, 412),
        ({"if-range": "{tag}", "range": "bytes=9999-"}, 416),
        ({"if-range": '"another"', "range": "bytes=9999-"}, 200),
        ({"if-range": "W/{tag}", "range": "bytes=0-9"}, 200),
        ({"if-range": "{modified}", "range": "bytes=0-9"}, 206),
        ({"if-range": EARLIER, "range": "bytes=0-9"}, 200),
    ],
)
def test_conditions(artifacts: Artifacts, headers: dict[str, str], status: int) -> None:
    film = artifacts.put("video.mp4", "video/mp4", FILM)
    with client_of(artifacts) as client:
        shown = client.head(address(film)).headers
        given = {k: v.format(tag=shown["etag"], modified=shown["last-modified"]) for k, v in headers.items()}
        for method in ("GET", "HEAD"):
            answer = client.request(method, address(film), headers=given)
            assert answer.status_code == status, answer.text
            assert answer.headers["access-control-allow-origin"] == "*"
            if status == 304:
                assert answer.headers["etag"] == shown["etag"] and not answer.content
                assert answer.headers["cache-control"] == shown["cache-control"]
                assert "content-length" not in answer.headers and "content-type" not in answer.headers


def test_ranges_of_nothing() -> None:
    assert ranges_of("bytes=0-", 0) == ranges_of("bytes=-5", 0) == []


def test_not_there(artifacts: Artifacts, storage: Storage) -> None:
    film = artifacts.put("video.mp4", "video/mp4", FILM)
    over = artifacts.put("video.mp4", "video/mp4", FILM, keep_seconds=-1)
    with client_of(artifacts) as client:
        for path in (f"/files/{film.key}/other.mp4", f"/files/{KEY}/video.mp4", "/files/x/video.mp4", address(over)):
            answer = client.get(path)
            assert (answer.status_code, answer.json()) == (404, {"detail": "no such file"})
            assert answer.headers["access-control-allow-origin"] == "*"


def test_uploads_are_no_pages(artifacts: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("<script>")
    page = artifacts.adopt(tmp_path / "page", KEY, "page.html", "text/html")
    text = artifacts.adopt(tmp_path / "page", "t" * 32, "text", "text/plain")
    with client_of(artifacts) as client:
        answer = client.get(address(page))
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == 'attachment; filename="page.html"'
        assert client.get(address(text)).headers["content-type"] == "text/plain; charset=utf-8"


def send(response: Response, at: str, act: Callable[[], object], method: str = "GET") -> list[dict[str, Any]]:
    """Returns the messages of the response, and calls `act` after the first message whose type is `at`."""
    sent: list[dict[str, Any]] = []
    spec = {"asgi": {"spec_version": "2.4"}}

    async def take(message: Any) -> None:
        sent.append(message)
        if message["type"] == at and sum(one["type"] == at for one in sent) == 1:
            act()

    async def receive() -> Any:
        await asyncio.sleep(3600)

    asyncio.run(response({"type": "http", "method": method, "headers": [], **spec}, receive, take))  # type: ignore[arg-type]
    return sent


def body_of(sent: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


def requested() -> Request:
    return Request({"type": "http", "method": "GET", "headers": []})


def test_removed_while_it_is_sent(artifacts: Artifacts) -> None:
    content = os.urandom(3 * 2**20)
    for at in ("http.response.start", "http.response.body"):
        film = artifacts.put("video.mp4", "video/mp4", content)
        response = artifacts.respond(requested(), film.key, film.file_name)
        sent = send(response, at, lambda film=film: artifacts.remove(film))  # type: ignore[misc]
        assert artifacts.find(film.key) is None
        assert sent[0]["status"] == 200 and body_of(sent) == content and not sent[-1].get("more_body")


def test_removed_before_it_is_sent(data: DataDir) -> None:
    artifacts = Artifacts(data)
    film = artifacts.put("video.mp4", "video/mp4", FILM)
    response = artifacts.respond(requested(), film.key, film.file_name)
    artifacts.remove(film)
    assert send(response, "", print)[0]["status"] == 404


def test_removed_as_s3_is_asked(s3: Cloud, data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = ObjectStorage(s3.url())
    artifacts = Artifacts(data, storage=storage)
    film = artifacts.put("video.mp4", "video/mp4", FILM)
    found = storage.find(film.key)
    artifacts.remove(film)
    monkeypatch.setattr(storage, "find", lambda _: found)
    assert artifacts.respond(requested(), film.key, film.file_name).status_code == 404


def test_s3_fails_in_the_middle(s3: Cloud, data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client must not mistake half a video for a whole one, so the server does not end the response."""

    class Broken:
        async def stream(self, min_chunk_size: int) -> Any:
            yield b"half"
            raise GenericError("cut")

    artifacts = Artifacts(data, storage=ObjectStorage(s3.url()))
    film = artifacts.put("video.mp4", "video/mp4", FILM)
    monkeypatch.setattr("server.media.storage_s3.obstore.get", lambda *_, **__: Broken())
    sent = send(artifacts.respond(requested(), film.key, film.file_name), "", print)
    assert body_of(sent) == b"half" and sent[-1]["more_body"]
    with pytest.raises(DiskFull, match="cannot be reached"):
        artifacts.check_room()


def test_redirects(s3: Cloud, data: DataDir) -> None:
    artifacts = Artifacts(data, storage=ObjectStorage(s3.url(), redirect=True))
    lasting = artifacts.put("video.mp4", "video/mp4", FILM)
    brief = artifacts.put("video.mp4", "video/mp4", FILM, keep_seconds=100)
    with client_of(artifacts) as client:
        for film, longest in ((lasting, 3600), (brief, 100)):
            for method in ("GET", "HEAD"):
                answer = client.request(method, address(film))
                assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
                assert answer.headers["access-control-allow-origin"] == "*"
                signed = answer.headers["location"]
                assert signed.startswith(s3.address)
                assert 0 < int(parse_qs(urlsplit(signed).query)["X-Amz-Expires"][0]) <= longest
                with urllib.request.urlopen(urllib.request.Request(signed, method=method)) as there:
                    assert there.read() == (FILM if method == "GET" else b"")
                    assert there.headers["content-type"] == "video/mp4"
                    assert there.headers["content-disposition"] == 'inline; filename="video.mp4"'
        assert client.get(f"/files/{lasting.key}/other.mp4").status_code == 404
    assert artifacts.read(lasting) == FILM


# -- S3 out of reach --------------------------------------------------------------------------------------------------


def test_s3_is_down_and_back(lasting_cloud: Cloud, data: DataDir) -> None:
    now = [0.0]
    storage = ObjectStorage(lasting_cloud.url(), clock=lambda: now[0])
    artifacts = Artifacts(data, storage=storage)
    film = artifacts.put("video.mp4", "video/mp4", FILM)
    lasting_cloud.stop()
    artifacts.check_room()  # the server does not know of the outage yet
    for act in (
        lambda: artifacts.put("a.mp4", "video/mp4", FILM),
        lambda: artifacts.find(film.key),
        lambda: artifacts.read(film),
        lambda: artifacts.sweep(),
    ):
        with pytest.raises(StorageDown, match=r"^the storage for files cannot be reached$"):
            act()
    artifacts.remove(film)  # `remove` raises no error, because its caller need not know about the outage
    with client_of(artifacts) as client:
        answer = client.get(address(film))
        assert (answer.status_code, answer.json()) == (503, {"detail": "the storage for files cannot be reached"})
    for seconds in (0.0, 9.0, 11.0):  # the server tries S3 again only after the last of these times
        now[0] += seconds
        with pytest.raises(DiskFull):
            artifacts.check_room()
    lasting_cloud.start()
    with pytest.raises(DiskFull):
        artifacts.check_room()
    now[0] += 11.0
    artifacts.check_room()
    assert artifacts.read(film) == FILM
    lasting_cloud.stop()
    artifacts.check_room()


def test_refused_by_s3(s3: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    from obstore.exceptions import PermissionDeniedError

    storage = ObjectStorage(s3.url())

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionDeniedError(f"403 for {KEY}/film.mp4\n\nDebug source: …")

    monkeypatch.setattr("server.media.storage_s3.obstore.put", refuse)
    with capture_logs() as logged, pytest.raises(StorageDown, match="refuses this server"):
        storage.put(KEY, "film.mp4", FILM, None, HEADERS)
    said = str(logged)
    assert "403 for …/film.mp4" in said and KEY not in said and "Debug" not in said


def test_a_bucket_that_is_gone(s3: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = ObjectStorage(s3.url())
    monkeypatch.setattr(storage, "_store", obstore.store.S3Store("nowhere", client_options={"allow_http": True}))
    with pytest.raises(StorageDown):
        storage.put(KEY, "film.mp4", FILM, None, HEADERS)
    with pytest.raises(StorageDown):
        storage.find(KEY)


@pytest.mark.parametrize(
    ("url", "said"),
    [("s3://nowhere/x", "NoSuchBucket|404"), ("s3://films/..", "cannot be written to"), ("s3://films", None)],
)
def test_opening(s3: Cloud, tmp_path: Path, url: str, said: str | None) -> None:
    settings = plain(storage_url=url)
    if said is None:
        assert isinstance(storage_of(settings, tmp_path), ObjectStorage)
        return
    with pytest.raises(BadSetting, match=said) as caught:
        storage_of(settings, tmp_path)
    assert "\n" not in caught.value.message and caught.value.message.startswith(f"COGVIDEOX_STORAGE_URL={url}: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_ENDPOINT_URL", "minio:9000"), ("AWS_ENDPOINT_URL_S3", "nonsense"), ("AWS_CA_BUNDLE", "/nowhere.pem")],
)
def test_what_is_wrong_in_the_environment(
    s3: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=f"cannot be written to: .*({name}|{value})"):
        storage_of(plain(storage_url="s3://films"), tmp_path)


def test_nobody_there_at_the_start(s3: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(BadSetting, match="cannot be written to: Generic S3 error"):
        storage_of(plain(storage_url="s3://films/x"), tmp_path)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(storage_of(plain(), tmp_path), LocalStorage)
    monkeypatch.delitem(sys.modules, "server.media.storage_s3")
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(BadSetting, match=r"pip install 'cogvideox-server\[s3\]'"):
        storage_of(plain(storage_url="s3://films"), tmp_path)


@pytest.mark.parametrize(
    "url", ["/data", "s3://", "s3://key:secret@films", "https://films", "s3://films?x=1", "s3:films"]
)
def test_what_is_no_address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.settings import Settings

    monkeypatch.setenv("COGVIDEOX_STORAGE_URL", url)
    with pytest.raises(BadSetting, match="must look like s3://bucket/prefix") as caught:
        Settings.load(_env_file=None)
    assert "secret" not in caught.value.message


# -- deletion ---------------------------------------------------------------------------------------------------------


def aged(storage: Storage, monkeypatch: pytest.MonkeyPatch, ages: dict[str, float]) -> None:
    """Makes the storage list the files with these ages, in seconds."""
    listed = storage.all
    now = time.time()
    monkeypatch.setattr(storage, "all", lambda: [replace(one, made_at=now - ages[one.key]) for one in listed()])


def test_results_nobody_said_anything_of(
    artifacts: Artifacts, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    old = artifacts.put("video.mp4", "video/mp4", FILM)
    young = artifacts.put("video.mp4", "video/mp4", FILM)
    promised = artifacts.put("video.mp4", "video/mp4", FILM, keep_seconds=30 * DAY)
    brought = artifacts.adopt(tmp_path / "file", artifacts.new_key(), "a.png", "image/png")
    assert artifacts.expires_at(old.key) is None and artifacts.expires_at(brought.key) is None
    ages = {old.key: 7 * DAY + 1, young.key: 7 * DAY - 60, promised.key: 20 * DAY, brought.key: 99 * DAY}
    aged(storage, monkeypatch, ages)
    assert artifacts.sweep() == 0
    assert artifacts.sweep(Limits(keep_seconds=7 * DAY)) == 1
    assert [artifacts.find(one.key) for one in (old, young, promised, brought)] == [None, young, promised, brought]


def test_want_of_room(artifacts: Artifacts, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    upload = artifacts.adopt(tmp_path / "file", artifacts.new_key(), "a.png", "image/png")
    results = [artifacts.put("video.mp4", "video/mp4", bytes(100)) for _ in range(4)]
    promised = artifacts.put("video.mp4", "video/mp4", bytes(100), keep_seconds=DAY)
    over = artifacts.put("video.mp4", "video/mp4", bytes(1000), keep_seconds=-1)
    files = [*results, promised, upload]
    hours = (2, 5, 0.99, 3, 8, 9)
    ages = {one.key: 3600 * age for one, age in zip(files, hours, strict=True)}
    aged(storage, monkeypatch, {**ages, over.key: 0})

    def left() -> list[float]:
        return [age for one, age in zip(files, hours, strict=True) if artifacts.find(one.key)]

    assert artifacts.sweep(Limits(size=600)) == 1 and left() == list(hours), "an expired file does not count"
    assert artifacts.sweep(Limits(size=599)) == 1 and left() == [2, 0.99, 3, 8, 9]
    assert artifacts.sweep(Limits(size=400)) == 1 and left() == [2, 0.99, 8, 9], "the 3 h result goes, the rest fits"
    assert artifacts.sweep(Limits(size=250)) == 2 and left() == [0.99, 8], "then the oldest of the others"
    assert artifacts.sweep(Limits(size=0)) == 1 and left() == [0.99], "never a file younger than an hour"


def test_each_key_has_its_own_room(artifacts: Artifacts, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {}
    for owner, count in (("one", 3), ("two", 2), ("", 3)):
        files[owner] = [artifacts.put("a.mp4", "video/mp4", bytes(100), owner=owner) for _ in range(count)]
    aged(storage, monkeypatch, {one.key: 7200 for made in files.values() for one in made})
    beginnings = {owner: {one.key[:8] for one in made} for owner, made in files.items()}
    assert all(len(alike) == 1 for alike in beginnings.values()) and len(set.union(*beginnings.values())) == 3
    assert len({one.key for made in files.values() for one in made}) == 8
    assert artifacts.sweep(Limits(size_per_owner=200)) == 2
    left = {owner: sum(artifacts.find(one.key) is not None for one in made) for owner, made in files.items()}
    assert left == {"one": 2, "two": 2, "": 2}, "without keys, all files have one owner"
    assert artifacts.sweep(Limits(size_per_owner=100, size=200)) == 4, "one of each key, then one more for the total"
