"""How the server fetches input images and clips: URLs, redirects, limits and formats."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from pipelines.request import Media
from pipelines.video.process import ffmpeg
from server.datadir import DataDir
from server.errors import DiskFull, MediaError
from server.media.addresses import is_public
from server.media.artifacts import Artifacts
from server.media.fetch import Intake
from server.media.inspectors import Inspectors
from server.media.outbound import Outbound
from tests.rigs.loopback import serving
from tests.rigs.pictures import bomb, picture

Call = Callable[..., Media]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    source = "testsrc=size=64x48:rate=8:duration=1"
    subprocess.run([ffmpeg(), "-v", "error", "-f", "lavfi", "-i", source, str(path)], check=True)
    return path.read_bytes()


class Handler(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        port = self.connection.getsockname()[1]
        match self.path.strip("/").split("/"):
            case ["picture"]:
                self.answer(200, picture())
            case ["html"]:
                self.answer(200, b"<html>not a picture</html>")
            case ["hop", n]:
                self.answer(302, location=f"/hop/{int(n) - 1}" if int(n) > 1 else "/picture")
            case ["private"]:
                self.answer(302, location=f"http://127.0.0.2:{port}/picture")
            case ["metadata"]:
                self.answer(307, location="http://169.254.169.254/latest/meta-data/")
            case ["file"]:
                self.answer(302, location="file:///etc/passwd")
            case ["endless"]:
                self.send_response(200)
                self.end_headers()
                try:
                    for _ in range(1000):
                        self.wfile.write(bytes(2**20))
                except OSError:
                    return
            case ["slow"]:
                self.send_response(200)
                self.end_headers()
                self.wfile.flush()
                threading.Event().wait(3)
            case _:
                self.answer(404, b"gone")

    def answer(self, code: int, data: bytes = b"", location: str | None = None) -> None:
        self.send_response(code)
        if location is not None:
            self.send_header("location", location)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    data = DataDir(tmp_path / "data")
    yield data
    data.close()


@pytest.fixture
def artifacts(data: DataDir) -> Artifacts:
    return Artifacts(data)


def take(
    artifacts: Artifacts, value: str | bytes, kind: str = "picture", allowed: Callable[[str], bool] = is_public
) -> Media:
    async def run() -> Media:
        inspectors = Inspectors()
        intake = Intake(artifacts._data, artifacts, Outbound(allowed, seconds=1.0), inspectors)
        try:
            return await (intake.picture if kind == "picture" else intake.video)(value, "image_url")
        finally:
            await intake.close()
            await inspectors.close()

    return asyncio.run(run())


def only_this_host(address: str) -> bool:
    return address == "127.0.0.1"


def refused(artifacts: Artifacts, value: str | bytes, code: str, **more: object) -> MediaError:
    with pytest.raises(MediaError) as caught:
        take(artifacts, value, **more)  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.code) == ("image_url", code), caught.value.message
    return caught.value


NOT_PUBLIC = [
    "127.0.0.1", "127.1", "127.255.255.254", "localhost", "0.0.0.0", "0", "2130706433", "0x7f000001", "0x7f.1",
    "017700000001", "0177.0.0.1", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1",
    "192.168.1.1", "169.254.169.254", "169.254.0.1", "2852039166", "100.64.0.1", "100.100.100.200", "192.0.0.192",
    "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "168.63.129.16", "192.88.99.1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]",
    "[::ffff:169.254.169.254]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::1]",
    "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]", "[2001:0:7f00:1::1]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]",
    "[fec0::1]", "[ff02::1]", "[2001:db8::1]", "[3fff::1]", "[100::1]",
]  # fmt: skip


@pytest.mark.parametrize("where", NOT_PUBLIC)
def test_no_way_inside(artifacts: Artifacts, where: str) -> None:
    """The server refuses these hosts before it sends a packet, because they are not public or not valid."""
    error = refused(artifacts, f"http://{where}/x.png", "file_download_error")
    assert "not public" in error.message or "not known" in error.message or "not valid" in error.message


@pytest.mark.parametrize(
    "where", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::1"]
)
def test_public_addresses(where: str) -> None:
    assert is_public(where)
    assert not is_public("not an address")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/x.png",
        "gopher://x/",
        "FILE:/etc/passwd",
        "javascript:1",
        "C:\\x.png",
        "http://",
        "http:///x",
        "https://[",
        "unix:/run/x",
    ],
)
def test_other_schemes(artifacts: Artifacts, url: str) -> None:
    refused(artifacts, url, "file_download_error")


def test_redirects_are_guarded_too(artifacts: Artifacts, host: str) -> None:
    before = len(Handler.asked)
    for path in ("private", "metadata", "file"):
        refused(artifacts, f"{host}/{path}", "file_download_error", allowed=only_this_host)
    assert Handler.asked[before:] == ["/private", "/metadata", "/file"]
    refused(artifacts, f"{host}/picture", "file_download_error")
    assert len(Handler.asked) == before + 3
    assert take(artifacts, f"{host}/hop/3", allowed=only_this_host).sha256
    error = refused(artifacts, f"{host}/hop/4", "file_download_error", allowed=only_this_host)
    assert "redirects" in error.message


def test_downloads_have_limits(artifacts: Artifacts, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.media.fetch.PICTURE_BYTES", 2**21)
    error = refused(artifacts, f"{host}/endless", "file_too_large", allowed=only_this_host)
    assert error.extra == {"max_size": 2**21}
    assert "longer" in refused(artifacts, f"{host}/slow", "file_download_error", allowed=only_this_host).message
    assert "404" in refused(artifacts, f"{host}/missing", "file_download_error", allowed=only_this_host).message
    assert refused(artifacts, f"{host}/html", "unsupported_image_format", allowed=only_this_host)
    refused(artifacts, bytes(2**21 + 1), "file_too_large")
    refused(artifacts, base64.b64encode(bytes(2**21 + 1)).decode(), "file_too_large")


def test_no_proxy_from_the_environment(artifacts: Artifacts, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", host)
    before = len(Handler.asked)
    refused(artifacts, "http://10.0.0.1/picture", "file_download_error", allowed=only_this_host)
    assert len(Handler.asked) == before


def test_every_form_of_a_picture(artifacts: Artifacts, data: DataDir, host: str) -> None:
    png = picture()
    text = base64.b64encode(png).decode()
    stored = artifacts.put("a picture.png", "image/png", png)
    forms: list[str | bytes] = [
        png,
        text,
        text.rstrip("="),
        "\n".join(text[i : i + 20] for i in range(0, len(text), 20)),
        base64.urlsafe_b64encode(png).decode(),
        f"data:image/png;base64,{text}",
        f"  DATA:image/png;charset=utf-8;base64,{text.rstrip('=')}\n",
        "data:," + "".join(f"%{b:02x}" for b in png),
        artifacts.url(stored, "https://whatever.example:1234/"),
    ]
    made = {take(artifacts, form) for form in forms} | {take(artifacts, f"{host}/picture", allowed=only_this_host)}
    (media,) = made
    assert Path(media.path) == data.inputs / media.sha256 and Path(media.path).read_bytes() == png
    assert [p.name for p in data.inputs.iterdir()] == [media.sha256]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "JPEG2000", "MPO"])
def test_kinds_of_pictures(artifacts: Artifacts, kind: str) -> None:
    assert take(artifacts, picture(kind)).sha256


def test_what_is_no_picture(artifacts: Artifacts, data: DataDir, clip: bytes) -> None:
    refused(artifacts, b"<html>", "unsupported_image_format")
    refused(artifacts, clip, "unsupported_image_format")
    refused(artifacts, picture("TGA"), "unsupported_image_format")
    refused(artifacts, picture(size=(200, 200))[:-60], "image_load_error")
    refused(artifacts, bomb(), "image_too_large")
    refused(artifacts, b"", "image_load_error")
    refused(artifacts, "", "image_load_error")
    refused(artifacts, "not base64 at all!", "file_download_error")
    refused(artifacts, "data:image/png;base64", "file_download_error")
    unknown = artifacts.url(artifacts.put("x.png", "image/png", b""), "http://127.0.0.1:1").replace("x.png", "y.png")
    refused(artifacts, unknown, "file_download_error")
    assert list(data.inputs.iterdir()) == []


def test_clips(artifacts: Artifacts, data: DataDir, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    media = take(artifacts, clip, "video")
    assert Path(media.path).read_bytes() == clip
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n"
    for junk in (b"<html>", playlist, picture("JPEG"), clip[: len(clip) // 4]):
        refused(artifacts, junk, "unsupported_video_format", kind="video")
    refused(artifacts, b"", "unsupported_video_format", kind="video")
    monkeypatch.setattr("server.media.inspectors.LONGEST", 0.5)
    refused(artifacts, clip, "video_duration_too_long", kind="video")
    monkeypatch.setattr("server.media.inspectors.PIXELS", 100)
    refused(artifacts, clip, "file_too_large", kind="video")
    assert [p.name for p in data.inputs.iterdir()] == [media.sha256]


def test_full_disk(artifacts: Artifacts, data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.datadir.os.fsync", full)
    with pytest.raises(DiskFull):
        take(artifacts, picture())
    with pytest.raises(DiskFull):
        artifacts.put("x.png", "image/png", b"")
    assert list(data.inputs.iterdir()) == [] and list(data.artifacts.iterdir()) == []
