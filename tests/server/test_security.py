"""Attacks: URLs into the private network, decompression bombs, endless bodies, header injection, guessed keys.

The server refuses each attack in the vendor's format, and the log contains no secrets or prompts.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import io
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import structlog
from PIL import Image
from starlette.testclient import TestClient

from pipelines.video.process import ffmpeg
from server import auth
from server.auth import Keys, Unauthorized
from server.datadir import DataDir
from server.errors import MediaError
from server.limits.bodies import MAX_BODY
from server.media.artifacts import Artifacts
from server.media.fetch import Intake
from server.media.inspectors import Inspectors
from server.media.outbound import DownloadFailed, Outbound
from server.serve import set_up_logging
from tests.rigs import pace
from tests.rigs.clients.running import KEY, stand_in_server
from tests.rigs.cloud_calls import CALLS, SAYS
from tests.rigs.house import app, house_of, plain
from tests.rigs.pictures import bomb, picture

# -- outgoing requests ------------------------------------------------------------------------------------------------

HOSTILE = [
    # this machine's addresses, in many notations
    "http://127.0.0.1/", "http://127.1/", "http://127.0.1/", "http://127.255.255.254/", "http://0/", "http://0.0.0.0/",
    "http://0x0/", "http://00000/", "http://2130706433/", "http://0x7f000001/", "http://0x7F.0x0.0x0.0x1/",
    "http://017700000001/", "http://0177.0.0.1/", "http://0177.0.0.01/", "http://127.0x1/", "http://127.000.000.001/",
    "http://localhost/", "http://LOCALHOST/", "http://localhost./", "http://ip6-localhost/",
    "http://127。0。0。1/", "http://①②⑦.⓪.⓪.①/", "http://１２７.０.０.１/", "http://%31%32%37.0.0.1/",
    "http://[::1]/", "http://[::]/", "http://[0:0:0:0:0:0:0:1]/", "http://[::1%25lo]/", "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/", "http://[0:0:0:0:0:ffff:127.0.0.1]/", "http://[::127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/", "http://[64:ff9b:1::7f00:1]/", "http://[2002:7f00:1::1]/",
    "http://[2001:0:7f00:1::]/", "http://[::ffff:0:127.0.0.1]/",
    # private and reserved networks
    "http://10.0.0.1/", "http://10.1/", "http://167772161/", "http://172.16.0.1/", "http://172.31.255.254/",
    "http://192.168.0.1/", "http://192.168.257/", "http://0xc0a80001/", "http://100.64.0.1/", "http://100.127.255.254/",
    "http://169.254.0.1/", "http://192.0.0.8/", "http://198.18.0.1/", "http://224.0.0.1/", "http://255.255.255.255/",
    "http://240.0.0.1/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/", "http://[fc00::1]/", "http://[fd12:3456::1]/",
    "http://[fec0::1]/", "http://[ff02::1]/", "http://[::ffff:10.0.0.1]/", "http://[64:ff9b::10.0.0.1]/",
    "http://[2002:a00:1::1]/", "http://[2002:c0a8:1::1]/",
    # metadata services of clouds
    "http://169.254.169.254/latest/meta-data/", "http://2852039166/", "http://0xa9fea9fe/", "http://0xA9.0xFE.43518/",
    "http://0251.0376.0251.0376/", "http://[::ffff:169.254.169.254]/", "http://[::ffff:a9fe:a9fe]/",
    "http://[fd00:ec2::254]/", "http://100.100.100.200/", "http://168.63.129.16/", "http://192.0.0.192/",
    # other schemes
    "file:///etc/passwd", "file://localhost/etc/passwd", "FILE:/etc/passwd", "gopher://127.0.0.1:6379/_FLUSHALL",
    "dict://127.0.0.1:11211/stats", "ftp://127.0.0.1/x", "ldap://127.0.0.1/", "jar:http://127.0.0.1!/", "unix:/run/x",
    "concat:/etc/passwd", "subfile:,,start,0,end,9,,:/etc/passwd", "javascript:fetch('http://127.0.0.1')",
    # URLs with a misleading or malformed host
    "http://8.8.8.8@127.0.0.1/", "http://8.8.8.8:80@127.0.0.1/", "http://127.0.0.1#@8.8.8.8/", "http://127.0.0.1?@8.8.8.8/",
    "http://8.8.8.8\\@127.0.0.1/", "http://127.0.0.1\\.8.8.8.8/", "http:127.0.0.1/", "http:///127.0.0.1/",
    "http://127.0.0.1\t/", "http://127.0.0.1\r\nHost: 8.8.8.8/", "http://127.0.0.1%0d%0aX:1/", "http://127.0.0.1%00.x/",
    "http://[::1", "http://127.0.0.1:99999/", "http://127.0.0.1:-1/",
]  # fmt: skip
NAMES = {
    "metadata.google.internal": ["169.254.169.254"],
    "inside.test": ["10.0.0.1"],
    "mapped.test": ["::ffff:127.0.0.1"],
    "six.test": ["::1"],
    "many.test": ["10.0.0.1", "127.0.0.1", "::1", "169.254.169.254"],
}


class Dialled:
    """Records every address that this process connects to. All tests share one hook, because a hook cannot be
    removed."""

    def __init__(self) -> None:
        self.at: list[Any] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "socket.connect" and self.at is not None and isinstance(given[1], tuple):
            self.at.append(given[1])

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[Any]]:
        self.at = []
        try:
            yield self.at
        finally:
            self.at = None


DIALLED = Dialled()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Replaces the resolver and returns its table of answers. Each look-up of a name gets the name's next answer; the
    last answer is repeated."""
    answers: dict[str, list[list[str]]] = {name: [found] for name, found in NAMES.items()}
    real = socket.getaddrinfo

    def look(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host not in answers:
            return real(host, port, *args, **more)
        found = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
        return [entry for one in found for entry in real(one, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", look)
    return answers


def through(outbound: Outbound, act: Callable[[Outbound], Any]) -> Any:
    async def run() -> Any:
        try:
            return await act(outbound)
        finally:
            await outbound.close()

    return asyncio.run(run())


@pytest.mark.parametrize("url", [*HOSTILE, *(f"http://{name}/" for name in NAMES)])
def test_no_way_inside(url: str, names: dict[str, list[list[str]]]) -> None:
    """Neither a download nor a webhook opens a connection to these URLs."""
    with DIALLED.watched() as dialled:
        with pytest.raises(DownloadFailed):
            through(Outbound(seconds=5), lambda outbound: outbound.download(url, 1000))
        with pytest.raises(DownloadFailed):
            through(Outbound(), lambda outbound: outbound.post(url, b"{}", {}, 5))
    assert dialled == []


def test_the_corpus_is_a_corpus() -> None:
    assert len(HOSTILE) == len(set(HOSTILE)) >= 60


class Inside(http.server.ThreadingHTTPServer):
    """A service that only this machine may reach. With `leads_to`, the service redirects its callers to this URL."""

    def __init__(self, address: str, leads_to: str = "") -> None:
        self.heard: list[str] = []
        self.leads_to = leads_to
        super().__init__((address, 0), Redirecting)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class Redirecting(http.server.BaseHTTPRequestHandler):
    server: Inside

    def do_GET(self) -> None:
        self.server.heard.append(self.path)
        self.send_response(302 if self.server.leads_to else 200)
        if self.server.leads_to:
            self.send_header("location", self.server.leads_to)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def outside_only(address: str) -> bool:
    """In these tests, 127.0.0.1 stands for the public internet, and every other address is private."""
    return address == "127.0.0.1"


@pytest.mark.parametrize("scheme", ["http", "//", "HTTP", "@"])
def test_redirects_lead_nowhere_inside(scheme: str, names: dict[str, list[list[str]]]) -> None:
    with Inside("127.0.0.2") as inside:
        where = f"127.0.0.2:{inside.server_port}/secret"
        leads_to = {"//": f"//{where}", "@": f"http://127.0.0.1@{where}"}.get(scheme, f"{scheme}://{where}")
        with Inside("127.0.0.1", leads_to) as outside, DIALLED.watched() as dialled:
            with pytest.raises(DownloadFailed, match="not public"):
                through(Outbound(outside_only), lambda d: d.download(f"http://127.0.0.1:{outside.server_port}/a", 1000))
            outside.shutdown()
        inside.shutdown()
    assert len(outside.heard) == 1 and inside.heard == []
    assert {address[0] for address in dialled} == {"127.0.0.1"}


def test_a_name_that_changes_its_mind(names: dict[str, list[list[str]]]) -> None:
    """A name may have a public address at the first look-up and a private address at the second, or have both at
    once."""
    with Inside("127.0.0.2") as inside:
        port = inside.server_port
        names["rebinding.test"] = [["127.0.0.1"], ["127.0.0.2"]]
        names["mixed.test"] = [["127.0.0.1", "127.0.0.2"]]
        names["late.test"] = [["127.0.0.2"]]
        with DIALLED.watched() as dialled:
            for name in ("rebinding.test", "rebinding.test", "mixed.test", "late.test"):
                with pytest.raises(DownloadFailed):
                    through(Outbound(outside_only), lambda d, n=name: d.download(f"http://{n}:{port}/secret", 1000))
        inside.shutdown()
    assert inside.heard == []
    assert {address[0] for address in dialled} <= {"127.0.0.1"} and dialled


# -- untrusted files --------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    data = DataDir(tmp_path / "data")
    yield data
    data.close()


def refusal(data: DataDir, value: bytes, kind: str) -> MediaError | None:
    """Returns the intake's error for the file, or None if the intake accepts the file."""

    async def run() -> None:
        inspectors = Inspectors()
        intake = Intake(data, Artifacts(data), Outbound(), inspectors)
        try:
            await (intake.picture if kind == "picture" else intake.video)(value, "image_url")
        finally:
            await intake.close()
            await inspectors.close()

    try:
        asyncio.run(run())
    except MediaError as e:
        return e
    return None


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes, width: int = 8, height: int = 8) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes((1 + 24) * 8)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def burst(size: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(size // 2**20)), packer.flush()])


def animation(side: int, frames: int) -> bytes:
    """Returns a GIF in which each frame takes only a few bytes."""
    head = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, side, side) + b"\0\x02\x02\x44\x01\0"
    return head + frame * frames + b"\x3b"


def html_first(image: bytes) -> bytes:
    return b"<html><script>alert(1)</script>" + image


PICTURES: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb": (bomb, "image_too_large"),
    "sides of billions": (lambda: png(width=2**31 - 1, height=2**31 - 1), "image_too_large"),
    "one line of millions": (lambda: png(width=50_000_000, height=1), "image_too_large"),
    "no side": (lambda: png(width=0, height=8), "unsupp image_load_error"),
    "huge gif": (lambda: animation(65535, 1), "image_too_large"),
    "huge animation": (lambda: animation(20000, 5000), "image_too_large"),
    "cut png": (lambda: picture(size=(300, 300))[:200], "image_load_error"),
    "cut jpeg": (lambda: picture("JPEG", (300, 300))[:400], "image_load_error"),
    "cut webp": (lambda: picture("WEBP", (300, 300))[:60], "unsupp image_load_error"),
    "wrong sums": (lambda: picture(size=(64, 64)).replace(b"IDAT", b"IDAx"), "unsupp image_load_error"),
    "text that bursts": (lambda: png(chunk(b"zTXt", b"a\0\0" + burst(2**28))), "image_load_error"),
    "html first": (lambda: html_first(picture()), "unsupported_image_format"),
    "gif in name only": (lambda: b"GIF89a/*<script>*/=1;alert(1)//", "unsupp image_load_error"),
    "svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "unsupp"),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", "unsupp"),
    "cut tiff": (lambda: picture("TIFF", (300, 300))[:-400], "image_load_error"),
    "cut avif": (lambda: picture("AVIF", (300, 300))[:200], "unsupp image_load_error"),
    "photoshop": (lambda: b"8BPS\0\1" + bytes(100), "unsupp"),
    "icns": (lambda: b"icns" + bytes(100), "unsupp"),
    "pdf": (lambda: picture("PDF"), "unsupp"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_hostile_pictures(name: str, data: DataDir) -> None:
    make, codes = PICTURES[name]
    given = make()
    before = psutil.Process().memory_info().rss
    error = refusal(data, given, "picture")
    assert error is not None and error.field == "image_url"
    assert any(error.code.startswith(code) for code in codes.split()), (error.code, error.message)
    assert psutil.Process().memory_info().rss - before < 300 * 2**20
    assert list(data.inputs.iterdir()) == []


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about truncated tags
@pytest.mark.parametrize(
    "given",
    [
        lambda: png(chunk(b"iCCP", b"icc\0\0" + burst(2**28))),
        lambda: png(chunk(b"iCCP", b"icc\0\0" + b"junk")),
        lambda: png(chunk(b"eXIf", b"MM\0\x2a" + b"\xff" * 4000)),
        lambda: jpeg_with(b"\xff\xe2", b"ICC_PROFILE\0\x01\x01" + b"\xff" * 60000),
        lambda: jpeg_with(b"\xff\xe1", b"Exif\0\0II\x2a\0\x08\0\0\0\xff\xff" + b"\x07" * 2000),
        lambda: picture() + b"<html><script>alert(1)</script>",
    ],
)
def test_junk_beside_a_picture_does_no_harm(given: Callable[[], bytes], data: DataDir) -> None:
    """The server drops hostile profiles, tags and trailing bytes, or refuses the image."""
    before = psutil.Process().memory_info().rss
    error = refusal(data, given(), "picture")
    assert error is None or error.code == "image_load_error"
    assert psutil.Process().memory_info().rss - before < 300 * 2**20


def jpeg_with(marker: bytes, content: bytes) -> bytes:
    whole = picture("JPEG", (32, 32))
    return whole[:2] + marker + struct.pack(">H", len(content) + 2) + content + whole[2:]


def film(folder: Path, source: str, name: str = "x.mp4", *more: str) -> bytes:
    path = folder / name
    subprocess.run([ffmpeg(), "-v", "error", "-f", "lavfi", "-i", source, *more, str(path)], check=True)
    return path.read_bytes()


def test_hostile_films(data: DataDir, tmp_path: Path) -> None:
    """The server refuses a file that lists other files, whatever the type of the list, and fetches none of the listed
    files."""
    with Inside("127.0.0.1") as inside:
        at = f"http://127.0.0.1:{inside.server_port}/x.ts"
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{at}\n#EXTINF:1,\nfile:///etc/passwd\n".encode()
        small = film(tmp_path, "testsrc=size=64x48:rate=8:duration=1")
        lists = {
            "hls": playlist,
            "gif before hls": b"GIF89a\n" + playlist,
            "hls in an avi": b"RIFF" + struct.pack("<I", len(playlist)) + b"AVI " + playlist,
            "concat": f"ffconcat version 1.0\nfile {at}\nfile /etc/passwd\n".encode(),
            "dash": f'<?xml version="1.0"?><MPD><Period><BaseURL>{at}</BaseURL></Period></MPD>'.encode(),
            "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video {inside.server_port} RTP/AVP 96\n".encode(),
            "rtsp": f"[Reference]\nRef1={at}\n".encode(),
            "smil": f'<smil><body><video src="{at}"/></body></smil>'.encode(),
            "image sequence": b"frame-%03d.png",
            "subtitles": f"1\n00:00:00,000 --> 00:00:01,000\n<img src={at}>\n".encode(),
            "a cut film": small[: len(small) // 3],
            "sound": film(tmp_path, "sine=duration=1", "x.wav"),
            "sound in an mp4": film(tmp_path, "sine=duration=1", "y.mp4"),
            "html": html_first(small),
        }
        for name, given in lists.items():
            error = refusal(data, given, "video")
            assert error is not None, name
            assert error.code == ("file_too_large" if name.startswith("gif") else "unsupported_video_format"), name
        inside.shutdown()
    assert inside.heard == []
    for given, code in (
        (film(tmp_path, "color=size=8192x4320:rate=1:duration=1", "large.mp4"), "file_too_large"),
        (film(tmp_path, "color=size=64x48:rate=1:duration=90", "long.mp4"), "video_duration_too_long"),
        (b"", "unsupported_video_format"),
    ):
        error = refusal(data, given, "video")
        assert error is not None and error.code == code
    assert list(data.inputs.iterdir()) == []
    assert refusal(data, small, "video") is None


# -- bodies -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Runs a real server process that requires KEY, and returns its `host:port` and the path of its log."""
    folder = tmp_path_factory.mktemp("served")
    with stand_in_server(folder, modelslab_status="real", max_queue="1000") as address:
        yield address, folder / "server.log"


Served = tuple[str, Path]


def dial(address: str) -> socket.socket:
    host, _, port = address.partition(":")
    return socket.create_connection((host, int(port)), timeout=pace.seconds(60))


def head(path: str, *headers: str, key: str = KEY) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "host: here", f"authorization: Bearer {key}", "content-type: application/json")
    return ("\r\n".join((*lines, *headers)) + "\r\n\r\n").encode()


def answered(line: socket.socket) -> tuple[int, dict[str, Any]]:
    """Returns the status code and body of the answer, which may come while the test is still sending."""
    with line.makefile("rb") as reader:
        status = int(reader.readline().split()[1])
        length = 0
        while (header := reader.readline().strip()) != b"":
            name, _, value = header.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        return status, json.loads(reader.read(length))


@pytest.mark.parametrize("vendor", CALLS)
def test_a_body_too_large_is_refused_before_it_comes(vendor: str, served: Served) -> None:
    with dial(served[0]) as line:
        line.sendall(head(CALLS[vendor][0], f"content-length: {200 * 2**20}"))
        status, body = answered(line)
    assert status == (435 if vendor == "zhipu" else 413), body
    assert "128 MiB" in str(body[SAYS[vendor]])


def test_a_body_that_does_not_tell_its_size_is_not_kept(served: Served) -> None:
    """The server reads and discards a body that is too large, because a client reads no answer before it has sent the
    body."""
    process = server_at(served[0])
    before = process.memory_info().rss
    with dial(served[0]) as line:
        line.sendall(head("/v1/videos", "transfer-encoding: chunked"))
        for _ in range(3 * MAX_BODY // 2**20):
            line.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
        grown = process.memory_info().rss - before
        line.sendall(b"0\r\n\r\n")
        status, body = answered(line)
    assert status == 413 and "128 MiB" in body["error"]["message"]
    assert grown < MAX_BODY


def server_at(address: str) -> psutil.Process:
    port = int(address.rpartition(":")[2])
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return psutil.Process(next(c.pid for c in listening if c.laddr.port == port))


def test_slow_bodies_hold_up_nobody_else(served: Served) -> None:
    """The server answers a client while 120 slow clients, more than it has threads, send their headers or bodies."""
    with contextlib.ExitStack() as lines:
        slow = [lines.enter_context(dial(served[0])) for _ in range(120)]
        for n, line in enumerate(slow):
            path, _, _ = list(CALLS.values())[n % len(CALLS)]
            line.sendall(head(path, "content-length: 100")[: None if n % 2 else -2])
        for _ in range(3):
            for line in slow[1::2]:
                line.sendall(b" ")
            with dial(served[0]) as line:
                body = json.dumps(CALLS["openai"][1]).encode()
                line.sendall(head("/v1/videos", f"content-length: {len(body)}") + body)
                assert answered(line)[0] == 200
        rest = json.dumps(CALLS["openai"][1]).encode()
        patient = next(line for n, line in enumerate(slow) if n % 2 and list(CALLS)[n % len(CALLS)] == "openai")
        patient.sendall(rest.rjust(97))
        assert answered(patient)[0] == 200


# -- headers ----------------------------------------------------------------------------------------------------------

SPLIT = "x\r\nX-Evil: 1\r\n\r\n<html>"


def test_nothing_splits_a_header(tmp_path: Path) -> None:
    application = app(tmp_path)
    client = TestClient(application, raise_server_exceptions=False)
    coded, parts = "x%0d%0aX-Evil:%201%0d%0a", {"content-type": "multipart/form-data; boundary=b"}
    told = {"file_name": "a.png", "content_type": "a/b"}
    answers = [
        client.post("/storage/upload/initiate", json={"file_name": SPLIT, "content_type": SPLIT}),
        client.post(f"/storage/upload/initiate?storage_type={coded}", json=told),
        client.post("/v1/files", files={"file": ("x%0d%0aX-Evil", b"x", "text/plain")}, data={"purpose": "user_data"}),
        client.post("/v1/files", content=form(SPLIT), headers=parts),
        client.post("/replicate/v1/files", content=form(SPLIT), headers=parts),
        client.get(f"/files/{'a' * 32}/{coded}"),
        client.get("/v1/videos", params={"after": SPLIT, "order": SPLIT}),
        client.get("/docs", headers={"host": "x%0d%0aX-Evil"}),
        *(client.request(m, f"{path}/{coded}") for path, _, _ in CALLS.values() for m in ("GET", "POST")),
        *(client.get(asked.replace("x", coded)) for _, _, asked in CALLS.values() if asked),
        *(client.post(path, json=body, headers={"x-request-id": coded, "x-fal-request-id": coded})
          for vendor, (path, body, _) in CALLS.items() if vendor != "huggingface"),
    ]  # fmt: skip
    for answer in answers:
        assert answer.status_code != 500, answer.text
        for name, value in answer.headers.raw:
            assert name.lower() != b"x-evil" and not set(b"\r\n\0") & {*name, *value}, (name, value)
    house_of(application).close()


def form(name: str) -> bytes:
    """Returns a form with the field `purpose` and two files with this name."""
    purpose = 'content-disposition: form-data; name="purpose"\r\n\r\nuser_data'
    file = f'content-disposition: form-data; name="content"; filename="{name}"\r\n\r\nx'
    same = file.replace('"content"', '"file"')
    return "".join(f"--b\r\n{part}\r\n" for part in (purpose, file, same)).encode() + b"--b--\r\n"


def test_an_upload_never_acts_as_a_page(tmp_path: Path) -> None:
    application = app(tmp_path)
    with TestClient(application) as client:
        for name, media_type in (("x.html", "text/html"), ("x.svg", "image/svg+xml"), ("a.png", "text/html")):
            told = {"file_name": name, "content_type": media_type}
            urls = client.post("/storage/upload/initiate", json=told).json()
            page = html_first(picture())
            assert client.put(urls["upload_url"], content=page).status_code == 200
            answer = client.get(urls["file_url"])
            assert answer.content == page
            kind, disposition = answer.headers["content-type"], answer.headers["content-disposition"]
            assert (
                kind in ("application/octet-stream", "image/png")
                and answer.headers["x-content-type-options"] == "nosniff"
            )
            assert kind == "image/png" or disposition.startswith("attachment")


# -- keys and logs ----------------------------------------------------------------------------------------------------


def test_a_guess_is_compared_with_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server makes the same number of constant-time comparisons for a right, a partly right and a wrong key."""
    compared: list[tuple[bytes, bytes]] = []
    real = auth.hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(auth.hmac, "compare_digest", counted)
    keys = Keys(plain(api_keys="first.aaaa,second.bbbb,third.cccc"))
    for given in ("first.aaaa", "second.bbbb", "third.cccc", "first:aaaa", "third.cccd", "first.bbbb", "x", "y" * 9999):
        compared.clear()
        with contextlib.suppress(Unauthorized):
            keys.identify({"authorization": f"Bearer {given}"})
        assert len(compared) == 3 and {len(part) for pair in compared for part in pair} == {32}, given


WORD = "unutterable-prompt-of-a-client"
SECRET = "secret-half-of-a-key-7c1f"


def test_the_log_tells_no_secrets(tmp_path: Path) -> None:
    def provoke(address: str) -> None:
        with requests.Session() as session:
            session.trust_env = False
            for key in (f"id:{SECRET}", f"wrong:{SECRET}", f"ey.{SECRET}.x"):
                for path, body, asked in CALLS.values():
                    headers = {"authorization": f"Bearer {key}", "x-webhook": WORD, "idempotency-key": WORD}
                    sent = json.dumps(body).replace("steps=1", f"{WORD} steps=1")
                    for wrong in (
                        sent[:-1],
                        sent.replace(WORD, WORD * 2000),
                        f"[{sent}]",
                        sent.replace(":", f":{WORD}"),
                    ):
                        session.post(f"http://{address}{path}", data=wrong, headers=headers, timeout=pace.seconds(60))
                    session.get(f"http://{address}{asked}?key={SECRET}", headers=headers, timeout=pace.seconds(60))
            for order in ("fail=internal", "fail=bad_output", "refuse=width", "die=SIGKILL times=1", "steps=1"):
                body = {"prompt": f"{WORD} {order}", "fal_webhook": WORD}
                answer = session.post(
                    f"http://{address}/run/fal-ai/cogvideox-5b",
                    json=body,
                    headers={"authorization": f"Key id:{SECRET}"},
                    timeout=pace.seconds(60),
                )
                assert SECRET not in answer.text and str(tmp_path) not in answer.text and "Traceback" not in answer.text
            session.post(
                f"http://{address}/queue/fal-ai/cogvideox-5b?fal_webhook=http://127.0.0.1:1/{WORD}",
                json={"prompt": f"{WORD} steps=1"},
                headers={"authorization": f"Key id:{SECRET}"},
                timeout=pace.seconds(60),
            )

    with stand_in_server(tmp_path, api_keys=f"id:{SECRET}", log_level="debug") as address:
        provoke(address)
    said = (tmp_path / "server.log").read_text()
    assert "job failed" in said and "job succeeded" in said and "worker died" in said
    for secret in (WORD, SECRET, str(tmp_path), "Traceback", "unhandled"):
        assert secret not in said, [line for line in said.splitlines() if secret in line][:3]
    assert not re.search(r"(^|\W)/(work|tmp|root|home|usr)/", said)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_shown_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback on a terminal contains no values of variables, because these may be prompts and keys."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    before = structlog.get_config()
    try:
        set_up_logging("info")
        prompt = WORD
        try:
            raise ValueError(len(prompt))
        except ValueError:
            structlog.get_logger().exception("it broke")
    finally:
        structlog.configure(**before)
    assert "it broke" in terminal.getvalue() and "ValueError" in terminal.getvalue()
    assert WORD not in terminal.getvalue()


def test_an_image_of_the_family_is_taken(data: DataDir) -> None:
    """Unlike all the files above, an ordinary image is accepted."""
    made = io.BytesIO()
    Image.new("RGB", (640, 480), "red").save(made, "PNG")
    assert refusal(data, made.getvalue(), "picture") is None
