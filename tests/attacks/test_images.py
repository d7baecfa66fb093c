"""One key sends images that take very long to decode, while another key sends small images."""

from __future__ import annotations

import base64
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

from tests.rigs import pace
from tests.rigs.attacks import images
from tests.rigs.attacks.rig import ATTACKER, Target, attacked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
AT_ONCE = 8


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("server")) as running:
        yield running


def send(target: Target, image: bytes | str) -> requests.Response:
    text = image if isinstance(image, str) else f"data:image/png;base64,{base64.b64encode(image).decode()}"
    with requests.Session() as session:
        session.trust_env = False
        return session.post(
            f"{target.url}/v1/videos",
            json={"prompt": "steps=1 sleep=0", "input_reference": text},
            headers={"authorization": f"Bearer {ATTACKER}"},
            timeout=300,
        )


HOSTILE: dict[str, tuple[Callable[[], bytes | str], int, int]] = {  # name -> image, number of requests, expected status
    "hundreds of scans": (lambda: images.many_scans(4000, 4000, 400), 8, 400),
    "all the scans that are accepted": (lambda: images.many_scans(8000, 5000, 20), 5, 200),
    "scans of a middling size": (lambda: images.many_scans(2800, 2800, 100), 5, 200),
    "half a million empty chunks": (lambda: images.empty_chunks(500_000), 8, 400),
    "chunks within the limit": (lambda: images.empty_chunks(9_000), 5, 200),
    "flat, of forty million pixels": (lambda: images.flat_png(8000, 5000, colour=6), 5, 200),
    "interlaced, of sixteen bits": (lambda: images.flat_png(8000, 5000, colour=6, depth=16, interlaced=True), 5, 200),
    "a WebP of forty million pixels": (lambda: images.flat_webp(8000, 5000), 5, 200),
    "a million segments": (lambda: images.tiny_segments(1_000_000), 8, 400),
    "a GIF of comments": (lambda: images.gif_of(1, 20_000), 8, 400),
    "a GIF of many frames": (lambda: images.gif_of(100_000), 5, 200),
    "tags over tags": (lambda: images.exif_of(5_400, 64_000), 5, 200),
    "a colour profile that unfolds to a gigabyte": (lambda: images.unfolding_profile(1024), 8, 400),
    "texts that unfold to 64 MiB": (lambda: images.unfolding_texts(63), 5, 200),
    "texts that unfold to gigabytes": (lambda: images.unfolding_texts(9_000), 8, 400),
    "tags of a PNG by the thousand": (lambda: images.tags_png(65_535), 5, 200),
    "percent escapes": (lambda: "data:image/png," + "%41" * 10_000_000, 4, 400),
    "white space in base64": (lambda: "data:image/png;base64," + "A " * 15_000_000, 4, 400),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_nobody_else_waits(target: Target, name: str) -> None:
    make, count, status = HOSTILE[name]
    image = make()
    with target.bystander("images") as seen, ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: send(target, image), range(count)))
        time.sleep(1)
    print(f"{name}: {seen}")  # noqa: T201
    assert {answer.status_code for answer in answers} <= {status, 429}, answers[0].text[:300]
    assert seen.images
    target.assert_unnoticed(seen)


def test_the_memory_comes_back(target: Target) -> None:
    target.assert_memory_returns()
    inspectors = [
        child for child in psutil.Process(target.process.pid).children() if "inspector" in str(child.cmdline())
    ]
    assert sum(child.memory_info().rss for child in inspectors) < 200 * 2**20


def test_a_stop_ends_the_decoders(tmp_path: Path) -> None:
    image = images.flat_png(8000, 5000, colour=6, depth=16, interlaced=True)
    with attacked(tmp_path) as target:
        senders = [threading.Thread(target=_ignoring, args=(target, image)) for _ in range(8)]
        for sender in senders:
            sender.start()
        server = psutil.Process(target.process.pid)
        until = time.monotonic() + pace.seconds(30)
        while not (at_work := [one for one in server.children() if "inspector" in str(one.cmdline())]):
            assert time.monotonic() < until
            time.sleep(0.01)
        for one in at_work:  # simulates a decoder that never finishes
            os.kill(one.pid, signal.SIGSTOP)
        target.assert_stops()
        assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in at_work)
        for sender in senders:
            sender.join()


def _ignoring(target: Target, image: bytes) -> None:
    with suppress(requests.RequestException):
        send(target, image)
