"""A full queue and many pollers: how fast does the server respond while its worker computes on every core?

    python -m benchmarks.load                                    1,000 jobs, 200 pollers, 30 s per phase, the demo model
    python -m benchmarks.load --jobs 50 --pollers 20 --seconds 5

`cogvideox serve` runs with its own data folder, and its worker makes videos of the demo model all the time. This
process sends the jobs, half through fal's queue and half through OpenAI's API, and then polls their status. In the
first phase each poller sends one request per second; in the second phase it sends the next request as soon as it gets a
response. Then the worker is stopped (SIGSTOP), and the pollers repeat the two phases with the same queue and the same
table on idle cores. A response time starts when the request was due, so if a slow response delays the next request, the
times of both requests include the delay. Response times also include the delays of this process, which shares the cores
with the server. At the end each job is polled once more, the server stops, and the jobs in its table are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks import report
from benchmarks.client import KEY, Asked, Line, once
from benchmarks.http_vs_plain import Failed, _end, _start
from server.jobs.job import Status
from server.jobs.store import JobStore
from weights import catalog

FAL = "/queue/fal-ai/cogvideox-5b"
OPENAI = "/v1/videos"
PROMPT = "a red circle moves left"
SUBMITS_PER_SECOND = 50.0
SUBMITTERS = 8
READY_SECONDS = 300.0


class Server:
    """`cogvideox serve`, and the memory and CPU time that it uses."""

    def __init__(self, model: str, folder: Path) -> None:
        self.data, self.log = folder / "data", folder / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        (folder / ".env").write_text(f"COGVIDEOX_MAX_QUEUE=1000000\nCOGVIDEOX_API_KEYS={KEY}\n")
        command = [sys.executable, "-m", "server.cli", "serve", "--port", str(self.port), "--device", "cpu"]
        command += ["--model", model, "--data-dir", str(self.data)]
        self._output = self.log.open("wb")
        self.process = _start(command, folder, stdout=self._output, stderr=self._output)
        self.api = psutil.Process(self.process.pid)

    async def until_ready(self) -> None:
        end = time.monotonic() + READY_SECONDS
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if (await once(self.port, "GET", "/health/ready"))[0] == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > end:
                raise Failed(f"the server did not start: {self.log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(0.1)

    @property
    def worker(self) -> psutil.Process:
        return next(p for p in self.api.children() if "spawn_main" in " ".join(p.cmdline()))

    def rss(self) -> int:
        return int(self.api.memory_info().rss)

    def cpu_seconds(self) -> dict[str, float]:
        found = {}
        for name, process in (("api", self.api), ("worker", self.worker), ("this", psutil.Process())):
            times = process.cpu_times()
            found[name] = times.user + times.system
        whole = psutil.cpu_times()
        found["everything"] = whole.user + whole.nice + whole.system
        return found

    def stop(self) -> float:
        """Stop the server and return the seconds that the stop took."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        seconds = time.monotonic() - begin
        self.close()
        return seconds

    def close(self) -> None:
        _end(self.process)
        self._output.close()

    def complaints(self) -> list[str]:
        """Error lines of the server's log, shortened."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line[:2000] for line in lines if '"level": "error"' in line or "Traceback" in line][:20]

    def counted(self) -> dict[str, int]:
        """Number of jobs in the server's job table, by status. The server must have stopped."""
        store = JobStore(self.data / "jobs.db")
        try:
            return {status.value: count for status, count in store.counts().items()}
        finally:
            store.close()


def wanted(n: int, steps: int) -> tuple[str, dict[str, Any]]:
    """Path and body of the request for the n-th job."""
    if n % 2:
        return OPENAI, {"prompt": PROMPT, "seed": n, "num_frames": 49, "num_inference_steps": steps, "size": "720x480"}
    return FAL, {"prompt": PROMPT, "seed": n, "num_inference_steps": steps, "use_rife": False, "export_fps": 8}


def status_path(n: int, answer: bytes) -> str:
    body = json.loads(answer)
    return f"{OPENAI}/{body['id']}" if n % 2 else f"{FAL}/requests/{body['request_id']}/status"


async def submitted(port: int, jobs: int, steps: int) -> tuple[list[str], Asked]:
    """Submit the jobs at a steady rate; returns the path of each job's status, in order."""
    asked, paths = Asked(), dict[int, str]()
    begin, numbers = time.perf_counter(), iter(range(jobs))

    async def send() -> None:
        line = Line(port)
        for n in numbers:
            due = begin + n / SUBMITS_PER_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            answer = await line.timed(due, asked, "POST", *wanted(n, steps))
            with contextlib.suppress(ValueError, KeyError):  # counted among the errors
                paths[n] = status_path(n, answer)
        line.close()

    await asyncio.gather(*(send() for _ in range(SUBMITTERS)))
    return [paths[n] for n in sorted(paths)], asked


async def polled(port: int, paths: Sequence[str], seconds: float, every: float) -> dict[str, Any]:
    """Poll each path with one poller, once in `every` seconds; if `every` is 0, immediately after each response."""
    begin, chance, asked = time.perf_counter(), random.Random(0), Asked()

    async def poll(path: str) -> None:
        line = Line(port)
        due = begin + chance.uniform(0, every)
        while due < begin + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await line.timed(due, asked, "GET", path)
            due = due + every if every else time.perf_counter()
        line.close()

    await asyncio.gather(*(poll(path) for path in paths))
    return {**asked.spread(), "a_second": len(asked.seconds) / (time.perf_counter() - begin)}


