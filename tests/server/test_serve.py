"""The server as a process: it starts, is told to stop, and leaves nobody behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import structlog

from server.errors import AddressInUse
from server.jobs.job import Status
from server.jobs.store import JobStore
from server.serve import Sink, bind
from tests import pace
from tests.server.house import ENGINE, checkpoint, until

ROOT = Path(__file__).resolve().parents[2]
MAIN = f"""
from server.serve import serve
from server.settings import Settings
if __name__ == "__main__":
    serve(Settings.load(), engine={ENGINE!r}, on_ready=lambda url: print(url, flush=True))
"""


@contextmanager
def server(tmp: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    script = tmp / "main.py"
    script.write_text(MAIN)
    given = {"DATA_DIR": tmp / "data", "MODEL": checkpoint(tmp / "tiny"), "PORT": 0, "DEVICE": "cpu", "MIN_FREE_MB": 0}
    environ = {f"COGVIDEOX_{name}": str(value) for name, value in given.items()}
    with (tmp / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, **environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def run(url: str, prompt: str = "steps=100000 sleep=0.06") -> str:
    """Queues a job on the server at `url`, by default one that takes more than an hour."""
    body = json.dumps({"prompt": prompt, "use_rife": False}).encode()
    request = urllib.request.Request(
        f"{url}/queue/fal-ai/cogvideox-5b", body, {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request) as answer:
        return str(answer.headers["x-fal-request-id"])


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_ends_soon_and_wholly_and_keeps_the_job(tmp_path: Path, ending: signal.Signals) -> None:
    with server(tmp_path) as (process, url):
        job_id = run(url)
        until(lambda: (tmp_path / "tiny" / "journal").exists())
        (worker,) = workers_of(process)
        process.send_signal(ending)
        code = process.wait(pace.seconds(15))
        assert code == (0 if ending is not signal.SIGKILL else -signal.SIGKILL)
        until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    assert "Traceback" not in (tmp_path / "log").read_text()
    store = JobStore(tmp_path / "data" / "jobs.db")
    job = store.get(job_id)
    assert job is not None and job.deaths == ()
    assert job.status is (Status.RUNNING if ending is signal.SIGKILL else Status.QUEUED)
    store.close()
    if ending is signal.SIGKILL:
        with server(tmp_path):
            until(lambda: (tmp_path / "tiny" / "journal").read_text().count("start") == 2)


@pytest.mark.parametrize(
    ("path", "key", "after"),
    [
        ("/v1/cog-video-5b-t2v", "error", Status.QUEUED),
        ("/run/fal-ai/cogvideox-5b", "detail", Status.CANCELLED),
    ],
)
def test_callers_that_wait_are_told_that_it_stops(tmp_path: Path, path: str, key: str, after: Status) -> None:
    def call() -> tuple[int, dict[str, str]]:
        body = b'{"prompt": "steps=100000 sleep=0.06"}'
        request = urllib.request.Request(f"{url}{path}", body, {"content-type": "application/json"}, method="POST")
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(request, timeout=pace.seconds(60))
        with answer.value as e:
            return e.code, json.load(e)

    with server(tmp_path) as (process, url), ThreadPoolExecutor(1) as caller:
        answer = caller.submit(call)
        until(lambda: (tmp_path / "tiny" / "journal").exists())
        process.send_signal(signal.SIGTERM)
        code, said = answer.result(pace.seconds(10))
        assert process.wait(pace.seconds(15)) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
    store = JobStore(tmp_path / "data" / "jobs.db")
    job_id = re.findall(r"[0-9a-f-]{36}", (tmp_path / "log").read_text())[0]
    job = store.get(job_id)
    store.close()
    assert job is not None and job.status is after
    assert code == 503 and "stopping" in said[key] and (job_id in said[key]) == (after is Status.QUEUED)


def test_lines_that_cannot_be_written_are_dropped() -> None:
    read, write = os.pipe()
    os.close(read)
    with contextlib.suppress(BrokenPipeError), os.fdopen(write, "w", buffering=1) as nobody:
        log = structlog.PrintLoggerFactory(Sink(nobody))()  # type: ignore[arg-type]
        log.info("a line")
    log.info("another, to a closed stream")


def test_port_in_use() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(AddressInUse, match="--port"):
            bind("127.0.0.1", taken.getsockname()[1])
    assert isinstance(taken, socket.socket)
