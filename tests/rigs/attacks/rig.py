"""A real server under attack, and measurements of the effect on other clients.

The server runs with the fake engine in a separate process and has two keys. Bystanders are measured once without and
once with the attack, in the same run, so that a slow or busy machine affects both.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

from tests.rigs import pace
from tests.rigs.clients.running import environment, free_port
from tests.rigs.house import checkpoint

ATTACKER = "mallory:secret"
BYSTANDER = "bob:secret"
# Seconds by which an attack may delay other clients. `make attacks` runs one attack at a time with the strict limit;
# when tests run in parallel on the same cores, the looser limit only notices a standstill.
NOTICEABLE = 0.5 if os.environ.get("STRICT_ATTACKS") else 4.0
LEFT_BEHIND = 100.0  # MiB of memory that the API process may keep after an attack, in addition to its memory before
QUIET_SECONDS = 3.0  # duration of the measurement without an attack
START_SECONDS = 60.0
STOP_MARGIN = 10.0  # seconds that the process may take beyond the drain time


@dataclass
class Seen:
    """A bystander's measurements: the longest health check, small job and small image, in seconds."""

    health: float = 0.0
    job: float = 0.0
    image: float = 0.0
    healths: int = 0
    jobs: int = 0
    images: int = 0
    errors: list[str] = field(default_factory=list)


class Target:
    """The attacked server. `address` is its `host:port`."""

    def __init__(self, address: str, process: subprocess.Popen[bytes], log: Path, drain_seconds: float) -> None:
        self.address = address
        self.process = process
        self.log = log
        self.drain_seconds = drain_seconds
        self._quiet: Seen | None = None
        self._quiet_mib = 0.0

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def api_mib(self) -> float:
        """Resident memory of the API process."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    @contextmanager
    def bystander(self, *more: str) -> Iterator[Seen]:
        """Measures, during the block, how the attack affects the client with the other key; the result is complete
        after the block. The first call also measures this client without an attack. With "images" in `more`, small
        images are sent too."""
        if self._quiet is None:
            self.measure_quiet()
        with self._bystander(*more) as seen:
            yield seen

    @contextmanager
    def _bystander(self, *more: str) -> Iterator[Seen]:
        seen = Seen()
        program = [sys.executable, "-m", "tests.rigs.attacks.bystander", self.address, BYSTANDER, *more]
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdin is not None and other.stdout is not None
            other.stdout.readline()  # the bystander has started
            try:
                yield seen
            finally:
                other.stdin.close()
                said = other.stdout.read()
        for name, value in json.loads(said).items():
            setattr(seen, name, value)

    @contextmanager
    def as_attacker(self) -> Iterator[requests.Session]:
        """A session with the attacker's key, which most clouds read from these headers."""
        with requests.Session() as session:
            session.trust_env = False
            session.headers.update({"authorization": f"Bearer {ATTACKER}", "x-api-key": ATTACKER, "key": ATTACKER})
            yield session

    def measure_quiet(self) -> Seen:
        """Measures a bystander and the API process's memory without an attack."""
        with self._bystander("images") as seen:
            time.sleep(QUIET_SECONDS)
        self._quiet, self._quiet_mib = seen, self.api_mib
        assert seen.jobs and not seen.errors, seen
        return seen

    def assert_unnoticed(self, seen: Seen) -> None:
        """The bystander must have waited at most NOTICEABLE seconds longer than without the attack, and must have had
        no errors."""
        assert self._quiet is not None
        margin = pace.seconds(NOTICEABLE)
        assert not seen.errors, seen.errors[:5]
        assert seen.jobs and seen.healths, f"the bystander got nothing done: {seen}"
        assert seen.health <= self._quiet.health + margin, f"{seen} beside {self._quiet} in peace"
        assert seen.job <= self._quiet.job + margin, f"{seen} beside {self._quiet} in peace"
        assert seen.image <= self._quiet.image + margin, f"{seen} beside {self._quiet} in peace"

    def assert_memory_returns(self, within: float = 20.0) -> None:
        """After at most `within` seconds, the API process must use less than LEFT_BEHIND MiB more than before the
        attack."""
        until = time.monotonic() + pace.seconds(within)
        while self.api_mib > self._quiet_mib + LEFT_BEHIND:
            assert time.monotonic() < until, f"{self.api_mib:.0f} MiB, {self._quiet_mib:.0f} before the attack"
            time.sleep(0.2)

    def assert_stops(self) -> float:
        """Sends SIGTERM, which must end the server within its drain time; returns the seconds it took."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(self.drain_seconds + pace.seconds(STOP_MARGIN))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running {time.monotonic() - begun:.0f} s after SIGTERM") from None
        return time.monotonic() - begun


@contextmanager
def attacked(
    folder: Path,
    *,
    drain_seconds: float = 1.0,
    program: str = "tests.rigs.clients.stand_in",
    files: int | None = None,
    **settings: Any,
) -> Iterator[Target]:
    """Runs a server on loopback with the keys ATTACKER and BYSTANDER. `program` is the module that runs the server, and
    `files` is its limit of open files."""
    port = free_port()
    models = f"{checkpoint(folder / 'tiny')},{checkpoint(folder / 'tiny-i2v', image=True)}"
    given = {
        "port": port,
        "model": models,
        "models_dir": folder / "models",
        "data_dir": folder / "data",
        "device": "cpu",
        "min_free_mb": 0,
        "drain_seconds": drain_seconds,
        "api_keys": f"{ATTACKER},{BYSTANDER}",
        **settings,
    }
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*(["prlimit", f"--nofile={files}:{files}"] if files else []), sys.executable, "-m", program],
            env=environment({name: str(value) for name, value in given.items()}),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        target = Target(f"127.0.0.1:{port}", process, log, drain_seconds)
        try:
            _await_ready(target)
            yield target
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _await_ready(target: Target) -> None:
    until = time.monotonic() + pace.seconds(START_SECONDS)
    while time.monotonic() < until and target.process.poll() is None:
        try:
            with requests.Session() as session:
                session.trust_env = False
                if session.get(f"{target.url}/health/ready", timeout=5).status_code == 200:
                    return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the server did not become ready:\n{target.log_text()[-3000:]}")