async def measure(server: Server, jobs: int, pollers: int, seconds: float, steps: int) -> dict[str, Any]:
    await server.until_ready()
    for n in range(2):  # so that modules loaded on first use do not count
        _, first = await once(server.port, "POST", *wanted(n, steps))
        for _ in range(20):
            await once(server.port, "GET", status_path(n, first))
    rss = {"before": server.rss()}
    paths, submits = await submitted(server.port, jobs, steps)
    print(f"submitted: {submits.spread()}", flush=True)
    rss["after_submits"] = server.rss()
    chosen = random.Random(0).sample(paths, min(pollers, len(paths)))

    async def phases() -> dict[str, Any]:
        before, begin = server.cpu_seconds(), time.perf_counter()
        steady = await polled(server.port, chosen, seconds, 1.0)
        took = time.perf_counter() - begin
        spent = {name: (now - before[name]) / took for name, now in server.cpu_seconds().items()}
        spent["others"] = max(0.0, spent.pop("everything") - sum(spent.values()))
        print(f"once a second: {steady['p50']:.4f} {steady['p99']:.4f}, cores {spent}", flush=True)
        closed = await polled(server.port, chosen, seconds / 2, 0.0)
        print(f"at once again: {closed['p50']:.4f} {closed['p99']:.4f}, {closed['a_second']:.0f}/s", flush=True)
        return {"once_a_second": steady, "cores_used": spent, "at_once_again": closed}

    computing = await phases()
    rss["after_computing"] = server.rss()
    health = json.loads((await once(server.port, "GET", "/health"))[1])
    worker = server.worker
    worker.suspend()
    try:
        idle = await phases()
    finally:
        worker.resume()
    rss["after"] = server.rss()
    states: Counter[str] = Counter()
    for path in paths:
        status, answer = await once(server.port, "GET", path)
        states[str(json.loads(answer).get("status")) if status in (200, 202) else f"error {status}"] += 1
    return {
        "jobs_sent": jobs + 2,
        "jobs_accepted": len(paths) + 2,
        "pollers": len(chosen),
        "submit": submits.spread(),
        "computing": computing,
        "idle": idle,
        "ratio_status_p99": computing["once_a_second"]["p99"] / idle["once_a_second"]["p99"],
        "api_rss_bytes": rss,
        "queued_while_computing": health["queue"]["queued"],
        "states_at_the_end": dict(states),
    }


def run(model: str, jobs: int, pollers: int, seconds: float, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        server = Server(model, Path(folder))
        try:
            found = uvloop.run(measure(server, jobs, pollers, seconds, steps))
            found["seconds_to_stop"] = server.stop()
        finally:
            server.close()
        found["jobs_in_the_table"], found["complaints"] = server.counted(), server.complaints()
    table = found["jobs_in_the_table"]
    found["lost"] = found["jobs_accepted"] - sum(table.values()) + table[Status.FAILED] + table[Status.CANCELLED]
    return found


def errors_in(found: Any) -> int:
    if not isinstance(found, dict):
        return 0
    own: dict[str, int] = found.get("errors", {})
    return sum(own.values()) + sum(map(errors_in, found.values()))


def row(result: dict[str, Any]) -> dict[str, str]:
    found = result["found"]
    busy, idle, rss = found["computing"], found["idle"], found["api_rss_bytes"]

    def both(one: dict[str, Any]) -> str:
        return f"{report.seconds(one['p50'])} / {report.seconds(one['p99'])}"

    def closed(one: dict[str, Any]) -> str:
        return f"{one['a_second']:.0f}/s, {both(one)}"

    return {
        "date": result["date"],
        "device": f"CPU: {result['machine']['cpu']}, {result['machine']['cores']} cores",
        "load": f"{found['jobs_accepted']} jobs, {found['pollers']} pollers",
        "submit p50 / p99": both(found["submit"]),
        "status p50 / p99, worker computing": both(busy["once_a_second"]),
        "worker idle": both(idle["once_a_second"]),
        "p99 computing : idle": report.ratio(found["ratio_status_p99"]),
        "all at once again, computing": closed(busy["at_once_again"]),
        "all at once again, idle": closed(idle["at_once_again"]),
        "cores of others meanwhile": " / ".join(f"{one['cores_used']['others']:.2f}" for one in (busy, idle)),
        "RSS of the API before / after": f"{rss['before'] / 2**20:.0f} / {rss['after'] / 2**20:.0f} MiB",
        "errors": str(errors_in(found)),
        "jobs lost": str(found["lost"]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if no job was lost and no request failed."""
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default="demo", help="a checkpoint's name or folder")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds per phase")
    parser.add_argument("--steps", type=int, default=45, help="steps of each job")
    given = parser.parse_args(arguments)
    folder = catalog.find(given.model, catalog.default_models_dir())
    if folder is None:
        print(f"the checkpoint {given.model} is not installed", file=sys.stderr)
        return 2
    machine, begin = report.machine(), time.monotonic()
    name = given.model if given.model in catalog.CATALOG else folder.name
    try:
        found = run(str(folder.resolve()), given.jobs, given.pollers, given.seconds, given.steps)
    except Failed as e:
        print(e, file=sys.stderr)
        return 1
    result = {
        "what": "a full queue and many pollers against one server whose worker computes, on the CPU",
        "date": report.today(),
        "model": name,
        "machine": machine,
        "versions": report.versions(),
        "found": found,
        "seconds": time.monotonic() - begin,
    }
    path = report.save(f"load-{name}", "cpu", result, row(result))
    print(report.table(row(result)), end="")
    print(f"written to {path}")
    return 1 if found["lost"] or errors_in(found) else 0


if __name__ == "__main__":
    sys.exit(main())
