"""The server stores files that clients upload, and files with a limited lifetime."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server.datadir import DataDir
from server.errors import DiskFull, UploadTooLarge
from server.media.artifact import Artifact
from server.media.artifacts import Artifacts
from server.media.storage import LocalStorage, Storage
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
def artifacts(data: DataDir, clock: Clock, storage: Storage) -> Artifacts:
    return Artifacts(data, clock=clock, storage=storage)


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
    assert artifacts.of_url(artifacts.url(made, "http://h")) == made
    assert artifacts.of_url(artifacts.url(made, "http://h") + "x") is None
    with artifacts.on_disk(made) as path:
        assert path.read_bytes() == b"abc"
    assert not path.exists()


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


def test_too_large(
    uploads: Uploads,
    data: DataDir,
    artifacts: Artifacts,
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.media.uploads.UPLOAD_BYTES", 4)
    with pytest.raises(UploadTooLarge):
        asyncio.run(uploads.store(chunks(b"abc", b"de"), "x"))
    key = artifacts.new_key()
    asyncio.run(uploads.store_part(key, 1, chunks(b"abc")))
    with pytest.raises(UploadTooLarge):
        asyncio.run(uploads.store_part(key, 2, chunks(b"de")))
    assert list(storage.all()) == [] and [p.name for p in data.uploads.iterdir()] == [key]


def test_files_whose_time_is_over(uploads: Uploads, artifacts: Artifacts, clock: Clock) -> None:
    brief = asyncio.run(uploads.store(chunks(b"a"), "a.png", keep_seconds=10))
    lasting = artifacts.put("b.mp4", "video/mp4", b"b")
    assert artifacts.expires_at(brief.key) == 1010 and artifacts.expires_at(lasting.key) is None
    assert artifacts.sweep() == 0
    clock.now = 1010
    assert artifacts.find(brief.key) is None and artifacts.of_url(artifacts.url(brief, "http://h")) is None
    assert artifacts.sweep() == 1 and artifacts.sweep() == 0
    assert artifacts.read(lasting) == b"b"
    artifacts.remove(lasting)
    artifacts.remove(lasting)
    with pytest.raises(FileNotFoundError):
        artifacts.read(lasting)


def test_large_ones(uploads: Uploads, artifacts: Artifacts) -> None:
    """The server stores a file that is larger than one part of an upload to S3."""
    block = bytes(range(256)) * 4096
    made = asyncio.run(uploads.store(chunks(*[block] * 12), "v.mp4"))
    assert made.size == 12 * 2**20 and artifacts.read(made) == block * 12


@pytest.mark.parametrize(
    "where", ["tempfile.NamedTemporaryFile", "server.datadir.os.fsync", "server.datadir.os.fdopen"]
)
def test_full_disk(
    uploads: Uploads,
    data: DataDir,
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """When the disk is full, the server keeps the parts that it already has, and nothing of the new part."""
    key = "k" * 32
    asyncio.run(uploads.store_part(key, 1, chunks(b"whole")))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    there = sorted(data.uploads.rglob("*"))
    with monkeypatch.context() as patched:
        patched.setattr(where, full)
        for number in (1, 2):
            with pytest.raises(DiskFull, match="disk is full"):
                asyncio.run(uploads.store_part(key, number, chunks(b"new")))
        if isinstance(storage, LocalStorage) or where.startswith("tempfile"):
            with pytest.raises(DiskFull, match="disk is full"):
                asyncio.run(uploads.store(chunks(b"new"), "x.png"))
            assert list(storage.all()) == []
    assert sorted(data.uploads.rglob("*")) == there and (data.uploads / key / "1").read_bytes() == b"whole"
    assert asyncio.run(uploads.complete(key, [1], "v.mp4")).size == 5


def test_a_disk_that_fills_while_a_client_sends(uploads: Uploads, data: DataDir, storage: Storage) -> None:
    async def sent() -> AsyncIterator[bytes]:
        yield b"a"
        # a full disk raises the same error when the server writes the bytes
        raise OSError(28, "No space left on device")

    for attempt in (uploads.store(sent(), "x.png"), uploads.store_part("k" * 32, 1, sent())):
        with pytest.raises(DiskFull):
            asyncio.run(attempt)
    assert [p for p in data.uploads.rglob("*") if p.is_file()] == [] and list(storage.all()) == []


def test_two_at_the_same_address(uploads: Uploads, storage: Storage) -> None:
    """After two uploads to one URL, one upload's file is stored whole. On a local disk, the other upload may fail."""

    async def both() -> list[object]:
        sent = (uploads.store(chunks(word), "x.png", key="k" * 32) for word in (b"one", b"two"))
        return list(await asyncio.gather(*sent, return_exceptions=True))

    ends = asyncio.run(both())
    assert storage.read("k" * 32, "x.png") in (b"one", b"two")
    assert all(isinstance(end, Artifact | UploadBroken) for end in ends), ends


def test_secrets_are_kept(tmp_path: Path) -> None:
    first, second = Signing(tmp_path / "keys"), Signing(tmp_path / "keys")
    other = Signing(tmp_path / "others")
    assert first.jwks() == second.jwks() != other.jwks() and first.ed25519(b"m") == second.ed25519(b"m")
    assert second.allows(first.token("a", "b"), "a", "b")
    for token, parts in ((first.token("a", "b"), ("ab", "")), (other.token("a"), ("a",)), ("", ("a",)), ("ü", ("a",))):
        assert not first.allows(token, *parts)
    assert all(oct(p.stat().st_mode)[-2:] == "00" for p in (tmp_path / "keys").rglob("*"))


def test_parts_without_end(uploads: Uploads, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server limits the number of parts, because for each new part it examines all parts. A part that is sent again
    does not count."""
    monkeypatch.setattr("server.media.uploads.MOST_PARTS", 3)
    key = artifacts.new_key("")
    for number in (1, 2, 10_000, 2):
        asyncio.run(uploads.store_part(key, number, chunks(b"x")))
    with pytest.raises(UploadTooLarge, match="3 parts"):
        asyncio.run(uploads.store_part(key, 4, chunks(b"x")))
    assert asyncio.run(uploads.complete(key, [1, 2, 10_000], "a.bin")).size == 3
