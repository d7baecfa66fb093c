"""One key sends image URLs that stall, because their DNS names never resolve or their hosts are very slow. The server
still fetches another key's URLs promptly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import requests

from tests.rigs import pace
from tests.rigs.attacks.hosts import Answer, drip, drip_head, hang, host, text
from tests.rigs.attacks.rig import ATTACKER, BYSTANDER, NOTICEABLE, Target, attacked

pytestmark = pytest.mark.slow
PATH = "/v2/cog-video-5b-i2v"
SECONDS = 4.0  # for each attack


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("names")
    with attacked(folder, program="tests.rigs.attacks.dead_names", allow_private_urls=True, max_queue=1000) as target:
        yield target


def fetch(target: Target, url: str, key: str, timeout: float = 60.0) -> int:
    """Sends a job with that image URL; returns the response's status code."""
    with requests.Session() as session:
        session.trust_env = False
        body = {"prompt": "steps=1 sleep=0", "image": url}
        return session.post(f"{target.url}{PATH}", json=body, headers={"x-api-key": key}, timeout=timeout).status_code


def longest_fetch(target: Target, url: str, seconds: float) -> float:
    """For `seconds`, sends image URLs with another key; returns the duration of the longest fetch, in seconds. The host
    returns no image, so that no job starts."""
    longest, until = 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.monotonic()
        assert fetch(target, url, BYSTANDER) == 400
        longest = max(longest, time.monotonic() - begun)
    return longest


@contextmanager
def attack(target: Target, urls: list[str]) -> Iterator[None]:
    """Requests all URLs at once with the attacker's key; each call times out after SECONDS + 2 seconds."""

    def send(url: str) -> None:
        with suppress(requests.RequestException):
            fetch(target, url, ATTACKER, timeout=SECONDS + 2)

    threads = [threading.Thread(target=send, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    yield
    for thread in threads:
        thread.join()


def attack_unnoticed(target: Target, urls: list[str]) -> None:
    with host(text) as good:
        mine = f"http://localhost:{good}/a.png"  # a host name, so that the fetch needs a DNS lookup
        quiet = longest_fetch(target, mine, 1.0)
        with target.bystander() as seen, attack(target, urls):
            longest = longest_fetch(target, mine, SECONDS)
    assert longest <= quiet + pace.seconds(NOTICEABLE), f"{longest:.2f} s, without the attack {quiet:.2f} s"
    target.assert_unnoticed(seen)


def test_forty_names_nobody_answers_for(target: Target) -> None:
    attack_unnoticed(target, [f"http://n{n}.dead/a.png" for n in range(40)])


@pytest.mark.parametrize("answer", [drip, drip_head, hang])
def test_a_hundred_hosts_that_drip(target: Target, answer: Answer) -> None:
    with host(answer) as slow:
        attack_unnoticed(target, [f"http://127.0.0.1:{slow}/{n}.png" for n in range(100)])


def test_the_server_stops_all_the_same(target: Target) -> None:
    """Threads waiting for a DNS lookup do not delay the shutdown."""
    with attack(target, [f"http://m{n}.dead/a.png" for n in range(10)]):
        target.assert_stops()
