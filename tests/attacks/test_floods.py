"""Floods of small requests on many connections: status calls, wrong keys, unknown URLs, pipelined or one at a time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.rigs.attacks.rig import ATTACKER, Target, attacked

pytestmark = pytest.mark.slow
CONNECTIONS = 150
SECONDS = 4.0
TOGETHER = 20  # requests sent before a response is read

Ask = Callable[[Target, str], str]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with attacked(tmp_path_factory.mktemp("floods")) as target:
        yield target


def get(path: str, key: str = ATTACKER) -> str:
    return f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n"


FLOODS: dict[str, tuple[Ask, int]] = {  # name -> request, number of requests sent before a response is read
    "status calls": (lambda target, job: get(f"/v1/videos/{job}"), 1),
    "status calls in one go": (lambda target, job: get(f"/v1/videos/{job}"), TOGETHER),
    "wrong keys": (lambda target, job: get("/v1/videos", "wrong:key"), 1),
    "wrong keys in one go": (lambda target, job: get("/v1/videos", "wrong:key"), TOGETHER),
    "no such page": (lambda target, job: get("/nowhere"), TOGETHER),
}


@pytest.mark.parametrize("name", FLOODS)
def test_nobody_else_waits(target: Target, name: str) -> None:
    ask, together = FLOODS[name]
    with target.as_attacker() as session:
        job = session.post(f"{target.url}/v1/videos", json={"prompt": "steps=1 sleep=0"}, timeout=60).json()["id"]
    data, stop, answers = ask(target, job).encode() * together, threading.Event(), list[int]()
    host, port = target.address.split(":")

    def flood() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 60) as connection:
                connection.settimeout(60)
                while not stop.is_set():
                    connection.sendall(data)
                    left = together
                    while left > 0:
                        if not (got := connection.recv(2**20)):
                            break
                        left -= (here := got.count(b"HTTP/1.1 "))
                        answers.append(here)

    threads = [threading.Thread(target=flood) for _ in range(CONNECTIONS)]
    with target.bystander() as seen:
        for thread in threads:
            thread.start()
        stop.wait(SECONDS)
        stop.set()
        for thread in threads:
            thread.join()
    print(f"{name}: {sum(answers)} answers, {seen}")  # noqa: T201
    assert sum(answers) > 100
    target.assert_unnoticed(seen)


def test_it_is_over_afterwards(target: Target) -> None:
    target.assert_memory_returns()
    assert len(target.log_text()) < 2**20
    target.assert_stops()
