"""The server runs as a process: it starts, stops on a signal, and leaves no process behind."""

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
from tests.rigs import pace
from tests.rigs.house import ENGINE, checkpoint, until

ROOT = Path(__file__).resolve().parents[2]
MAIN = f"""
from server.serve import serve
from server.settings import Settings
if __name__ == "__main__":
    told = lambda line: print(line, flush=True)
    serve(Settings.load(), engine={ENGINE!r}, on_ready=told, on_broken=told)
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
    """Queues a job on the server at `url` and returns its id; the default job takes more than an hour."""
    body = json.dumps({"prompt": prompt, "use_rife": False}).encode()
    request = urllib.request.Request(
        f"{url}/queue/fal-ai/cogvideox-5b", body, {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request) as answer:
        return str(answer.headers["x-fal-request-id"])


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]


def test_a_worker_that_cannot_start_is_reported_beside_the_banner(tmp_path: Path) -> None:
    (checkpoint(tmp_path / "tiny") / "broken").write_text("import")
    with server(tmp_path) as (process, url):
        assert url.startswith("http://") and process.stdout is not None
        reason = process.stdout.readline()
        assert reason.startswith("the worker on cpu cannot start: ImportError: libcudnn.so.9"), reason
        assert reason.endswith("; run `make setup`\n")


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


def lines_of(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_an_idle_server_says_when_it_starts_and_stops(tmp_path: Path) -> None:
    with server(tmp_path) as (process, url):
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    lines = {str(line["event"]): line for line in lines_of(tmp_path / "log")}
    begun = lines["server started"]
    assert begun["address"] == url and begun["devices"] == ["cpu"] and "tiny" in str(begun["models"])
    assert list(lines)[-2:] == ["server stopping", "server stopped"]


def test_what_the_log_says_of_a_job(tmp_path: Path) -> None:
    with server(tmp_path) as (process, url):
        job_id = run(url, "steps=2 a word that is nobody's business")
        until(lambda: "job succeeded" in (tmp_path / "log").read_text())
        failed = run(url, "steps=3 fail=bad_output")
        until(lambda: "job failed" in (tmp_path / "log").read_text())
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    lines = [line for line in lines_of(tmp_path / "log") if line.get("job_id") == job_id]
    assert [line["event"] for line in lines] == ["job accepted", "job started", "job succeeded"]
    for line in lines:
        assert (line["cloud"], line["endpoint"], line["task"]) == ("fal", "fal-ai/cogvideox-5b", "text-to-video")
    assert (lines[0]["size"], lines[0]["frames"], lines[0]["steps"]) == ("720x480", 17, 50)
    assert "wait_seconds" in lines[1] and lines[1]["attempt"] == 1
    assert float(str(lines[2]["run_seconds"])) > 0 and lines[2]["bytes"] == 1000 and "notes" in lines[2]
    (end,) = [line for line in lines_of(tmp_path / "log") if line["event"] == "job failed"]
    assert (end["job_id"], end["code"], end["cloud"]) == (failed, "bad_output", "fal") and "run_seconds" in end
    assert "business" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(("form", "is_json"), [("text", False), ("json", True), ("auto", True)])
def test_the_form_of_the_log(form: str, is_json: bool) -> None:
    code = f"""
import structlog
from server.serve import set_up_logging
set_up_logging("info", {form!r})
structlog.get_logger().info("begun", port=1)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert "\x1b" not in line
    if is_json:
        assert json.loads(line)["event"] == "begun"
    else:
        assert "begun" in line and "port=1" in line


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
