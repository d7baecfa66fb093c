"""The cost of the limits on client requests: our protocol on h11 against uvicorn's on httptools, in one run.

    python -m benchmarks.protocols                            200 pollers, 8 s per phase
    python -m benchmarks.protocols --pollers 20 --seconds 2

Two servers with the same app are polled one after the other, in the order ours, httptools, httptools, ours, for the
status of a queued job and for `/health/live`. Each poller sends its next request as soon as it gets a response. The
workers are stopped. The figure to compare is the API process's CPU time per request, which other processes hardly
affect.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks import report
from benchmarks.client import KEY, Asked, Line, once
from benchmarks.http_vs_plain import Failed, _end, _start

KINDS = ("ours", "httptools")
ORDER = ("ours", "httptools", "httptools", "ours")
JOB = {"prompt": "a red circle moves left", "num_inference_steps": 50}
READY_SECONDS = 300.0


@dataclass
class Measured:
    requests: int = 0
    errors: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    delays: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "errors": self.errors,
            "cpu_ms_a_request": 1000 * self.cpu_seconds / self.requests,
            "a_second": self.requests / self.wall_seconds,
            "p50_seconds": sorted(self.delays)[len(self.delays) // 2],
        }


@contextlib.contextmanager
def running(kind: str, folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """The port and the process of a server that is ready and whose worker has been stopped."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = {"PORT": port, "DATA_DIR": folder / "data", "DEVICE": "cpu", "MODEL": "demo", "API_KEYS": KEY}
    (folder / ".env").write_text("".join(f"COGVIDEOX_{name}={value}\n" for name, value in settings.items()))
    with (folder / "log").open("wb") as log:
        process = _start(
            [sys.executable, "-m", "benchmarks.protocols", "--serve", kind], folder, stdout=log, stderr=log
        )
        try:
            api = psutil.Process(process.pid)
            uvloop.run(_ready(port, api))
            for worker in api.children():
                worker.suspend()
            yield port, api
            for worker in api.children():
                worker.resume()
        finally:
            _end(process)


async def _ready(port: int, api: psutil.Process) -> None:
    end = time.monotonic() + READY_SECONDS
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if (await once(port, "GET", "/health/live"))[0] == 200:
                return
        if not api.is_running() or time.monotonic() > end:
            raise Failed("the server did not start")
        await asyncio.sleep(0.1)


async def polled(port: int, path: str, pollers: int, seconds: float) -> Asked:
    asked, end = Asked(), time.perf_counter() + seconds

    async def poll() -> None:
        line = Line(port)
        while (begun := time.perf_counter()) < end:
            await line.timed(begun, asked, "GET", path)
        line.close()

    await asyncio.gather(*(poll() for _ in range(pollers)))
    return asked


def measure(port: int, api: psutil.Process, path: str, pollers: int, seconds: float, into: Measured) -> None:
    before, begun = api.cpu_times(), time.perf_counter()
    asked = uvloop.run(polled(port, path, pollers, seconds))
    after = api.cpu_times()
    into.cpu_seconds += after.user + after.system - before.user - before.system
    into.wall_seconds += time.perf_counter() - begun
    into.requests += len(asked.seconds)
    into.errors += asked.wrong.total()
    into.delays += asked.seconds


def run(pollers: int, seconds: float) -> dict[str, Any]:
    found: dict[str, dict[str, Measured]] = {}
    with tempfile.TemporaryDirectory(prefix="protocols-") as name, contextlib.ExitStack() as stack:
        servers = {kind: stack.enter_context(running(kind, Path(name) / kind)) for kind in KINDS}
        ids = {}
        for kind, (port, _) in servers.items():
            ids[kind] = json.loads(uvloop.run(once(port, "POST", "/v1/videos", JOB))[1])["id"]
        for what in ("status", "live"):
            found[what] = {kind: Measured() for kind in KINDS}
            for kind in ORDER:
                path = f"/v1/videos/{ids[kind]}" if what == "status" else "/health/live"
                measure(*servers[kind], path, pollers, seconds, found[what][kind])
    return {what: {kind: one.summary() for kind, one in kinds.items()} for what, kinds in found.items()}


def row(result: dict[str, Any]) -> dict[str, str]:
    cells = {"date": result["date"], "device": f"CPU: {result['machine']['cpu']}, {result['machine']['cores']} cores"}
    for what, kinds in result["found"].items():
        ours, other = (kinds[kind] for kind in KINDS)
        times = f"{ours['cpu_ms_a_request']:.3f} / {other['cpu_ms_a_request']:.3f}"
        cells |= {
            f"{what}: CPU ms a request, ours / httptools": times,
            f"{what}: ratio": report.ratio(ours["cpu_ms_a_request"] / other["cpu_ms_a_request"]),
            f"{what}: requests a second": f"{ours['a_second']:.0f} / {other['a_second']:.0f}",
        }
    return {**cells, "errors": str(sum(one["errors"] for kinds in result["found"].values() for one in kinds.values()))}


def serve(kind: str) -> None:
    import uvicorn

    from server.app import create_app
    from server.serve import serve as ours
    from server.settings import Settings

    settings = Settings.load()
    if kind == "ours":
        ours(settings)
    else:
        uvicorn.run(
            create_app(settings), port=settings.port, http="httptools", ws="none", access_log=False, log_level="warning"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.protocols", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds per phase")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve:
        serve(given.serve)
        return 0
    machine = report.machine()
    try:
        found = run(given.pollers, given.seconds)
    except Failed as e:
        print(e, file=sys.stderr)
        return 1
    result = {
        "what": "the CPU time of a request: our protocol on h11 against uvicorn's on httptools",
        "date": report.today(),
        "machine": machine,
        "versions": report.versions(),
        "pollers": given.pollers,
        "found": found,
    }
    path = report.save("protocols", "cpu", result, row(result))
    print(report.table(row(result)), end="")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
