"""Attacks below the API: endless headers, idle connections, large bodies without a key, responses that are never read.

The attacker's address is 127.0.0.2, so that the server counts the attacker's connections apart from the bystander's.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.rigs import pace
from tests.rigs.attacks.rig import ATTACKER, LEFT_BEHIND, Target, attacked

MIB = 2**20
LARGE = 127 * MIB
HEAD = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"
MODELSLAB = "/api/v6/video/img2video"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("transport")) as found:
        yield found
        found.assert_stops()


def connect(target: Target, source: str = "127.0.0.2") -> socket.socket:
    host, port = target.address.split(":")
    return socket.create_connection((host, int(port)), 30, (source, 0))


def status(target: Target, *parts: bytes) -> int:
    """Sends the parts; returns the response's status code, or 0 if there is no response."""
    answer = b""
    with connect(target) as line, suppress(OSError):
        with suppress(OSError):
            for part in parts:
                line.sendall(part)
        while data := line.recv(65536):
            answer += data
            if b"\r\n\r\n" in answer:
                break
    return int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def at_once(count: int, act: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return [found.result() for found in [pool.submit(act) for _ in range(count)]]


@contextmanager
def watched(target: Target) -> Iterator[list[float]]:
    """Memory of the API process in MiB, sampled every 20 ms while the context is open."""
    seen, stop = [target.api_mib], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            seen.append(target.api_mib)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


HEADS = {  # name -> allowed statuses, parts; the key may be checked before or after trailers
    "one header of 60 MB": ({431}, [HEAD, b"X: ", *[b"a" * MIB] * 60]),
    "a million headers": ({431}, [HEAD, b"a:\r\n" * 1_000_000]),
    "a target of 60 MB": ({414}, [b"GET /", *[b"a" * MIB] * 60]),
    "a million trailers": (
        {401, 431},
        [b"POST /v1/videos HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a:\r\n" * 1_000_000],
    ),
}


QUICK = "a million headers"


@pytest.mark.parametrize(
    "name", [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in HEADS]
)
def test_endless_heads(target: Target, name: str) -> None:
    expected, parts = HEADS[name]
    with target.bystander() as seen:
        for _ in range(3):
            assert set(at_once(10, lambda: status(target, *parts))) <= expected
    target.assert_unnoticed(seen)
    target.assert_memory_returns()


@pytest.mark.slow
def test_chunks_of_a_byte_each(target: Target) -> None:
    head = f"POST /v1/videos HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ATTACKER}\r\n".encode()
    body = b"1\r\na\r\n" * 1_000_000
    with target.bystander() as seen:
        found = at_once(10, lambda: status(target, head + b"Transfer-Encoding: chunked\r\n\r\n", body))
        assert set(found) == {400}
    target.assert_unnoticed(seen)
    target.assert_memory_returns()


@pytest.mark.slow
def test_connections_that_say_nothing_or_little(target: Target) -> None:
    beginnings = (b"", HEAD, b"POST /v1/videos HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{")
    with ExitStack() as stack, target.bystander() as seen:
        lines = [stack.enter_context(connect(target)) for _ in range(1000)]
        for n, line in enumerate(lines):
            with suppress(OSError):
                line.sendall(beginnings[n % 3])
        until = time.monotonic() + 3
        while time.monotonic() < until:
            for line in lines[1:256:3]:
                with suppress(OSError):
                    line.sendall(b"X: a\r\n")
            time.sleep(0.1)
        connections = psutil.Process(target.process.pid).net_connections()
        held = sum(
            1 for one in connections if one.status == "ESTABLISHED" and one.raddr and one.raddr[0] == "127.0.0.2"
        )
        assert held <= 256
    target.assert_unnoticed(seen)
    target.assert_memory_returns()


@pytest.mark.slow
def test_it_stops_beside_all_of_them(tmp_path: Path) -> None:
    with attacked(tmp_path) as target, ExitStack() as stack:
        path = uploaded(target)
        key = f"Authorization: Bearer {ATTACKER}\r\n"
        beginnings = (
            "",
            "GET /",
            f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n",
            f"POST /v1/videos HTTP/1.1\r\nHost: a\r\n{key}Content-Length: 1000000\r\n\r\n{{",
            "POST /v1/videos HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{",
        )
        for n in range(200):
            stack.enter_context(connect(target)).sendall(beginnings[n % 5].encode())
        time.sleep(1)
        target.assert_stops()
        assert "ASGI" not in target.log_text() and "Traceback" not in target.log_text()


def uploaded(target: Target) -> str:
    """The path of a file of 64 MiB."""
    headers = {"authorization": f"Bearer {ATTACKER}", "content-type": "video/mp4", "x-fal-file-name": "a.mp4"}
    put = requests.post(f"{target.url}/fal/files/upload", data=bytes(64 * MIB), headers=headers, timeout=60)
    return str(put.json()["access_url"].split(target.address)[1])


@pytest.mark.slow
def test_connections_that_say_nothing_or_little_are_cut(target: Target) -> None:
    beginnings = (b"", b"G", HEAD)
    with ExitStack() as stack:
        lines = [stack.enter_context(connect(target)) for _ in range(90)]
        for n, line in enumerate(lines):
            line.sendall(beginnings[n % 3])
            line.settimeout(pace.seconds(15))
        for n, line in enumerate(lines):
            answer = line.recv(1000)
            assert answer.startswith(b"HTTP/1.1 408 ") if beginnings[n % 3] else not answer


def large(path: str, first: dict[str, str], last: dict[str, str], headers: str = "") -> list[bytes]:
    """The parts of a request whose JSON body of LARGE bytes has the members of `first`, an image and the members of
    `last`."""
    before, after = json.dumps(first)[:-1].encode() + b', "init_image": "', json.dumps({"": "", **last})[6:].encode()
    if not first:
        before = before.replace(b", ", b"", 1)
    size = LARGE - len(before) - len(after) - 1
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{headers}"
    return [
        f"{head}Content-Length: {LARGE}\r\n\r\n".encode() + before,
        *[b"A" * MIB] * (size // MIB),
        b"A" * (size % MIB) + b'"' + after,
    ]


STRANGERS = {
    "no key": (MODELSLAB, {"prompt": "a"}, {}, ""),
    "a wrong key at the beginning": (MODELSLAB, {"key": "wrong"}, {}, ""),
    "a wrong key at the end": (MODELSLAB, {}, {"key": "wrong"}, ""),
    "a wrong key in a header": (MODELSLAB, {}, {}, "Authorization: Bearer wrong\r\n"),
    "OpenAI": ("/v1/videos", {}, {}, ""),
    "files": ("/v1/files", {}, {}, ""),
    "fal": ("/run/fal-ai/cogvideox-5b", {}, {}, ""),
    "fal's storage": ("/files/upload", {}, {}, ""),
    "Segmind": ("/v1/cog-video-5b-t2v", {}, {}, ""),
    "Zhipu": ("/api/paas/v4/videos/generations", {}, {}, ""),
    "Replicate": ("/v1/predictions", {}, {}, ""),
    "nothing": ("/health/live", {}, {}, ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STRANGERS)
def test_ten_large_bodies_without_a_key(target: Target, name: str) -> None:
    parts = large(*STRANGERS[name])
    with watched(target) as mib, target.bystander() as seen:
        found = set(at_once(10, lambda: status(target, *parts)))
    assert found <= {200, 401, 404, 405, 429}, found  # ModelsLab refuses with a 200
    assert max(mib) < mib[0] + LEFT_BEHIND, f"{max(mib):.0f} MiB, {mib[0]:.0f} before"
    target.assert_unnoticed(seen)
    target.assert_memory_returns()


@pytest.mark.slow
def test_ten_large_bodies_of_one_key(target: Target) -> None:
    """At most two bodies are in memory at a time; each body's image is refused."""
    parts = large(MODELSLAB, {"prompt": "a", "model_id": "cogvideox"}, {"key": ATTACKER})
    with watched(target) as mib, target.bystander() as seen:
        found = at_once(10, lambda: status(target, *parts))
    assert set(found) <= {200, 429}, found
    assert max(mib) < mib[0] + 1024
    target.assert_unnoticed(seen)
    target.assert_memory_returns()


@pytest.mark.slow
def test_two_large_bodies_without_a_key(target: Target) -> None:
    parts = large(*STRANGERS["no key"])
    with watched(target) as mib, target.bystander() as seen:
        assert set(at_once(2, lambda: status(target, *parts))) == {200}
    assert max(mib) < mib[0] + LEFT_BEHIND, f"{max(mib):.0f} MiB, {mib[0]:.0f} before"
    target.assert_unnoticed(seen)


def test_a_key_behind_a_large_image_is_found(target: Target) -> None:
    body = {"model_id": "cogvideox", "prompt": "a", "init_image": "data:image/png;base64," + "A" * 5 * MIB}
    for key, expected in ((ATTACKER, "init_image"), ("wrong", "Invalid API key")):
        answer = requests.post(f"{target.url}{MODELSLAB}", json={**body, "key": key}, timeout=60)
        assert expected in answer.json()["message"]


@pytest.mark.slow
def test_answers_that_nobody_reads(target: Target) -> None:
    path = uploaded(target)
    with ExitStack() as stack, watched(target) as mib, target.bystander() as seen:
        for _ in range(100):
            line = stack.enter_context(connect(target))
            line.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        time.sleep(3)
    assert max(mib) < mib[0] + LEFT_BEHIND, f"{max(mib):.0f} MiB, {mib[0]:.0f} before"
    target.assert_unnoticed(seen)
    target.assert_memory_returns()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="no prlimit")
def test_more_connections_than_files(tmp_path: Path) -> None:
    """The limit on connections leaves enough file descriptors for everything else. Each new connection beyond the limit
    closes the connection that has been idle longest."""
    with attacked(tmp_path, files=1000) as target, ExitStack() as stack:
        process = psutil.Process(target.process.pid)
        with target.bystander() as seen:
            for _ in range(800):
                stack.enter_context(connect(target))
                time.sleep(0.005)  # a connection in the middle of its first request could count as idle
            begun = process.cpu_times()
            time.sleep(2)
            ended = process.cpu_times()
        assert ended.user + ended.system - begun.user - begun.system < 1.5, "the API process uses CPU while idle"
        target.assert_unnoticed(seen)
        assert "the limit of open files" in target.log_text()
        target.assert_stops()


def test_the_log_is_no_longer_than_before(target: Target) -> None:
    before = len(target.log_text())
    for _ in range(200):
        status(target, b"GET / HTTP/1.1\r\n\r\n")
    assert len(target.log_text()) - before < 2000
    assert "Traceback" not in target.log_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl_offers_http_2(target: Target) -> None:
    command = ["curl", "-s", "--http2", "-H", f"Authorization: Bearer {ATTACKER}", f"{target.url}/v1/videos"]
    done = subprocess.run([*command, "--json", '{"prompt": "steps=1 sleep=0"}'], capture_output=True, timeout=60)
    assert json.loads(done.stdout)["prompt"] == "steps=1 sleep=0"


def test_java_offers_http_2(target: Target) -> None:
    """`Upgrade: h2c` is ignored; the request and its body are handled as HTTP/1.1."""
    body = json.dumps({"prompt": "steps=1 sleep=0"}).encode()
    head = (
        f"POST /v1/videos HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: {len(body)}\r\n"
        f"Host: {target.address}\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
        "Upgrade: h2c\r\nUser-Agent: Java-http-client/21.0.5\r\n"
        f"Authorization: Bearer {ATTACKER}\r\nContent-Type: application/json\r\n\r\n"
    )
    with connect(target) as line:
        line.sendall(head.encode())
        line.sendall(body)
        answer = line.recv(65536)
        while not answer.endswith(b"}"):  # the head may arrive before the body
            answer += (more := line.recv(65536))
            assert more, answer
    assert answer.startswith(b"HTTP/1.1 200 ") and b'"prompt":"steps=1 sleep=0"' in answer, answer
