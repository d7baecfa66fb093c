"""Files that clients bring, and files that are kept for a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server.datadir import DataDir
from server.errors import UploadTooLarge
from server.media.artifacts import Artifacts
from server.media.uploads import UploadBroken, Uploads
from server.signing import Signing


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    data = DataDir(tmp_path / "data")
    yield data
    data.close()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def artifacts(data: DataDir, clock: Clock) -> Artifacts:
    return Artifacts(data, clock=clock)


@pytest.fixture
def uploads(data: DataDir, artifacts: Artifacts) -> Uploads:
    return Uploads(data, artifacts)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("name", "given", "stored", "media_type"),
    [
        ("a picture.png", "image/png", "a-picture.png", "image/png"),
        ("../../etc/passwd", "text/plain", "passwd.txt", "text/plain"),
        ("page.html", "text/html", "page.html", "application/octet-stream"),
        ("page.html", "image/png", "page.html.png", "image/png"),
        ("", "video/mp4", "file.mp4", "video/mp4"),
        ("lora.safetensors", "", "lora.safetensors", "application/octet-stream"),
    ],
)
def test_whole(uploads: Uploads, artifacts: Artifacts, name: str, given: str, stored: str, media_type: str) -> None:
    made = asyncio.run(uploads.store(chunks(b"ab", b"c"), name, given))
    assert (made.file_name, made.media_type, made.size) == (stored, media_type, 3)
    assert artifacts.find(made.key) == made and artifacts.read(made) == b"abc"
    assert artifacts.of_url(artifacts.url(made, "http://h")) == artifacts.path(made.key)


def test_in_parts(uploads: Uploads, artifacts: Artifacts, data: DataDir) -> None:
    key = artifacts.new_key()
    tags = [asyncio.run(uploads.store_part(key, n, chunks(part))) for n, part in ((2, b"cd"), (1, b"XX"), (1, b"ab"))]
    assert tags[1] != tags[2] and all(json.loads(tag) for tag in tags)
    with pytest.raises(UploadBroken):
        asyncio.run(uploads.complete(key, [1, 2, 3], "v.mp4"))
    made = asyncio.run(uploads.complete(key, [2, 1], "v.mp4"))
    assert artifacts.read(made) == b"abcd" and made.key == key
    assert list(data.uploads.iterdir()) == []
    for again in (uploads.store(chunks(b"x"), "v.mp4", key=key), uploads.complete(key, [1], "v.mp4")):
        with pytest.raises(UploadBroken):
            asyncio.run(again)
    with pytest.raises(UploadBroken):
        asyncio.run(uploads.store_part(key, 1, chunks(b"x")))


@pytest.mark.parametrize("key", ["..", "a/b", "", "x" * 31])
def test_keys_are_not_the_clients(uploads: Uploads, key: str) -> None:
    with pytest.raises(UploadBroken):
        asyncio.run(uploads.store_part(key, 1, chunks(b"x")))
    if key:
        with pytest.raises(UploadBroken):
            asyncio.run(uploads.store(chunks(b"x"), "x", key=key))


def test_too_large(uploads: Uploads, data: DataDir, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.media.uploads.UPLOAD_BYTES", 4)
    with pytest.raises(UploadTooLarge):
        asyncio.run(uploads.store(chunks(b"abc", b"de"), "x"))
    key = artifacts.new_key()
    asyncio.run(uploads.store_part(key, 1, chunks(b"abc")))
    with pytest.raises(UploadTooLarge):
        asyncio.run(uploads.store_part(key, 2, chunks(b"de")))
    assert list(data.artifacts.iterdir()) == [] and [p.name for p in data.uploads.iterdir()] == [key]


def test_files_whose_time_is_over(uploads: Uploads, artifacts: Artifacts, clock: Clock) -> None:
    brief = asyncio.run(uploads.store(chunks(b"a"), "a.png", keep_seconds=10))
    lasting = artifacts.put("b.mp4", "video/mp4", b"b")
    assert artifacts.expires_at(brief.key) == 1010 and artifacts.expires_at(lasting.key) is None
    assert artifacts.sweep() == 0
    clock.now = 1010
    assert artifacts.path(brief.key) is None and artifacts.of_url(artifacts.url(brief, "http://h")) is None
    assert artifacts.sweep() == 1 and artifacts.sweep() == 0
    assert artifacts.read(lasting) == b"b"


def test_secrets_are_kept(tmp_path: Path) -> None:
    first, second = Signing(tmp_path / "keys"), Signing(tmp_path / "keys")
    other = Signing(tmp_path / "others")
    assert first.jwks() == second.jwks() != other.jwks() and first.ed25519(b"m") == second.ed25519(b"m")
    assert second.allows(first.token("a", "b"), "a", "b")
    for token, parts in ((first.token("a", "b"), ("ab", "")), (other.token("a"), ("a",)), ("", ("a",)), ("ü", ("a",))):
        assert not first.allows(token, *parts)
    assert all(oct(p.stat().st_mode)[-2:] == "00" for p in (tmp_path / "keys").rglob("*"))
