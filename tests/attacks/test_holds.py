"""Measures how long parsing a large body holds the server's interpreter lock and so delays all other requests."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.rigs import pace
from tests.rigs.attacks import images
from tests.rigs.attacks.lora_headers import of_bytes
from tests.rigs.attacks.rig import Target, attacked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="the CPU time of another thread is read from /proc"),
]
CALLS = 4
TOGETHER = 0.06  # the most CPU seconds per call that holds longer than 0.01 s may take together
HELD = re.compile(r"^held (\d+\.\d+) (.*)", re.MULTILINE)
MIB = 2**20


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("holds"), program="tests.rigs.attacks.holds") as target:
        target.measure_quiet()
        yield target


def of(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def openai(picture: str) -> tuple[str, bytes]:
    return "/v1/videos", json.dumps({"prompt": "steps=1 sleep=0", "input_reference": picture}).encode()


def fal(lora: str) -> tuple[str, bytes]:
    return "/queue/fal-ai/cogvideox-5b", json.dumps({"prompt": "steps=1", "loras": [{"path": lora}]}).encode()


def php(picture: str) -> tuple[str, bytes]:
    path, body = openai(picture)
    return path, body.replace(b"/", rb"\/")


def segmind(file: str) -> tuple[str, bytes]:
    return "/upload-asset", json.dumps({"data_urls": [file]}).encode()


def modelslab(file: str) -> tuple[str, bytes]:
    return "/api/v6/base64_to_url", json.dumps({"base64_string": file}).encode()


HOSTILE: dict[str, Callable[[], tuple[str, bytes]]] = {
    "half a million empty chunks": lambda: openai(of(images.empty_chunks(500_000))),
    "percent escapes": lambda: openai("data:image/png," + "%41" * 10_000_000),
    "white space in base64": lambda: openai("data:image/png;base64," + "A " * 15_000_000),
    "white space that JSON escapes": lambda: openai("data:image/png;base64," + "A\n" * 3_900_000),
    "slashes that PHP escapes": lambda: php("data:image/png;base64," + ("A" * 31 + "/") * 900_000),
    "a long prompt": lambda: ("/v1/videos", json.dumps({"prompt": "A" * 30 * MIB}).encode()),
    "as many values as may be": lambda: ("/v1/videos", b'{"prompt":"%s","a":[%s1]}' % (b"A" * MIB, b"[]," * 49_000)),
    "a LoRA of half a million tensors": lambda: fal(of(of_bytes(500_000, "t{}"))),
    "an asset": lambda: segmind(of(bytes(30 * MIB))),
    "an upload": lambda: modelslab(of(bytes(30 * MIB))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_held_for_long(target: Target, name: str) -> None:
    path, body = HOSTILE[name]()

    def send(_: int) -> int:
        with target.as_attacker() as session:
            headers = {"content-type": "application/json"}
            return session.post(f"{target.url}{path}", data=body, headers=headers, timeout=300).status_code

    seen = len(target.log_text())
    with ThreadPoolExecutor(CALLS) as pool:
        codes = set(pool.map(send, range(CALLS)))
    assert codes & {200, 400}, codes
    held = [(float(seconds), where) for seconds, where in HELD.findall(target.log_text()[seen:])]
    together = sum(seconds for seconds, _ in held) / CALLS
    print(f"{name}: {together:.3f} s a call, {sorted(held)[-2:]}")  # noqa: T201
    assert together < pace.seconds(TOGETHER), sorted(held)[-5:]
    assert requests.get(f"{target.url}/health/live", timeout=60).status_code == 200


def test_the_memory_comes_back_without_a_collection(target: Target) -> None:
    target.assert_memory_returns()
